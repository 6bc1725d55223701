"""How a client comes by the shard map, and by each newer one.

* One that opens asks all endpoints that it was given; the first answer counts.
* A node that does not lead a shard says how new its map is. If that is newer than ours it is asked
  for it at once; the refused request does not wait for it. While one is asked, only the promise of
  a still newer map counts. A promise that is not kept keeps nobody from looking elsewhere.
* While a shard finds nobody who leads it, some node is asked now and then, and the endpoints when
  that brings nothing: while a client is idle, all the nodes that it knows may be replaced.

Of each of the last two at most one is under way. A newer map is never forced on a client that is
served: by whatever map it found its way, it found it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kvstore.client.backoff import refusal_backoff, seek_delay_s
from kvstore.client.operations import TIMER_SLACK_S
from kvstore.client.question import ask
from kvstore.client.route import Contact
from kvstore.errors import KVError, ProtocolError, Refused, Unavailable, copy_of
from kvstore.sharding import map_wire
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ShardMapReply, decode_shard_map_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from kvstore.client.cluster import Cluster
    from kvstore.client.link import Link
    from kvstore.ids import NodeId, ShardId

LOOK_INTERVAL_S = 0.1
"""The shortest time between two unasked-for looks at the shard map."""
LOOKS_IN_VAIN_MAX = 5
"""After so many that brought no newer map the endpoints are asked too."""


class MapLearner:
    """Invariant: outside of :meth:`open` and a look there are no links to endpoints."""

    def __init__(self, cluster: Cluster, endpoints: Sequence[str]) -> None:
        self._cluster = cluster
        self._endpoints = endpoints
        self._breaker = cluster.new_breaker()
        """Of the endpoints together."""
        self.endpoint_links: list[Link] = []
        """While they are asked; those that turn out to be nodes of the map go on as such."""
        self._sought = 0
        """The highest version that a node is being asked for, because it said that it has it."""
        self._source: Link | None = None
        """Who is asked for it next."""
        self._fetching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._looks_in_vain = 0

    # -- opening and closing ------------------------------------------------------------------

    async def open(self, deadline: float) -> None:
        """Find a node that answers and learn the map.

        Raises:
            Refused: the nodes that answer want nothing to do with us, or belong elsewhere.
            Unavailable: no endpoint answered before ``deadline`` (the loop's time).
        """
        self.endpoint_links = seeds = [self._cluster.new_link(a) for a in self._endpoints]
        tries = [self._cluster.loop.create_task(self._introduce(seed)) for seed in seeds]
        try:
            async with asyncio.timeout_at(deadline):
                await _first_success(tries)
        except TimeoutError:
            raise _nobody_answers(seeds) from None
        finally:
            await cancel_all(tries)
            self._leave_endpoints()

    async def _introduce(self, seed: Link) -> None:
        """Get the map from one endpoint, however long it takes."""
        backoff = refusal_backoff(self._cluster.rng)
        while True:
            try:
                await seed.opened()
                if self._cluster.shard_map is None:
                    await self.fetch(seed)
            except (Refused, ProtocolError):
                raise
            except KVError as error:
                seed.error = copy_of(error)  # also what a node that was reached has against us
                await asyncio.sleep(backoff.next_s())
            else:
                seed.error = None
                return

    async def close(self) -> None:
        """Ask nobody any more."""
        await cancel_all([task for task in (self._fetching, self._looking) if task is not None])

    # -- somebody has a newer map -------------------------------------------------------------

    def heard_of(self, version: int, link: Link) -> None:
        """The node of ``link`` has the map of ``version``: get it, if it is newer than ours."""
        if version <= max(self._cluster.map_version, self._sought):
            return
        self._sought, self._source = version, link
        if self._fetching is None:
            self._fetching = self._cluster.loop.create_task(self._fetch_newer())

    async def _fetch_newer(self) -> None:
        try:
            while (link := self._source) is not None:
                self._source = None
                with suppress(KVError, TimeoutError):
                    async with asyncio.timeout(self._cluster.options.attempt_timeout_s):
                        await self._ask_one(link)
        finally:
            self._fetching = None
            # Without an answer, or with an older map than was promised (the node lost it in a
            # crash), whoever says next that it has a newer one is asked.
            self._sought = 0

    # -- nobody is known to lead a shard ------------------------------------------------------

    def look_around(self, *, widely: bool = False) -> None:
        """See if somebody has a newer map, or knows who leads; ``widely``: the endpoints too."""
        if widely:
            self._looks_in_vain = LOOKS_IN_VAIN_MAX
        now = self._cluster.loop.time()
        # Whether a newer map is being fetched makes no difference: it may be an empty promise.
        if self._looking is None and now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            self._looking = self._cluster.loop.create_task(self._look())

    async def _look(self) -> None:
        cluster = self._cluster
        before = cluster.map_version
        # All of them, for that begins to connect to them.
        reachable = [link for link in cluster.links.values() if link.contact() is Contact.OPEN]
        asked = [cluster.rng.choice(reachable)] if reachable else []
        timeout_s = cluster.options.attempt_timeout_s
        try:
            if not reachable or self._looks_in_vain >= LOOKS_IN_VAIN_MAX:
                asked += self._turn_to_endpoints()
                timeout_s += cluster.options.dial_timeout_s
            deadline = cluster.loop.time() + timeout_s
            reply = await self._ask_each(asked, deadline, lambda _: cluster.map_version > before)
            if cluster.map_version > before:
                self._looks_in_vain = 0
                self._breaker.succeeded()
            else:
                self._looks_in_vain += LOOKS_IN_VAIN_MAX if reply is None else 1
        finally:
            self._leave_endpoints()
            self._looking = None

    def _turn_to_endpoints(self) -> list[Link]:
        """Links to those that are not connected; not too often."""
        cluster = self._cluster
        if not self._breaker.try_acquire(cluster.loop.time()):
            return []
        self._looks_in_vain = 0
        # Taken for a failure until a newer map has come of it: they may all be up and know no more.
        self._breaker.failed(cluster.loop.time())
        there = {a for link in cluster.links.values() if link.is_open for a in link.addresses}
        self.endpoint_links = [cluster.new_link(a) for a in self._endpoints if a not in there]
        return self.endpoint_links

    def _leave_endpoints(self) -> None:
        links, self.endpoint_links = self.endpoint_links, []
        kept = set(self._cluster.links.values())
        for link in links:
            if link not in kept:
                self._cluster.close_soon(link)

    # -- asking -------------------------------------------------------------------------------

    async def fresh(self, deadline: float, shard: ShardId | None = None) -> dict[ShardId, NodeId]:
        """Learn the map anew, from a node that knows who leads ``shard`` if there is one.

        Returns:
            The leaders as that node knows them.

        Raises:
            Unavailable: no node answered before ``deadline`` (the loop's time).
        """
        cluster = self._cluster
        while True:
            links = cluster.links.values()
            round_ends = cluster.loop.time() + cluster.options.attempt_timeout_s
            reply = await self._ask_each(
                links,
                min(deadline, round_ends),
                lambda reply: shard is None or shard in reply.leaders,
            )
            if reply is not None:
                return reply.leaders
            if cluster.loop.time() + TIMER_SLACK_S >= deadline:
                said = "; ".join(map(reason, links))
                raise Unavailable(f"no node answered before the deadline: {said}")
            self.look_around(widely=True)
            await asyncio.sleep(seek_delay_s(cluster.rng))

    async def _ask_each(
        self,
        links: Iterable[Link],
        deadline: float,
        is_enough: Callable[[ShardMapReply], bool],
    ) -> ShardMapReply | None:
        """The first answer of ``links`` that is enough, else the last; None if there is none."""
        asked = [self._cluster.loop.create_task(self._ask_one(link)) for link in links]
        reply: ShardMapReply | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for answer in asyncio.as_completed(asked):
                    try:
                        reply = await answer
                    except KVError:
                        continue
                    if is_enough(reply):
                        break
        except TimeoutError:
            pass  # what was heard so far has to do
        finally:
            await cancel_all(asked)
        return reply

    async def _ask_one(self, link: Link) -> ShardMapReply:
        await link.opened()
        return await self.fetch(link)

    async def fetch(self, link: Link) -> ShardMapReply:
        """Ask one node, learn from what it says; from an older map than ours, nothing.

        Raises:
            KVError: it refused, or the connection ended.
        """
        cluster = self._cluster
        reply = decode_shard_map_reply(await ask(link, Kind.SHARD_MAP, cluster.next_request()))
        shard_map = map_wire.decode(reply.map)
        cluster.estimate.observe(reply.revision_now, cluster.loop.time())
        if shard_map.version > cluster.map_version:
            cluster.install(shard_map)
        if shard_map.version == cluster.map_version:
            for shard, node in reply.leaders.items():
                if shard < len(cluster.channels):
                    cluster.channels[shard].route.suggest(node)
        return reply


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """End ``tasks``, however they end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first_success(tries: Sequence[asyncio.Task[None]]) -> None:
    """Return when one of ``tries`` has succeeded; raise when all have failed."""
    pending = set(tries)
    error: BaseException | None = None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done:
            error = attempt.exception()
            if error is None:
                return
    assert error is not None
    raise copy_of(error) if isinstance(error, KVError) else error


def _nobody_answers(seeds: Sequence[Link]) -> KVError:
    """What to say when no endpoint led to the map in time."""
    for seed in seeds:
        if isinstance(seed.error, Refused | ProtocolError):
            return copy_of(seed.error)
    said = "; ".join(reason(seed) for seed in seeds)
    return Unavailable(f"no endpoint could be reached: {said}")


def reason(link: Link | None) -> str:
    """Why a node or endpoint could last not be reached."""
    if link is None:
        return "not in the shard map"
    return link.error.message if link.error is not None else f"{link.addresses[0]}: no answer"
