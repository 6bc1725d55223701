"""A node under siege from all sides serves its clients, and keeps its memory and sockets.

Attackers of every kind hit one node of three at once and without pause, while a client
reads and writes. ``SIEGE_S`` is how long (10 s by default); nothing asserts a duration.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest
from cluster_harness import RunningCluster, made, wait_for
from strangers import HELLO, Stranger, calling

from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.process import State
from kvstore.ids import NodeId
from kvstore.net.transport import STANDING_LANES
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, encode_hello
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.cli.launcher.node import Node

SIEGE_S = float(os.environ.get("SIEGE_S", "10"))
WARM_UP_ROUNDS = 3
"""Of every attacker, after which the node's memory is compared with what it is at the end."""
ROUNDS_MIN = 6
"""So many attacks of every kind must have got through to the node in the end."""
GROWTH_BYTES_MAX = 16 << 20
"""Of a process of about 52 MiB. Measured: 5 to 6 MiB within 10 s and some 5,000 attacks, 12 MiB
within 150 s and 15,000, ever more slowly."""
PAUSE_S = 0.005
KINDS = sorted(Kind)
TCP_LISTEN = "0A"


class Besieged:
    """The node that is attacked, seen from outside."""

    def __init__(self, running: RunningCluster) -> None:
        self.running = running
        self.node: Node = running.nodes[0]

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.node.pid()}")

    def rss_bytes(self) -> int:
        return int((self._proc / "statm").read_text().split()[1]) * resource.getpagesize()

    def connections(self) -> int:
        """TCP connections that the node has a descriptor for, in whatever state they are."""
        rows = [line.split() for line in (self._proc / "net/tcp").read_text().splitlines()[1:]]
        tcp = {f"socket:[{row[9]}]" for row in rows if row[3] != TCP_LISTEN}
        return sum(_link(path) in tcp for path in (self._proc / "fd").iterdir())

    async def is_at_peace(self) -> bool:
        """Nothing is connected but the two other nodes, each way and on each standing lane."""
        return self.connections() == 2 * 2 * len(STANDING_LANES)

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


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


@pytest.fixture
def besieged(tmp_path: Path) -> Iterator[Besieged]:
    with made(tmp_path / "kv", Wanted(nodes=3, shards=4, base_port=0)) as running:
        config = running.nodes[0].files.config_file
        config.write_text(config.read_text() + "\n[limits]\nhello_timeout_s = 2.0\n")
        yield Besieged(running)


# -- one attack of each kind ----------------------------------------------------------------


async def random_bytes(target: Besieged, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        stranger.send(rng.randbytes(rng.randrange(1, 20_000)))
        return await is_turned_out(stranger)


async def half_frames_held_open(target: Besieged, rng: random.Random) -> bool:
    async with AsyncExitStack() as held:
        for _ in range(10):
            stranger = await held.enter_async_context(calling(target.node))
            await stranger.greet()
            size = rng.randrange(1, 1 << 20)
            head = struct.pack(">IBBQ", size + 10, rng.choice(KINDS), 0, 7)
            stranger.send(head + bytes(rng.randrange(size)))
        await asyncio.sleep(0.1)
    return True


async def a_hello_and_then_garbage(target: Besieged, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        await stranger.greet()
        stranger.send(struct.pack(">I", rng.choice([0, 9, 0xFFFFFFFF])))
        stranger.send(rng.randbytes(rng.randrange(1, 20_000)))
        return await is_turned_out(stranger)


async def frames_with_wild_bodies(target: Besieged, rng: random.Random) -> bool:
    """Every kind: of those that are answered the answer is awaited."""
    async with calling(target.node) as stranger:
        await stranger.greet()
        for kind in rng.sample(range(7, 256), 20) + [each for each in KINDS if each > Kind.GOODBYE]:
            stranger.send(encode_frame(kind, 7, wild_body(rng), flags=rng.choice([0, 0, 0, 1])))
            stranger.send(encode_frame(Kind.PING, 8, b""))
            while (frame := await stranger.frame()) is not None and frame.kind != Kind.PONG:
                assert frame.kind in (Kind.ERROR, Kind.REPLY)
            if frame is None:
                return True
    return True


async def handshakes_with_wild_bodies(target: Besieged, rng: random.Random) -> bool:
    turned_out = []
    for kind in KINDS:
        async with calling(target.node) as stranger:
            stranger.send(encode_frame(kind, rng.choice([0, 7]), wild_body(rng)[:4000]))
            stranger.send(rng.randbytes(20))
            turned_out.append(await is_turned_out(stranger))
    return all(turned_out)


async def a_hello_drop_by_drop(target: Besieged, rng: random.Random) -> bool:
    """All but the last byte of it, until the node has had enough."""
    async with calling(target.node) as stranger:
        for byte in encode_frame(Kind.HELLO, 0, encode_hello(HELLO))[:-1]:
            stranger.send(bytes([byte]))
            await asyncio.sleep(0.02)
        return await is_turned_out(stranger)


async def opened_and_dropped(target: Besieged, rng: random.Random) -> bool:
    for _ in range(20):
        async with calling(target.node) as stranger:
            if rng.random() < 0.5:
                stranger.send(rng.randbytes(rng.randrange(1, 50)))
    return True


async def questions_without_listening(target: Besieged, rng: random.Random) -> bool:
    async with calling(target.node) as stranger:
        await stranger.greet()
        stranger.stop_reading()
        for kind in (Kind.STATUS, Kind.SHARD_MAP, Kind.PING):
            stranger.send(encode_frame(kind, 7, b"") * rng.randrange(100))
    return True


async def a_peer_with_impossible_messages(target: Besieged, rng: random.Random) -> bool:
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


Attack = Callable[[Besieged, random.Random], Awaitable[bool]]
"""Whether it got through: the node has heard it, as far as an attacker can tell."""

ATTACKS: tuple[Attack, ...] = (
    random_bytes,
    half_frames_held_open,
    a_hello_and_then_garbage,
    frames_with_wild_bodies,
    handshakes_with_wild_bodies,
    a_hello_drop_by_drop,
    opened_and_dropped,
    questions_without_listening,
    a_peer_with_impossible_messages,
)


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


# -- the siege ------------------------------------------------------------------------------


class Siege:
    """One attacker of each kind, each at it again and again until told to stop."""

    def __init__(self, target: Besieged) -> None:
        self._target = target
        self.is_over = False
        self.rounds = dict.fromkeys(ATTACKS, 0)
        self.got_through = dict.fromkeys(ATTACKS, 0)

    async def attack(self, attack: Attack) -> None:
        for seed in count():
            if self.is_over:
                break
            rng = random.Random(f"{attack.__name__} {seed}")
            self.rounds[attack] += 1
            self.got_through[attack] += await attack(self._target, rng)
            await asyncio.sleep(PAUSE_S)

    def __str__(self) -> str:
        return ", ".join(
            f"{attack.__name__} {self.got_through[attack]} of {rounds}"
            for attack, rounds in self.rounds.items()
        )

    async def is_warm(self) -> bool:
        return min(self.got_through.values()) >= WARM_UP_ROUNDS

    async def has_proved_something(self) -> bool:
        return min(self.got_through.values()) >= ROUNDS_MIN


async def work(running: RunningCluster, siege: Siege) -> int:
    """The good client: every operation of it must succeed and be right."""
    done = 0
    async with running.connect() as store:
        while not siege.is_over:
            key, value = f"good-{done % 100}", b"%d" % done
            await store.put(key, value)
            item = await store.get(key)
            assert item is not None
            assert item.value == value
            done += 1
            await asyncio.sleep(PAUSE_S)
    return done


async def test_a_siege(besieged: Besieged) -> None:
    running = besieged.running
    await running.start()
    async with running.connect() as store:
        await store.put("before", b"the siege")
    await wait_for(besieged.is_at_peace, "the nodes are connected")
    siege = Siege(besieged)
    async with asyncio.TaskGroup() as group:
        good = group.create_task(work(running, siege))
        for attack in ATTACKS:
            group.create_task(siege.attack(attack))
        await wait_for(siege.is_warm, "every attacker has had its rounds")
        before_bytes = besieged.rss_bytes()
        await asyncio.sleep(SIEGE_S)
        await wait_for(siege.has_proved_something, "every attacker has got through")
        siege.is_over = True
    assert good.result() > 10, "the client did too little to prove anything"
    assert besieged.node.state() is State.RUNNING
    grown_bytes = besieged.rss_bytes() - before_bytes
    assert grown_bytes < GROWTH_BYTES_MAX, f"{grown_bytes >> 20} MiB more; {siege}"
    await wait_for(besieged.is_at_peace, "every connection of the attackers is closed")
    log = besieged.node.files.log_file.read_text()
    assert "Traceback" not in log
    assert "could not be handled" not in log
    async with running.connect() as store:
        assert (await store.get("before")) is not None
