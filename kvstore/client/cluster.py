"""The cluster as one client knows it: links to nodes, the shard map, a channel per shard.

Any one reachable endpoint is enough: it tells the map, and the map the other nodes'
addresses. How newer maps are come by stands in :mod:`kvstore.client.learning`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from kvstore.client.breaker import CircuitBreaker
from kvstore.client.channel import Channel
from kvstore.client.gate import Gate
from kvstore.client.learning import MapLearner, cancel_all, reason
from kvstore.client.link import Link
from kvstore.client.route import Contact
from kvstore.client.session import RevisionEstimate
from kvstore.errors import KVError, Refused, Unavailable, copy_of
from kvstore.ids import NodeId, ShardId, group_of_shard
from kvstore.net.dial import dial
from kvstore.net.limits import NetLimits
from kvstore.sharding.ring import RING_BITS, arc_bits, position
from kvstore.wire.hello import Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from kvstore.client.options import ClientOptions
    from kvstore.errors import NotLeader
    from kvstore.net.connection import ConnectionCallback, FrameConnection, FramesCallback
    from kvstore.sharding.shard_map import ShardMap

READ_BUDGET_BYTES = 16 << 20
"""Values asked for at a time, all shards together (:mod:`kvstore.client.read_window`)."""
READ_BUDGET_BYTES_MIN = 1 << 20
"""The same for one shard, of many."""
EAGER_NODES_MAX = 16
"""A cluster of up to so many nodes is connected to at once, a larger one as needed."""
STRANGERS_MAX = 16
"""Nodes that we were sent to and that our map does not have."""
SOFTWARE = "kvstore-python"

T = TypeVar("T")


class Cluster:
    """Invariant: once opened, there is a channel per shard and a link per node of the map.

    Beyond those there are links to at most ``STRANGERS_MAX`` nodes that others sent us to.
    """

    def __init__(self, endpoints: Sequence[str], options: ClientOptions) -> None:
        self.options = options
        self.rng = random.Random()
        self.gate = Gate(
            operations_max=options.operations_max,
            bytes_max=options.operation_bytes_max,
            waiting_max=options.waiting_max,
        )
        self.channels: list[Channel] = []
        """By shard."""
        self.arc_bits = RING_BITS
        """A key's position on the ring has its shard above so many bits."""
        self.shard_map: ShardMap | None = None
        self.map_version = 0
        """Of the shard map that requests are routed by; 0 while there is none."""
        self.loop = asyncio.get_running_loop()
        self._limits = NetLimits(
            frame_bytes_max=options.frame_bytes_max, outbound_bytes_max=options.outbound_bytes_max
        )
        self._cluster_id = options.cluster_id
        self.links: dict[NodeId, Link] = {}
        self._strangers: dict[NodeId, int] = {}
        """Those of ``links`` that the map does not have: by which version they were named."""
        self._closing: set[asyncio.Task[None]] = set()
        """Links that nobody needs any more."""
        self._inquiries: set[asyncio.Task[Any]] = set()
        """What callers want of the cluster and not of a shard."""
        self.estimate = RevisionEstimate()
        self.next_request: Callable[[], int] = count(1).__next__
        """A request id that this client has not used."""
        self.learner = MapLearner(self, endpoints)

    # -- what channels ask --------------------------------------------------------------------

    @property
    def read_budget_bytes(self) -> int:
        """What one shard may be asked for at a time."""
        shards = self.shard_map.shards if self.shard_map is not None else 1
        return max(READ_BUDGET_BYTES_MIN, READ_BUDGET_BYTES // shards)

    def contact(self, node: NodeId) -> Contact:
        """How ``node`` can be reached; begins to connect where that may be tried."""
        link = self.links.get(node)
        return Contact.DOWN if link is None else link.contact()

    def link(self, node: NodeId) -> Link:
        """The link to a node of the map.

        Raises:
            Unavailable: there is no such node (any more).
        """
        try:
            return self.links[node]
        except KeyError:
            raise Unavailable(f"{node} is not in the shard map") from None

    def channel_of(self, key: bytes) -> Channel:
        """The way to the shard of ``key``."""
        return self.channels[position(key) >> self.arc_bits]

    def new_session_id(self) -> tuple[int, int]:
        """``created`` and ``nonce`` of a new session."""
        return self.estimate.at(self.loop.time()), secrets.randbits(64)

    def why_unreachable(self, shard: ShardId) -> Unavailable | None:
        """Why a request to ``shard`` can be sent nowhere; None if it can."""
        assert self.shard_map is not None
        links = [(node, self.links.get(node)) for node in _holders(self.shard_map, shard)]
        if any(link is not None and link.is_open for _, link in links):
            return None
        said = "; ".join(f"{node}: {reason(link)}" for node, link in links)
        why = f"no replica of shard {shard} can be reached ({said})"
        if not any(link.is_open for link in self.links.values()):
            why += (
                ", nor any other node or endpoint that is known; if the cluster is up, its nodes "
                "were replaced: connect anew, to one that is in it now"
            )
        return Unavailable(why)

    def directed(self, node: NodeId, shard: ShardId, error: NotLeader) -> NodeId | None:
        """Who leads ``shard`` according to ``node``, which does not; None if that is no help.

        With a newer map than ours it may name a node that we do not know, which can be tried all
        the same, and it is asked for that map. With an older one it may name whoever held the
        shard before: that counts only where our map agrees.
        """
        if (asked := self.links.get(node)) is not None:
            self.learner.heard_of(error.map_version, asked)
        if error.leader is None:
            return None
        leader = NodeId(error.leader)
        assert self.shard_map is not None
        if error.map_version < self.shard_map.version:
            return leader if leader in _holders(self.shard_map, shard) else None
        if leader not in self.links and error.address and len(self._strangers) < STRANGERS_MAX:
            self._strangers[leader] = error.map_version
            self.links[leader] = self.new_link(error.address, leader)
        return leader

    # -- opening and closing ------------------------------------------------------------------

    def new_breaker(self) -> CircuitBreaker:
        """Of a node that has not failed yet."""
        options = self.options
        return CircuitBreaker(
            open_s_min=options.breaker_open_s_min,
            open_s_max=options.breaker_open_s_max,
            rng=self.rng,
        )

    def new_link(self, address: str, expected: NodeId | None = None) -> Link:
        """To whoever answers at ``address``, or to the ``expected`` node alone."""
        return Link(
            [address],
            dial=self._dial,
            breaker=self.new_breaker(),
            on_change=self._link_changed,
            expected=expected,
        )

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
        self.estimate.observe(welcome.revision_now, self.loop.time())

    def _link_changed(self, link: Link) -> None:
        for channel in self.channels:
            channel.wake()

    async def unless_closed(self, inquiry: Coroutine[Any, Any, T]) -> T:
        """Do what asks nodes, not shards; the end of the client is its end too.

        Raises:
            Unavailable: the client was closed meanwhile.
            KVError: the inquiry failed.
        """
        task = self.loop.create_task(_outcome(inquiry))
        self._inquiries.add(task)
        try:
            await asyncio.wait([task])
            if task.cancelled():
                raise closed()
            if isinstance(outcome := task.result(), KVError):
                raise copy_of(outcome)
            return outcome
        finally:
            self._inquiries.discard(task)
            await cancel_all([task])
            inquiry.close()  # the task may never have begun

    async def close(self) -> None:
        """Fail every call and end every connection and task."""
        end = closed()
        self.gate.close(end)
        for channel in self.channels:
            channel.close(end)
        await cancel_all(self._inquiries)  # they may still make links, so these come later
        await self.learner.close()
        await asyncio.gather(*(link.close() for link in self.links.values()), *self._closing)
        del self.learner  # it holds us, and is not needed any more

    # -- the shard map ------------------------------------------------------------------------

    def install(self, shard_map: ShardMap) -> None:
        """Route by ``shard_map``, which is newer than ours, from now on."""
        self.shard_map, self.map_version = shard_map, shard_map.version
        seeds = self.learner.endpoint_links
        known = {seed.node: seed for seed in seeds if seed.is_open and seed.node is not None}
        known |= self.links
        self.links = {}
        for spec in shard_map.nodes:
            link = known.pop(spec.id, None) or self.new_link(spec.address)
            link.expected = spec.id
            if spec.address not in link.addresses:
                link.addresses.insert(0, spec.address)
            self.links[spec.id] = link
        strangers, self._strangers = self._strangers, {}
        for node, link in known.items():
            if strangers.get(node, 0) > shard_map.version:
                self.links[node], self._strangers[node] = link, strangers[node]
            else:
                link.give_up("the node has left the cluster")
                self.close_soon(link)
        for shard in map(ShardId, range(shard_map.shards)):
            if shard < len(self.channels):
                self.channels[shard].learn(_holders(shard_map, shard))
            else:
                self.channels.append(Channel(shard, _holders(shard_map, shard), self))
        self.arc_bits = arc_bits(shard_map.shards)
        if len(self.links) <= EAGER_NODES_MAX:
            for link in self.links.values():
                link.contact()

    def close_soon(self, link: Link) -> None:
        """Nobody needs it any more: close it, at the latest when the client is closed."""
        task = self.loop.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _outcome(inquiry: Coroutine[Any, Any, T]) -> T | KVError:
    """What comes of it. A task that raised would be held by the frames that its error holds."""
    try:
        return await inquiry
    except KVError as error:
        return copy_of(error)


def closed() -> Unavailable:
    """What a call hears that the end of its client ends."""
    return Unavailable("the client is closed", retryable=False)


def _holders(shard_map: ShardMap, shard: ShardId) -> list[NodeId]:
    """The nodes that have ``shard``, or are about to: any of them may lead it by now."""
    nodes = [replica.node for replica in shard_map.replicas_of(shard)]
    change = shard_map.change_of(group_of_shard(shard)) if shard_map.changes else None
    return nodes if change is None or change.add is None else [*nodes, change.add.node]
