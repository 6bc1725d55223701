"""A book of contacts and what it tells, for the tests of this folder."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from net_harness import LIMITS, PEER, Node, until, within

from kvstore import errors
from kvstore.ids import NodeId
from kvstore.net.contacts import ContactBook, ContactCallbacks
from kvstore.net.limits import ContactLimits
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import pytest

    from kvstore.errors import KVError
    from kvstore.net.limits import NetLimits
    from kvstore.net.transport import Lane
    from kvstore.wire.hello import Hello, Welcome

N1, N7 = NodeId("n1"), NodeId("n7")
QUICK = ContactLimits(settled_s=0)
KIB = 1024


class Draw(random.Random):
    """Every wait is ``wait_s``, whatever its bound."""

    def __init__(self, wait_s: float) -> None:
        super().__init__()
        self.wait_s = wait_s

    def uniform(self, a: float, b: float) -> float:
        return self.wait_s


class Events:
    """What a book has told, and what it asks for."""

    def __init__(self) -> None:
        self.unreachable: list[tuple[str, NodeId | None, KVError]] = []
        self.lost: list[tuple[NodeId, str]] = []
        self.cluster_id = "home"
        self.on_welcome: Callable[[], object] = lambda: None
        self.on_unreachable: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None

    def make_hello(self, lane: Lane) -> Hello:
        return replace(PEER, lane=lane, cluster_id=self.cluster_id)

    def check_welcome(self, expected: NodeId | None, welcome: Welcome) -> None:
        self.on_welcome()
        if welcome.cluster_id != self.cluster_id:
            raise errors.Refused(f"the node at its address is of cluster {welcome.cluster_id}")
        if expected not in (None, welcome.node_id):
            raise errors.Refused(f"the node at its address is {welcome.node_id}")

    def tell_unreachable(self, address: str, expected: NodeId | None, error: KVError) -> None:
        self.unreachable.append((address, expected, error))
        self.on_unreachable()

    def tell_lost(self, node: NodeId, address: str) -> None:
        self.lost.append((node, address))
        self.on_lost()


@asynccontextmanager
async def contacts(
    bounds: ContactLimits = QUICK, limits: NetLimits = LIMITS, *, wait_s: float = 0.0
) -> AsyncIterator[tuple[ContactBook, Events]]:
    events = Events()
    callbacks = ContactCallbacks(
        make_hello=events.make_hello,
        check_welcome=events.check_welcome,
        on_unreachable=events.tell_unreachable,
        on_lost=events.tell_lost,
    )
    book = ContactBook(callbacks, limits=limits, rng=Draw(wait_s), bounds=bounds)
    book.start()
    try:
        yield book, events
    finally:
        await within(book.close())
        assert book.connection_count == 0


@contextmanager
def silence() -> Iterator[str]:
    """The address of a frozen process: its kernel accepts, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def nobody() -> str:
    """An address at which nobody listens."""
    with silence() as address:
        return address


def gossip(number: int, size: int = 10) -> bytes:
    return encode_frame(Kind.RAFT, number, bytes(size - 4))


def numbers(node: Node) -> list[int]:
    return [frame.request for frame in node.received]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname in ("WARNING", "ERROR", "CRITICAL")
        and record.name.startswith("kvstore.net.contact")
    ]


async def clog(book: ContactBook, node: Node) -> int:
    """Fill the connection to ``node``, which reads no more; how many frames it was sent."""
    assert book.send(node.address, gossip(0), None)
    await until(lambda: len(node.guests) == 1)
    transport = node.guests[0]._transport
    assert transport is not None
    transport.pause_reading()
    for sent in range(1, 1000):
        if not book.send(node.address, gossip(sent, 50 * KIB), None):
            return sent
        await asyncio.sleep(0)
    raise AssertionError("it takes everything")
