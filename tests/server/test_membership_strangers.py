"""A node in this process, and one that says to it what it should not: a clear line, no harm."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from membership_support import N1, N2, N3, lines
from server_support import until

from kvstore.cli.asking import ask_one
from kvstore.config import MIB, ClusterConfig, LimitsConfig, NodeAddress, NodeConfig, WalConfig
from kvstore.errors import ClockAhead, KVError, ProtocolError, Refused
from kvstore.ids import NodeId
from kvstore.net.dial import dial
from kvstore.net.limits import NetLimits
from kvstore.net.transport import Lane
from kvstore.server import fatal
from kvstore.server.node import Node
from kvstore.swim.claims import (
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    METADATA_BYTES_MAX,
    Claim,
    Metadata,
    State,
    Vitals,
)
from kvstore.swim.messages import Gossip, Sender
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import decode_members_reply
from kvstore.wire.swim_codec import encode_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from kvstore.net.connection import FrameConnection

N9 = NodeId("n9")
NOWHERE = "127.0.0.1:1"
HOUR_MS = 3_600_000
DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def _process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node takes hold of the garbage collector, and must not end this process."""
    thresholds = gc.get_threshold()
    died: list[BaseException] = []
    monkeypatch.setattr(fatal, "die", died.append)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    assert died == []


def config_in(data_dir: Path, cluster_id: str = "c", *seeds: str) -> NodeConfig:
    """Of ``n1``, the only node of its cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = "127.0.0.1:{1}".format(*probe.getsockname())
    founders = (NodeAddress(N1, own),)
    return NodeConfig(
        node_id=N1,
        data_dir=data_dir,
        cluster=ClusterConfig(cluster_id, founders, shards=1, replicas=1, seeds=seeds),
        wal=WalConfig(segment_bytes=MIB, live_bytes_max=4 * MIB, reserve_bytes=64 * 1024),
    )


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """Where ``n1`` listens."""
    config = config_in(tmp_path / "n1")
    async with Node(config):
        yield config.address.address


def hello() -> Hello:
    now_ms = time.time_ns() // 1_000_000
    return Hello("peer", "test", now_ms, "c", N9, Lane.CONTACT.value, data_id=9)


async def dialled(address: str, said: Hello) -> FrameConnection:
    return await dial(
        address,
        said,
        limits=NetLimits.of(LimitsConfig()),
        timeout_s=DEADLINE_S,
        on_frames=lambda connection, frames: None,
    )


@asynccontextmanager
async def peer(address: str) -> AsyncIterator[FrameConnection]:
    """``n9`` has come."""
    connection = await dialled(address, hello())
    try:
        yield connection
    finally:
        connection.abort()
        await connection.wait_closed()


def say(connection: FrameConnection, *claims: Claim, name: NodeId = N9) -> None:
    message = Gossip(Sender(name, NOWHERE, 1, Vitals()), claims)
    connection.send(encode_frame(Kind.SWIM, 0, encode_message(message)))


async def view(address: str) -> dict[NodeId, tuple[str, int]]:
    body = await ask_one(address, Kind.MEMBERS, wait_s=DEADLINE_S)
    return {row.id: (row.state, row.incarnation) for row in decode_members_reply(body).members}


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", words)
        for level, words in lines(caplog)
        if level != "INFO"
    ]


# -- seeds ----------------------------------------------------------------------------------


async def test_seeds_that_answer_nothing_are_a_line_each_and_the_node_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        silent = "127.0.0.1:{1}".format(*frozen.getsockname())
        config = config_in(tmp_path / "n1", "c", NOWHERE, silent)
        async with Node(config):

            def is_said() -> bool:
                said.extend(words for level, words in lines(caplog) if level != "INFO")
                return len(said) >= 2

            await until(is_said)
            assert await view(config.address.address) == {N1: ("alive", 1)}
    assert {re.sub(r": .*", "", words.removeprefix("the seed ")) for words in said} == {
        f"{seed} does not answer, and is asked again" for seed in (NOWHERE, silent)
    }
    assert len(said) == 2


async def test_a_seed_of_another_cluster_is_a_line_on_both_sides(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    config = config_in(tmp_path / "other", "other", address)
    async with Node(config):

        def is_said() -> bool:
            said.extend(complaints(caplog))
            return len(said) >= 2

        await until(is_said)
        for asked in (address, config.address.address):
            assert await view(asked) == {N1: ("alive", 1)}
    why = "this is cluster 'c', not 'other'"
    assert sorted(said) == [
        f"closed the connection from ADDRESS (n1): {why}",
        f"nobody of this cluster answers at ADDRESS: {why}",
    ]


# -- what is not let in at all --------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"node_id": N1}, Refused, "two nodes are called n1"),
        ({"data_id": 10}, Refused, "two nodes are called n9: the other one is still there"),
        ({"cluster_id": "other"}, Refused, "this is cluster 'c', not 'other'"),
        ({"wall_ms": hello().wall_ms + HOUR_MS}, ClockAhead, "n9's clock is"),
    ],
    ids=["our name", "a taken name", "another cluster", "a clock ahead"],
)
async def test_who_is_not_to_be_talked_to_is_turned_away_in_one_line(
    address: str,
    said: dict[str, Any],
    error: type[KVError],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with peer(address):  # it is remembered by its data directory from now on
        before = await view(address)
    caplog.clear()
    for _ in range(3):
        with pytest.raises(error, match=words):
            await dialled(address, replace(hello(), **said))
    (line,) = complaints(caplog)
    assert line.startswith(f"closed the connection from ADDRESS ({said.get('node_id', N9)}): ")
    assert words in line
    assert await view(address) == before == {N1: ("alive", 1)}


# -- what costs the connection --------------------------------------------------------------

TOO_LONG = Metadata(NOWHERE, "z" * METADATA_BYTES_MAX)


@pytest.mark.parametrize(
    ("claims", "name", "words"),
    [
        (
            [Claim(N9, State.ALIVE, 1, TOO_LONG)], N9,
            "swim: metadata of n9 has 611 bytes, more than 600",
        ),
        ([], N2, "swim: n9 speaks in the name of n2"),
        ([], N1, "swim: n9 speaks in the name of n1"),
    ],
    ids=["metadata over the limit", "in the name of another", "in our own name"],
)  # fmt: skip
async def test_what_cannot_be_said_costs_the_connection_and_is_one_line(
    address: str,
    claims: list[Claim],
    name: NodeId,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fine = Claim(N3, State.DEAD, 1, Metadata(NOWHERE))
    for _ in range(3):
        async with peer(address) as connection:
            say(connection, fine, *claims, name=name)
            await until(connection.closed.done)
            assert isinstance(connection.reason, ProtocolError)
            assert connection.reason.message == words
    assert complaints(caplog) == [f"closed the connection from ADDRESS (n9): {words}"]
    assert await view(address) == {N1: ("alive", 1)}, "nor is what else came with it believed"


# -- what is not believed -------------------------------------------------------------------


async def test_absurd_incarnations_are_not_believed_and_are_a_line_for_each_member(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = Metadata(NOWHERE)
    too_far = 2 + INCARNATION_JUMP_MAX
    async with peer(address) as connection:
        for further in range(3):
            say(
                connection,
                Claim(N9, State.ALIVE, 1 + INCARNATION_MAX + further, said),
                Claim(N1, State.DEAD, too_far + further, said, N9),
            )
        say(connection, Claim(N3, State.LEFT, 1, said))
        async with asyncio.timeout(DEADLINE_S):
            while N3 not in await view(address):
                assert connection.is_open
        assert await view(address) == {N1: ("alive", 1), N3: ("left", 1)}
    assert complaints(caplog) == [
        f"{whose} (incarnation {claimed}): incarnation {claimed}"
        for whose, claimed in (
            ("n9 cannot have come as far as is claimed", 1 + INCARNATION_MAX),
            ("n1 cannot have come as far as is claimed by n9", too_far),
        )
    ]
