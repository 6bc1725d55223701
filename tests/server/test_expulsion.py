"""A node that was removed: it hears of it in whatever way, says so once, and falls silent."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from membership_support import (
    N1,
    N2,
    N4,
    WALL_MS,
    Clock,
    MembershipRig,
    claim,
    gossip,
    lines,
    pass_time,
    ping,
)
from net_harness import LIMITS, PEER, listening, until, within

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig
from kvstore.errors import ClockAhead, KVError, Refused, Removed
from kvstore.ids import NodeId
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.transport import Lane
from kvstore.server.membership import MemberCouriers, Membership, make_contacts
from kvstore.storage.membership_file import Remembered
from kvstore.swim.claims import State
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from net_harness import Node

    from kvstore.net.connection import FrameConnection
    from kvstore.server.handshake import Handshake
    from kvstore.wire.hello import Hello, Welcome

SAID = (
    "{} was removed from cluster c for good and takes no part any more; to use this machine "
    "again, start a node here with another name and an empty data directory"
)


@pytest.fixture
def rig(tmp_path: Path) -> MembershipRig:
    return MembershipRig(tmp_path)


def be_refused(rig: MembershipRig) -> None:
    rig.membership.refused(Removed("n1 was removed"))


def be_told(rig: MembershipRig) -> None:
    rig.receive(gossip(N2, claim(N1, State.REMOVED, accuser=N2)))


@pytest.mark.parametrize("hear", [be_refused, be_told])
def test_a_removed_node_says_so_once_and_nothing_else(
    hear: Callable[[MembershipRig], None], rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.receive(ping(N2))
    assert rig.couriers.messages() != []
    called: list[bool] = []
    rig.membership.on_expelled = lambda: called.append(rig.membership.is_expelled)
    caplog.clear()
    for _ in range(3):
        hear(rig)
    be_refused(rig)
    assert [words for level, words in lines(caplog) if level == "WARNING"] == [SAID.format("n1")]
    assert called == [True]
    rig.couriers.sent.clear()
    rig.receive(ping(N2, map_version=9))
    rig.membership.driver.hint(N2, is_gone=True)
    rig.membership.driver.greet(N4, "n4:1")
    rig.pass_time(100)
    assert rig.couriers.sent == []
    assert [words for level, words in lines(caplog) if level == "WARNING"] == []


@pytest.mark.parametrize("error", [Refused("no"), ClockAhead("too fast")])
def test_who_is_turned_away_for_another_reason_was_not_removed(
    error: KVError, rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.membership.refused(error)
    rig.receive(ping(N2))
    assert rig.couriers.take(Kind.SWIM) != []
    assert not rig.membership.is_expelled
    assert SAID.format("n1") not in caplog.text


class Removals:
    """Others that tell whoever dials that it was removed, and whom they told."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.told: list[Lane] = []
        for node in nodes:
            node.server._on_hello = self._tell

    def _tell(self, connection: FrameConnection, hello: Hello) -> Welcome:
        assert hello.lane is not None
        self.told.append(Lane(hello.lane))
        raise Removed("n4 was removed from this cluster")


class Returned:
    """``n4``, which does not know yet that it was removed, its time in the hands of the test."""

    def __init__(self, data_dir: Path, standing: Sequence[Node], seeds: Sequence[Node]) -> None:
        self.refusals: list[NodeId] = []
        self.clock = Clock(1000.0)
        handshake = SimpleNamespace(make_hello=self._hello, check_welcome=lambda *said: None)
        self.pool = PeerPool(
            {node.node_id: node.address for node in standing},
            PeerCallbacks(
                make_hello=self._hello,
                check_welcome=lambda node, welcome: None,
                on_connected=lambda node: None,
                on_gone=lambda node: None,
                on_dropped=lambda node, lane: None,
                on_refused=self._refused,
            ),
            limits=LIMITS,
            rng=random.Random(1),
        )
        self.contacts = make_contacts(
            cast("Handshake", handshake),
            limits=LIMITS,
            rng=random.Random(1),
            hint=lambda node, *, is_gone: self.membership.driver.hint(node, is_gone=is_gone),
            on_refused=lambda error: self.membership.refused(error),
        )
        own = NodeAddress(N4, "n4:1")
        cluster = ClusterConfig("c", (), seeds=tuple(node.address for node in seeds))
        known = tuple((claim(NodeId(f"m{number}")), 0.0) for number in range(20))
        self.membership = Membership(
            NodeConfig(N4, data_dir, cluster, joining=own),
            Remembered(1, WALL_MS, known),
            MemberCouriers(self.pool, self.contacts),
            None,
            clock=self.clock,
            wall_ms=lambda: WALL_MS,
            cpu_s=lambda: 0.0,
            rng=random.Random(1),
        )

    def _hello(self, lane: Lane) -> Hello:
        return replace(PEER, node_id=N4, lane=lane)

    def _refused(self, node: NodeId, error: KVError) -> None:
        self.refusals.append(node)
        self.membership.refused(error)

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.membership.driver, seconds)


async def test_a_removed_node_that_comes_back_by_contacts_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(node_id="n5") as node, listening(node_id="n6") as other:
        removals = Removals([node, other])
        returned = Returned(tmp_path, [], [node, other])
        returned.contacts.start()
        while not returned.membership.is_expelled:
            returned.pass_time(0.1)
            await until(lambda: returned.contacts._dials() == [])
        returned.pass_time(1000)
        assert returned.contacts._dials() == [], "it has nothing to say"
        await within(returned.contacts.close())
    assert set(removals.told) == {Lane.CONTACT}
    assert len(removals.told) <= 2, "each told it once at most"
    assert complaints(caplog) == [SAID.format("n4")]


async def test_a_removed_node_that_comes_back_to_its_standing_peers_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as running:
        names = ("n5", "n6", "n7")
        nodes = [await running.enter_async_context(listening(node_id=name)) for name in names]
        removals = Removals(nodes)
        returned = Returned(tmp_path, nodes, nodes)
        returned.contacts.start()
        returned.pool.start()
        await until(lambda: len(returned.refusals) == len(nodes))
        assert returned.membership.is_expelled
        returned.pass_time(1000)
        assert returned.contacts._dials() == []
        await within(returned.pool.close())
        await within(returned.contacts.close())
    assert removals.told == [Lane.CONTROL] * len(nodes)
    assert complaints(caplog) == [SAID.format("n4")]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What ``n4`` has said that should be looked at; what the others say is their servers'."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname not in ("DEBUG", "INFO") and record.name != "kvstore.net.server"
    ]
