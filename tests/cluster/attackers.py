"""What a node may have to stand from those who can reach its port: one attack of each kind.

An attack says whether it got through: whether the node has shown that it took notice.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import msgpack
from strangers import HELLO, Stranger, calling

from kvstore.ids import NodeId
from kvstore.net.transport import Lane
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, encode_hello
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from cluster_harness import RunningCluster

    from kvstore.cli.launcher.node import Node

KINDS = sorted(Kind)
MIB = 1 << 20


class Target:
    """The node that is attacked, and whose name can be used against it."""

    def __init__(self, running: RunningCluster) -> None:
        self.running = running
        self.node: Node = running.nodes[0]

    def peer_hello(self) -> Hello:
        """What the second node says when it calls the first."""
        other = self.running.nodes[1]
        identity = json.loads((other.files.data_dir / "identity.json").read_text())
        return Hello(
            role="peer",
            software="an impostor",
            wall_ms=time.time_ns() // 1_000_000,
            cluster_id=self.running.cluster.layout.spec.id,
            node_id=NodeId(other.id),
            lane=0,
            data_id=identity["data_id"],
        )


# -- strangers and clients ------------------------------------------------------------------


async def random_bytes(target: Target, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        stranger.send(rng.randbytes(rng.randrange(1, 20_000)))
        return await is_turned_out(stranger)


async def half_frames_held_open(target: Target, rng: random.Random) -> bool:
    """A ping goes before each, and is answered while all of them are held."""
    async with AsyncExitStack() as held:
        strangers = [await held.enter_async_context(calling(target.node)) for _ in range(10)]
        for stranger in strangers:
            await stranger.greet()
            size = rng.randrange(1, MIB)
            head = struct.pack(">IBBQ", size + 10, rng.choice(KINDS), 0, 7)
            stranger.send(encode_frame(Kind.PING, 8, b"") + head + bytes(rng.randrange(size)))
        await asyncio.sleep(0.1)
        answers = [await stranger.frame() for stranger in strangers]
    return all(answer is not None and answer.kind == Kind.PONG for answer in answers)


async def a_hello_and_then_garbage(target: Target, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        await stranger.greet()
        stranger.send(struct.pack(">I", rng.choice([0, 9, 0xFFFFFFFF])))
        stranger.send(rng.randbytes(rng.randrange(1, 20_000)))
        return await is_turned_out(stranger)


async def frames_with_wild_bodies(target: Target, rng: random.Random) -> bool:
    """Every kind, and a ping after each: whatever was wrong, the ping is answered."""
    pongs = 0
    kinds = rng.sample(range(7, 256), 20) + [each for each in KINDS if each > Kind.GOODBYE]
    async with calling(target.node) as stranger:
        await stranger.greet()
        for kind in kinds:
            stranger.send(encode_frame(kind, 7, wild_body(rng), flags=rng.choice([0, 0, 0, 1])))
            stranger.send(encode_frame(Kind.PING, 8, b""))
            while (frame := await stranger.frame()) is not None and frame.request != 8:
                assert frame.kind in (Kind.ERROR, Kind.REPLY, Kind.PONG)
            pongs += frame is not None and frame.kind == Kind.PONG
    return pongs == len(kinds)


async def handshakes_with_wild_bodies(target: Target, rng: random.Random) -> bool:
    turned_out = []
    for kind in KINDS:
        async with calling(target.node) as stranger:
            stranger.send(encode_frame(kind, rng.choice([0, 7]), wild_body(rng)[:4000]))
            stranger.send(rng.randbytes(20))
            turned_out.append(await is_turned_out(stranger))
    return all(turned_out)


async def a_hello_drop_by_drop(target: Target, rng: random.Random) -> bool:
    """All but the last byte of it, until the node has had enough."""
    async with calling(target.node) as stranger:
        for byte in encode_frame(Kind.HELLO, 0, encode_hello(HELLO))[:-1]:
            stranger.send(bytes([byte]))
            await asyncio.sleep(0.02)
        return await is_turned_out(stranger)


async def much_behind_a_bad_hello(target: Target, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        bad = rng.choice([b"\xc1", b"", b"\x91" * 4000, rng.randbytes(100)])
        stranger.send(encode_frame(Kind.HELLO, 0, bad) + encode_frame(99, 1, bytes(4000)) * 50)
        return await is_turned_out(stranger)


async def opened_and_dropped(target: Target, rng: random.Random) -> bool:
    """Whoever comes after them is accepted after them, and is let in."""
    for _ in range(20):
        async with calling(target.node) as stranger:
            if rng.random() < 0.5:
                stranger.send(rng.randbytes(rng.randrange(1, 50)))
    async with calling(target.node) as stranger:
        return await stranger.is_let_in(HELLO)


async def questions_without_listening(target: Target, rng: random.Random) -> bool:
    """Of the answers the first is looked at in the end."""
    async with calling(target.node) as stranger:
        await stranger.greet()
        stranger.stop_reading()
        for kind in (Kind.STATUS, Kind.SHARD_MAP, Kind.PING):
            stranger.send(encode_frame(kind, 7, b"") * rng.randrange(1, 100))
        await asyncio.sleep(0.05)
        stranger.read_on()
        first = await stranger.frame()
        return first is not None and first.kind == Kind.REPLY


# -- who says it is a node ------------------------------------------------------------------


async def invented_names(target: Target, rng: random.Random) -> bool:
    """Each time another: of a node that is turned away, and of a client that sends garbage."""
    turned_out = []
    for _ in range(5):
        name = NodeId(f"n{rng.getrandbits(60)}")
        async with calling(target.node) as stranger:
            hello = replace(target.peer_hello(), node_id=name, cluster_id="another")
            stranger.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
            turned_out.append(await is_turned_out(stranger))
        async with calling(target.node) as stranger:
            await stranger.greet(replace(HELLO, node_id=name))
            stranger.send(bytes(4))
            turned_out.append(await is_turned_out(stranger))
    return all(turned_out)


async def a_peer_with_large_bad_frames(target: Target, rng: random.Random) -> bool:
    """Of some MiB, in the name of the second node, on a lane that it has no use for."""
    async with calling(target.node) as stranger:
        await stranger.greet(replace(target.peer_hello(), lane=Lane.CONTACT))
        ballast = rng.randbytes(1000) * rng.randrange(1000, 4000)
        body = rng.choice([[[99, 1], ballast], [unknown_group(rng), ballast]])
        stranger.send(encode_frame(Kind.RAFT, 0, msgpack.packb(body)))
        return await is_turned_out(stranger)


async def a_peer_with_impossible_messages(target: Target, rng: random.Random) -> bool:
    """In the name of the second node, whose connection it takes the place of.

    That one calls again at once, and takes its place back: sometimes before the welcome is
    out, or the messages are in.
    """
    async with calling(target.node) as stranger:
        if not await stranger.is_let_in(target.peer_hello()):
            return False
        for _ in range(5):
            group = rng.choice([0, 1, 2, 3, 4])
            stranger.send(encode_frame(Kind.RAFT, 0, msgpack.packb([unknown_group(rng)])))
            await asyncio.sleep(0)
        stranger.send(encode_frame(Kind.RAFT, 0, impossible(rng, group)))
        return await is_turned_out(stranger)


Attack = Callable[[Target, random.Random], Awaitable[bool]]
"""Whether it got through, as far as an attacker can tell."""

ATTACKS: tuple[Attack, ...] = (
    random_bytes,
    half_frames_held_open,
    a_hello_and_then_garbage,
    frames_with_wild_bodies,
    handshakes_with_wild_bodies,
    a_hello_drop_by_drop,
    much_behind_a_bad_hello,
    opened_and_dropped,
    questions_without_listening,
    invented_names,
    a_peer_with_large_bad_frames,
    a_peer_with_impossible_messages,
)

MAY_COME_TOO_LATE = frozenset({a_peer_with_impossible_messages})
"""The others get through whenever they try."""


# -- what they have in common ---------------------------------------------------------------


async def is_turned_out(stranger: Stranger) -> bool:
    """Whether the node says what is wrong before it hangs up; it never may say that all is well."""
    kinds = set()
    while (frame := await stranger.frame()) is not None:
        assert frame.kind in (Kind.ERROR, Kind.GOODBYE, Kind.WELCOME), frame
        kinds.add(frame.kind)
    return Kind.ERROR in kinds


def wild_body(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(5000))
    if kind == 1:
        return rng.choice([b"\x91", b"\xdd\x00\x00\x10\x00", b"\x81\xa1k"]) * rng.randrange(9000)
    if kind == 2:
        return msgpack.packb([[]] * rng.randrange(100_000))
    if kind == 3:
        return msgpack.packb([wild_field(rng) for _ in range(rng.randrange(10))])
    if kind == 4:
        return rng.choice([b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
    return msgpack.packb([0, 0, 1, rng.randbytes(rng.randrange(2000))])


def wild_field(rng: random.Random) -> object:
    return rng.choice(
        [None, True, 0, 1, -1, 2**63, 2**64 - 1, 0.5, "", "text", b"", b"key", [], [b"k"], {}]
    )


def unknown_group(rng: random.Random) -> list[object]:
    """A whole message of a group that is not there."""
    return [5, rng.randrange(1000, 2**64), 1, 2, rng.randrange(2**30), 9, 4]


def impossible(rng: random.Random, group: int) -> bytes:
    rows: list[object] = [
        [99, group],
        [5, group, 1, 2, 2**63, 9, 4],
        [9, group, 1, 2, -3],
        [3, group, 1, 2, 3, 9, 2, 9, [3, 9, b""]],
        [3, group, 1, 2, 3, 9, 2, 9, [5, 0, b"not a command"]],
        [3, group, 1, 2, 3, 2**64 - 1, 2, 9, [3, 0, b""]],
        [10, group, 1, 2, 3, 100, 2, 1, 0, [[], [], [], []], b"rows", True],
        [10, group, 1, 2, 3, 100, 2, 1, 0, [[2, 1], [], [], []], b"", True],
        [rng.randrange(1, 12), *(wild_field(rng) for _ in range(rng.randrange(12)))],
        None,
    ]
    bad = rng.choice(rows)
    if isinstance(bad, list) and rng.random() < 0.3:
        bad[rng.randrange(len(bad))] = "text"
    return msgpack.packb([unknown_group(rng), bad, b"at the latest this"])
