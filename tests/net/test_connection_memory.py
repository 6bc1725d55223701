"""What has failed is forgotten at once: nothing waits for the garbage collector, which is off.

A node's collector comes late (it has other things to do), so whatever only it can free is free
memory for those who send nonsense.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from contact_harness import contacts
from net_harness import (
    CLIENT,
    DEADLINE_S,
    LIMITS,
    PEER,
    Node,
    Raw,
    hello_frame,
    raw,
    read_frame,
    until,
    within,
)

from kvstore import errors
from kvstore.net.connection import FrameConnection
from kvstore.net.dial import dial
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import decode_messages
from kvstore.wire.requests import encode_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

    from kvstore.wire.frames import Frame
    from kvstore.wire.hello import Hello, Welcome

AWAY = replace(PEER, cluster_id="away")
BAD_RAFT = b"\x92\x92\x63\x01"
"""The array [[99, 1], ...]: a message of a kind that there is not, and one more."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def connections() -> int:
    """How many are in memory, whoever holds them."""
    return sum(type(each) is FrameConnection for each in gc.get_objects())


class Forgetful(Node):
    """A node that keeps nothing of its own, and cannot read every frame."""

    def on_hello(self, connection: FrameConnection, hello: Hello) -> Welcome:
        welcome = super().on_hello(connection, hello)
        self.guests.clear()
        return welcome

    def on_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        for frame in frames:
            decode_messages(frame.body)


@asynccontextmanager
async def forgetful() -> AsyncIterator[Forgetful]:
    node = Forgetful()
    await node.server.start()
    try:
        yield node
    finally:
        await within(node.server.close())


async def is_turned_out(stranger: Raw) -> bool:
    return any(frame.kind == Kind.ERROR for frame in await stranger.ending())


# -- who calls and is turned out --------------------------------------------------------------

OPENINGS = {
    "a hello of garbage": encode_frame(Kind.HELLO, 0, b"\xc1"),
    "a hello of another cluster": hello_frame(AWAY),
    "no hello": read_frame(1, b"key"),
    "no frame": b"\xff" * 4,
    "a bad frame": hello_frame(PEER) + encode_frame(Kind.RAFT, 0, BAD_RAFT),
    "a second hello": hello_frame() + hello_frame(),
    "a bad length": hello_frame() + bytes(4),
}


@pytest.mark.parametrize("name", OPENINGS)
async def test_who_is_turned_out_is_forgotten(name: str) -> None:
    async with forgetful() as node:
        for _ in range(3):
            async with raw(node) as stranger:
                stranger.send(OPENINGS[name])
                assert await is_turned_out(stranger)
        await _is_left_alone(node)


async def test_what_came_behind_a_bad_hello_is_forgotten() -> None:
    behind = encode_frame(99, 1, bytes(4000)) * 60
    await _sends_for_nothing(encode_frame(Kind.HELLO, 0, b"\xc1") + behind)


async def test_the_large_bad_frame_of_a_peer_is_forgotten() -> None:
    body = BAD_RAFT + b"\xc5\xff\xff" + bytes(65535)  # a binary string
    await _sends_for_nothing(encode_frame(Kind.RAFT, 0, body), PEER)


async def _sends_for_nothing(data: bytes, hello: Hello | None = None) -> None:
    """Twenty times, and not even one of them is held in the end."""
    async with forgetful() as node:
        tracemalloc.start()
        try:
            for _ in range(20):
                async with raw(node) as stranger:
                    if hello is not None:
                        await stranger.shake_hands(hello)
                    stranger.send(data)
                    assert await is_turned_out(stranger)
            await until(lambda: not node.server.connection_count)
            node.closed.clear()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 4 * len(data)


# -- whom this side calls in vain -------------------------------------------------------------


async def vain(dialling: Coroutine[None, None, FrameConnection]) -> type[errors.KVError] | None:
    """How it fails; the error itself, which holds what it went through, is let go."""
    try:
        await dialling
    except errors.KVError as error:
        return type(error)
    return None


def calling(address: str, **more: Any) -> Coroutine[None, None, FrameConnection]:
    options = {"timeout_s": DEADLINE_S, "on_frames": lambda *_: None, **more}
    return dial(address, CLIENT, limits=LIMITS, **options)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", errors.Unavailable),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", errors.ProtocolError),
        (encode_frame(Kind.REPLY, 0, b""), errors.ProtocolError),
        (encode_frame(Kind.WELCOME, 0, b"\xc1"), errors.ProtocolError),
        (encode_frame(Kind.GOODBYE, 0, b""), errors.Unavailable),
        (encode_frame(Kind.ERROR, 0, b"\xc1"), errors.ProtocolError),
        (encode_frame(Kind.ERROR, 0, encode_error(errors.Refused("no"))), errors.Refused),
    ],
)
async def test_a_dial_that_is_answered_badly_is_forgotten(
    answer: bytes, kind: type[errors.KVError]
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await vain(calling(f"127.0.0.1:{port}")) is kind
        await until(lambda: connections() == 0)


async def test_a_dial_to_nobody_is_forgotten() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert await vain(calling(f"127.0.0.1:{port}"))
    await until(lambda: connections() == 0)


async def test_a_dial_to_a_frozen_process_is_forgotten() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert await vain(calling(f"127.0.0.1:{port}", timeout_s=0.05)) is errors.Unavailable
        await until(lambda: connections() == 0)


async def test_a_node_that_is_turned_down_is_forgotten() -> None:
    def check(_: Welcome) -> None:
        raise errors.Refused("not expected")

    async with forgetful() as node:
        assert await vain(calling(node.address, check=check)) is errors.Refused
        await _is_left_alone(node)


async def test_a_contact_that_is_turned_down_is_forgotten() -> None:
    async with forgetful() as node, contacts() as (book, events):
        frame = encode_frame(Kind.SWIM, 0, b"hello")
        events.on_welcome = _refuse
        book.send(node.address, frame, None)
        await until(lambda: len(events.unreachable) == 1)
        await _is_left_alone(node)


def _refuse() -> None:
    raise errors.Refused("not expected")


async def _is_left_alone(node: Forgetful) -> None:
    await until(lambda: not node.server.connection_count)
    node.closed.clear()
    await until(lambda: connections() == 0)
