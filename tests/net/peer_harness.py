"""A pool of peers and what it tells, for the tests of this folder."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from net_harness import LIMITS, PEER, Node, within

from kvstore.ids import NodeId
from kvstore.net.limits import PeerTiming
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from kvstore.errors import KVError
    from kvstore.net.connection import FrameConnection
    from kvstore.net.limits import NetLimits
    from kvstore.net.transport import Lane
    from kvstore.wire.hello import Hello, Welcome

N1 = NodeId("n1")
QUICK = PeerTiming(settled_s=0, backoff_cap_s=0.05)


class Events:
    """What a pool has told, and what it asks for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refusals: list[KVError] = []
        self.cluster_id = "home"
        self.turn_down: KVError | None = None
        self.on_welcome: Callable[[], object] = lambda: None
        self.on_told: Callable[[str], object] = lambda what: None

    def tell(self, what: str) -> None:
        self.told.append(what)
        self.on_told(what)

    def count(self, what: str) -> int:
        return Counter(self.told)[what]

    def make_hello(self, lane: Lane) -> Hello:
        return replace(PEER, lane=lane, cluster_id=self.cluster_id)

    def check_welcome(self, peer: NodeId, welcome: Welcome) -> None:
        self.on_welcome()
        if self.turn_down is not None:
            raise self.turn_down

    def refused(self, peer: NodeId, error: KVError) -> None:
        self.refusals.append(error)


@asynccontextmanager
async def pool_to(
    address: str | Mapping[NodeId, str],
    limits: NetLimits = LIMITS,
    timing: PeerTiming = QUICK,
    events: Events | None = None,
    *,
    starts: bool = True,
) -> AsyncIterator[tuple[PeerPool, Events]]:
    """A pool with a peer ``n1`` there, or with these peers."""
    events = events or Events()
    callbacks = PeerCallbacks(
        make_hello=events.make_hello,
        check_welcome=events.check_welcome,
        on_connected=lambda peer: events.tell(f"{peer} connected"),
        on_gone=lambda peer: events.tell(f"{peer} gone"),
        on_dropped=lambda peer, lane: events.tell(f"{peer} dropped {lane.name}"),
        on_refused=events.refused,
    )
    peers = {N1: address} if isinstance(address, str) else address
    pool = PeerPool(peers, callbacks, limits=limits, rng=random.Random(1), timing=timing)
    if starts:
        pool.start()
    try:
        yield pool, events
    finally:
        await within(pool.close())


def raft(number: int, size: int = 10) -> bytes:
    return encode_frame(Kind.RAFT, number, bytes(size))


def by_lane(node: Node) -> dict[int | None, FrameConnection]:
    return {guest.hello.lane: guest for guest in node.guests if guest.hello and guest.is_open}
