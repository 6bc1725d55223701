"""Nodes that listen, and what this node would reach them by, for the tests of this folder."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from kvstore.ids import NodeId, Revision
from kvstore.net.limits import NetLimits
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.server import FrameServer
from kvstore.net.transport import Lane
from kvstore.server.membership import make_contacts
from kvstore.wire.hello import Hello, Welcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from kvstore.errors import KVError
    from kvstore.net.connection import FrameConnection
    from kvstore.net.contacts import ContactBook
    from kvstore.server.handshake import Handshake
    from kvstore.wire.frames import Frame

DEADLINE_S = 10.0
LIMITS = NetLimits(linger_s=0.2, sweep_interval_s=0.01)


async def within(awaitable: Awaitable[None]) -> None:
    """Fail rather than hang."""
    async with asyncio.timeout(DEADLINE_S):
        await awaitable


async def until(condition: Callable[[], bool]) -> None:
    """Return when ``condition`` holds; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  conditions of any kind have no event
            await asyncio.sleep(0.001)


class Listener:
    """A node that only listens, and may turn everybody away."""

    def __init__(self, node: str) -> None:
        self.node = NodeId(node)
        self.refusal: KVError | None = None
        self.dialled_on: list[Lane] = []
        """By which lanes it was dialled."""
        self.guests: list[FrameConnection] = []
        self.received: list[int] = []
        self.server = FrameServer(
            "127.0.0.1", 0, limits=LIMITS, on_hello=self._on_hello, on_frames=self._on_frames
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def _on_hello(self, connection: FrameConnection, hello: Hello) -> Welcome:
        assert hello.lane is not None
        self.dialled_on.append(Lane(hello.lane))
        if self.refusal is not None:
            raise self.refusal
        self.guests.append(connection)
        return Welcome("c", self.node, 1, 0, Revision(7), "test")

    def _on_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        self.received += [frame.request for frame in frames]


@asynccontextmanager
async def listening(*nodes: str) -> AsyncIterator[list[Listener]]:
    listeners = [Listener(node) for node in nodes]
    for listener in listeners:
        await listener.server.start()
    try:
        yield listeners
    finally:
        for listener in listeners:
            await within(listener.server.close())


@asynccontextmanager
async def connections(
    own: NodeId,
    peers: Mapping[NodeId, str],
    on_refused: Callable[[KVError], None] = lambda error: None,
    hint: Callable[[NodeId, bool], None] = lambda node, is_gone: None,
) -> AsyncIterator[tuple[PeerPool, ContactBook]]:
    """The standing peers and the contacts of ``own``, both started."""

    def make_hello(lane: Lane) -> Hello:
        return Hello("peer", "test", 0, "c", own, lane.value, 2)

    pool = PeerPool(
        peers,
        PeerCallbacks(
            make_hello=make_hello,
            check_welcome=lambda node, welcome: None,
            on_connected=lambda node: None,
            on_gone=lambda node: hint(node, True),
            on_dropped=lambda node, lane: hint(node, False),
            on_refused=lambda node, error: on_refused(error),
        ),
        limits=LIMITS,
        rng=random.Random(1),
    )
    handshake = SimpleNamespace(make_hello=make_hello, check_welcome=lambda node, welcome: None)
    contacts = make_contacts(
        cast("Handshake", handshake),
        limits=LIMITS,
        rng=random.Random(1),
        hint=lambda node, *, is_gone: hint(node, is_gone),
        on_refused=lambda error, address: on_refused(error),
    )
    contacts.start()
    pool.start()
    try:
        yield pool, contacts
    finally:
        await within(pool.close())
        await within(contacts.close())
