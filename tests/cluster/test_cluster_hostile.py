"""Bad input against a real node: a clear answer, and nothing else disturbed."""

from __future__ import annotations

import asyncio
import random
import struct
import subprocess
from typing import TYPE_CHECKING

import msgpack
import pytest
from cluster_harness import RunningCluster, made
from strangers import LIMITS, Stranger, calling

from kvstore import errors
from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.process import State
from kvstore.ids import NodeId
from kvstore.kv import commands
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, encode_hello
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

RSS_BYTES_MAX = 400 << 20
"""Far below what the frames announced here would take if a node believed them."""


class Target:
    """A node with a bystander whose work must go on."""

    def __init__(self, running: RunningCluster) -> None:
        self.running = running
        (self.node,) = running.nodes

    def stranger(self) -> AbstractAsyncContextManager[Stranger]:
        return calling(self.node)

    def rss_bytes(self) -> int:
        shown = subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.node.pid())])
        return int(shown) << 10


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """One node for all tests here, which waits only briefly for a hello."""
    directory = tmp_path_factory.mktemp("hostile")
    with made(directory, Wanted(nodes=1, shards=1, base_port=0)) as running:
        config = running.nodes[0].files.config_file
        config.write_text(config.read_text() + "\n[limits]\nhello_timeout_s = 0.5\n")
        asyncio.run(running.start())
        yield running


@pytest.fixture
async def target(running: RunningCluster) -> AsyncIterator[Target]:
    """The node, and a check that a client that was there all the time noticed nothing."""
    target = Target(running)
    async with running.connect() as bystander:
        await bystander.put("bystander", b"before")
        yield target
        item = await bystander.get("bystander")
        assert item is not None
        assert item.value == b"before"
        assert [item.key async for item in bystander.scan()] == [b"bystander"]
    assert target.node.state() is State.RUNNING
    assert target.rss_bytes() < RSS_BYTES_MAX


def deep(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


NO_FRAMES = {
    "a web browser": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "garbage": random.Random(7).randbytes(10_000),
    "a length of zero": struct.pack(">I", 0),
    "a length too short": struct.pack(">IB", 3, 1),
    "a length of four gigabytes": struct.pack(">IBBQ", 0xFFFFFFFF, Kind.HELLO, 0, 0),
    "no hello first": encode_frame(Kind.STATUS, 1, b""),
    "a hello that is no msgpack": encode_frame(Kind.HELLO, 0, b"\xc1\xc1"),
    "a hello nested too deep": encode_frame(Kind.HELLO, 0, deep(3000)),
    "a hello that claims a huge array": encode_frame(Kind.HELLO, 0, b"\xdd\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", NO_FRAMES)
async def test_a_stream_that_cannot_be_trusted_is_closed_with_a_reason(
    target: Target, name: str
) -> None:
    async with target.stranger() as stranger:
        stranger.send(NO_FRAMES[name])
        request, error = await stranger.error()
        assert (request, type(error)) == (0, errors.ProtocolError)
        assert await stranger.is_closed()


@pytest.mark.parametrize("sent", [b"", b"\x00", encode_frame(Kind.HELLO, 0, b"x" * 99)[:50]])
async def test_half_a_hello_then_silence(target: Target, sent: bytes) -> None:
    async with target.stranger() as stranger:
        stranger.send(sent)
        request, error = await stranger.error()
        assert request == 0
        assert "hello" in error.message
        assert await stranger.is_closed()


async def test_a_newer_protocol(target: Target) -> None:
    hello = Hello("client", "from the future", 0, protocol_min=9, protocol_max=12)
    async with target.stranger() as stranger:
        stranger.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
        _, error = await stranger.error()
        assert isinstance(error, errors.Refused)
        assert "9 to 12" in error.message
        assert await stranger.is_closed()


@pytest.mark.parametrize(
    "hello",
    [
        Hello("client", "lost", 0, cluster_id="elsewhere"),
        Hello("peer", "lost", 0, cluster_id="elsewhere", node_id=NodeId("n2"), lane=0, data_id=2),
    ],
    ids=["a client", "a node"],
)
async def test_another_cluster(target: Target, hello: Hello) -> None:
    async with target.stranger() as stranger:
        stranger.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
        _, error = await stranger.error()
        assert isinstance(error, errors.Refused)
        assert await stranger.is_closed()


async def test_a_false_length_after_the_hello(target: Target) -> None:
    async with target.stranger() as stranger:
        await stranger.greet()
        stranger.send(struct.pack(">I", LIMITS.frame_bytes_max + 1) + b"x" * 100)
        request, error = await stranger.error()
        assert (request, type(error)) == (0, errors.ProtocolError)
        assert await stranger.is_closed()


BAD_REQUESTS = {
    "an unknown kind": encode_frame(29, 7, b"anything"),
    "no msgpack": encode_frame(Kind.READ, 7, b"\xc1"),
    "nested too deep": encode_frame(Kind.READ, 7, deep(100_000)),
    "a huge array that is not there": encode_frame(Kind.WRITE, 7, b"\xdd\xff\xff\xff\xff"),
    "a million tiny items": encode_frame(Kind.READ, 7, msgpack.packb([[]] * 1_000_000)),
    "too few fields": encode_frame(Kind.SCAN, 7, msgpack.packb([0])),
    "wrong types": encode_frame(Kind.READ, 7, msgpack.packb(["a", None, {}, 3, 4])),
    "an extension": encode_frame(Kind.READ, 7, msgpack.packb(msgpack.ExtType(5, b"x"))),
    "a shard that is not there": encode_frame(Kind.READ, 7, encode_read((0, 99, 0, [b"k"], 0))),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_answered_and_the_connection_stays(
    target: Target, name: str
) -> None:
    async with target.stranger() as stranger:
        await stranger.greet()
        stranger.send(BAD_REQUESTS[name])
        request, error = await stranger.error()
        assert request == 7
        assert not error.may_have_applied
        stranger.send(encode_frame(Kind.STATUS, 8, b""))
        frame = await stranger.frame()
        assert frame is not None
        assert (frame.kind, frame.request) == (Kind.REPLY, 8)


@pytest.mark.parametrize(
    "command",
    [
        (commands.PUT, b"", b"value"),
        (commands.PUT, b"k" * (LIMITS.key_bytes_max + 1), b"value"),
        (commands.PUT, b"k", b"v" * (LIMITS.value_bytes_max + 1)),
        (commands.DELETE, b""),
        (commands.CAS, b"", None, b"value"),
        (99, b"k"),
        (commands.PUT, b"k"),
    ],
    ids=[
        *("an empty key", "an oversized key", "an oversized value", "delete of an empty key"),
        *("cas of an empty key", "an unknown command", "a put without a value"),
    ],
)
async def test_a_bad_command_changes_nothing(
    target: Target, command: tuple[int | bytes | None, ...]
) -> None:
    async with target.stranger() as stranger:
        await stranger.greet()
        error = await stranger.write((commands.PUT, b"good", b"value"), command)
        assert isinstance(error, errors.InvalidArgument)
        assert not error.may_have_applied


async def test_many_strangers_at_once_are_turned_out_each_with_a_reason(target: Target) -> None:
    async def one(seed: int) -> None:
        rng = random.Random(seed)
        async with target.stranger() as stranger:
            if seed % 2:
                await stranger.greet()
            stranger.send(rng.randbytes(rng.randrange(1, 5000)))
            if seed % 3 == 0:
                return  # hangs up in the middle of it
            request, error = await stranger.error()
            assert (request, type(error)) == (0, errors.ProtocolError)
            assert await stranger.is_closed()

    await asyncio.gather(*map(one, range(100)))
