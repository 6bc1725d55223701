"""The cluster as one client knows it: links to nodes, the shard map, a channel per shard.

Any one reachable endpoint is enough: it tells the map, and the map the other nodes'
addresses. The map is asked for again while some shard cannot find its leader.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from kvstore.client.backoff import full_jitter_s, seek_delay_s
from kvstore.client.breaker import CircuitBreaker
from kvstore.client.channel import Channel
from kvstore.client.gate import Gate
from kvstore.client.link import Link
from kvstore.client.operations import TIMER_SLACK_S
from kvstore.client.question import ask
from kvstore.client.route import Contact
from kvstore.client.session import RevisionEstimate
from kvstore.errors import KVError, ProtocolError, Refused, Unavailable, copy_of
from kvstore.ids import ShardId
from kvstore.net.dial import dial
from kvstore.net.limits import NetLimits
from kvstore.sharding import map_wire
from kvstore.wire.hello import Hello, Welcome
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ShardMapReply, decode_shard_map_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.client.options import ClientOptions
    from kvstore.ids import NodeId
    from kvstore.net.connection import ConnectionCallback, FrameConnection, FramesCallback
    from kvstore.sharding.shard_map import ShardMap

REFRESH_INTERVAL_S = 0.1
"""The shortest time between two unasked-for looks at the shard map."""
READ_BUDGET_BYTES = 16 << 20
"""Values asked for at a time, all shards together (:mod:`kvstore.client.read_window`)."""
READ_BUDGET_BYTES_MIN = 1 << 20
"""The same for one shard, of many."""
EAGER_NODES_MAX = 16
"""A cluster of up to so many nodes is connected to at once, a larger one as needed."""
SOFTWARE = "kvstore-python"


class Cluster:
    """Invariant: once opened, there is a channel per shard and a link per node of the map."""

    def __init__(self, endpoints: Sequence[str], options: ClientOptions) -> None:
        self.options = options
        self.rng = random.Random()
        self.gate = Gate(
            operations_max=options.operations_max,
            bytes_max=options.operation_bytes_max,
            waiting_max=options.waiting_max,
        )
        self.channels: list[Channel] = []
        self.shard_map: ShardMap | None = None
        self._endpoints = endpoints
        self.loop = asyncio.get_running_loop()
        self._limits = NetLimits(
            frame_bytes_max=options.frame_bytes_max, outbound_bytes_max=options.outbound_bytes_max
        )
        self._cluster_id = options.cluster_id
        self._links: dict[NodeId, Link] = {}
        self._seeds: list[Link] = []
        self._estimate = RevisionEstimate()
        self._requests = count(1)
        self._refresh: asyncio.Task[None] | None = None
        self._refresh_at = 0.0

    # -- what channels ask --------------------------------------------------------------------

    @property
    def map_version(self) -> int:
        """Of the shard map that requests are routed by."""
        return self.shard_map.version if self.shard_map is not None else 0

    @property
    def read_budget_bytes(self) -> int:
        """What one shard may be asked for at a time."""
        shards = self.shard_map.shards if self.shard_map is not None else 1
        return max(READ_BUDGET_BYTES_MIN, READ_BUDGET_BYTES // shards)

    def contact(self, node: NodeId) -> Contact:
        """How ``node`` can be reached; begins to connect where that may be tried."""
        link = self._links.get(node)
        return Contact.DOWN if link is None else link.contact()

    def link(self, node: NodeId) -> Link:
        """The link to a node of the map."""
        return self._links[node]

    def next_request(self) -> int:
        """A request id that this client has not used."""
        return next(self._requests)

    def new_session_id(self) -> tuple[int, int]:
        """``created`` and ``nonce`` of a new session."""
        return self._estimate.at(self.loop.time()), secrets.randbits(64)

    def why_unreachable(self, shard: ShardId) -> Unavailable | None:
        """Why a request to ``shard`` can be sent nowhere; None if it can."""
        assert self.shard_map is not None
        nodes = [replica.node for replica in self.shard_map.replicas_of(shard)]
        links = [(node, self._links.get(node)) for node in nodes]
        if any(link is not None and link.is_open for _, link in links):
            return None
        said = "; ".join(f"{node}: {_reason(link)}" for node, link in links)
        return Unavailable(f"no replica of shard {shard} can be reached ({said})")

    def refresh_soon(self) -> None:
        """A shard cannot find its leader: look if somebody has a newer map, or knows it."""
        now = self.loop.time()
        if self._refresh is None and now >= self._refresh_at:
            self._refresh_at = now + REFRESH_INTERVAL_S
            self._refresh = self.loop.create_task(self._refresh_once())

    async def _refresh_once(self) -> None:
        reachable = [link for link in self._links.values() if link.contact() is Contact.OPEN]
        try:
            if reachable:
                async with asyncio.timeout(self.options.attempt_timeout_s):
                    await self.fetch_map(self.rng.choice(reachable))
        except (KVError, TimeoutError):
            pass  # whoever still seeks asks for another look
        finally:
            self._refresh = None

    # -- opening and closing ------------------------------------------------------------------

    async def open(self, deadline: float) -> None:
        """Find a node that answers and learn the map.

        Raises:
            Refused: the nodes that answer want nothing to do with us, or belong elsewhere.
            Unavailable: no endpoint answered before ``deadline`` (the loop's time).
        """
        self._seeds = seeds = [self._new_link(address) for address in self._endpoints]
        tries = [self.loop.create_task(self._introduce(seed)) for seed in seeds]
        try:
            async with asyncio.timeout_at(deadline):
                await _first_success(tries)
        except TimeoutError:
            raise _nobody_answers(seeds) from None
        finally:
            for attempt in tries:
                attempt.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
            kept = set(self._links.values())
            await asyncio.gather(*(seed.close() for seed in seeds if seed not in kept))
            self._seeds = []

    async def _introduce(self, seed: Link) -> None:
        """Get the map from one endpoint, however long it takes."""
        for attempt in count():
            try:
                await seed.opened()
                if self.shard_map is None:
                    await self.fetch_map(seed)
            except (Refused, ProtocolError):
                raise
            except KVError:
                await asyncio.sleep(full_jitter_s(attempt, self.rng))
            else:
                return

    def _new_link(self, address: str) -> Link:
        options = self.options
        breaker = CircuitBreaker(
            open_s_min=options.breaker_open_s_min,
            open_s_max=options.breaker_open_s_max,
            rng=self.rng,
        )
        return Link([address], dial=self._dial, breaker=breaker, on_change=self._link_changed)

    async def _dial(
        self, address: str, on_frames: FramesCallback, on_closed: ConnectionCallback
    ) -> FrameConnection:
        hello = Hello(
            role="client",
            software=SOFTWARE,
            wall_ms=time.time_ns() // 1_000_000,
            cluster_id=self._cluster_id,
        )
        return await dial(
            address,
            hello,
            limits=self._limits,
            timeout_s=self.options.dial_timeout_s,
            on_frames=on_frames,
            on_closed=on_closed,
            check=self._check_welcome,
        )

    def _check_welcome(self, welcome: Welcome) -> None:
        if self._cluster_id is None:
            self._cluster_id = welcome.cluster_id
        elif welcome.cluster_id != self._cluster_id:
            raise Refused(
                f"{welcome.node_id} belongs to the cluster {welcome.cluster_id!r}, "
                f"not to {self._cluster_id!r}"
            )
        self._estimate.observe(welcome.revision_now, self.loop.time())

    def _link_changed(self, link: Link) -> None:
        for channel in self.channels:
            channel.wake()

    async def fresh_map(
        self, deadline: float, shard: ShardId | None = None
    ) -> dict[ShardId, NodeId]:
        """Learn the map anew, from a node that knows who leads ``shard`` if there is one.

        Returns:
            The leaders as that node knows them.

        Raises:
            Unavailable: no node answered before ``deadline`` (the loop's time).
        """
        while True:
            round_ends = self.loop.time() + self.options.attempt_timeout_s
            leaders = await self._ask_all(min(deadline, round_ends), shard)
            if leaders is not None:
                return leaders
            if self.loop.time() + TIMER_SLACK_S >= deadline:
                said = "; ".join(map(_reason, self._links.values()))
                raise Unavailable(f"no node answered before the deadline: {said}")
            await asyncio.sleep(seek_delay_s(self.rng))

    async def _ask_all(
        self, deadline: float, shard: ShardId | None
    ) -> dict[ShardId, NodeId] | None:
        asked = [self.loop.create_task(self._ask_one(link)) for link in self._links.values()]
        leaders: dict[ShardId, NodeId] | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for answer in asyncio.as_completed(asked):
                    with suppress(KVError):
                        leaders = (await answer).leaders
                        if shard is None or shard in leaders:
                            break
        except TimeoutError:
            pass  # what was heard so far has to do
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return leaders

    async def _ask_one(self, link: Link) -> ShardMapReply:
        await link.opened()
        return await self.fetch_map(link)

    async def close(self) -> None:
        """Fail every call and end every connection and task."""
        closed = Unavailable("the client is closed", retryable=False)
        self.gate.close(closed)
        for channel in self.channels:
            channel.close(closed)
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links.values()))

    # -- the shard map ------------------------------------------------------------------------

    async def fetch_map(self, link: Link) -> ShardMapReply:
        """Ask one node, learn from what it says.

        Raises:
            KVError: it refused, or the connection ended.
        """
        reply = decode_shard_map_reply(await ask(link, Kind.SHARD_MAP, self.next_request()))
        shard_map = map_wire.decode(reply.map)
        self._estimate.observe(reply.revision_now, self.loop.time())
        if self.shard_map is None or shard_map.version > self.shard_map.version:
            self._install(shard_map)
        for shard, node in reply.leaders.items():
            if shard < len(self.channels):
                self.channels[shard].route.suggest(node)
        return reply

    def _install(self, shard_map: ShardMap) -> None:
        """Route by ``shard_map`` from now on."""
        self.shard_map = shard_map
        known = {seed.node: seed for seed in self._seeds if seed.is_open and seed.node is not None}
        known |= self._links
        self._links = {}
        for spec in shard_map.nodes:
            link = known.pop(spec.id, None) or self._new_link(spec.address)
            if spec.address not in link.addresses:
                link.addresses.insert(0, spec.address)
            self._links[spec.id] = link
        for shard, replicas in enumerate(shard_map.replicas):
            nodes = [replica.node for replica in replicas]
            if shard < len(self.channels):
                self.channels[shard].route.learn(nodes)
            else:
                self.channels.append(Channel(ShardId(shard), nodes, self))
        for link in known.values():
            link.give_up("the node has left the cluster")
        if len(self._links) <= EAGER_NODES_MAX:
            for link in self._links.values():
                link.contact()


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
    said = "; ".join(_reason(seed) for seed in seeds)
    return Unavailable(f"no endpoint could be reached: {said}")


def _reason(link: Link | None) -> str:
    if link is None:
        return "not in the shard map"
    return link.error.message if link.error is not None else f"{link.addresses[0]}: no answer"
