"""A node that was removed: it hears of it in whatever way, says so once, and falls silent."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from loopback_support import connections, listening, until
from membership_support import (
    MAP,
    N1,
    N2,
    N3,
    N4,
    WALL_MS,
    Clock,
    MembershipRig,
    claim,
    gossip,
    lines,
    pass_time,
    ping,
    sender,
)

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig
from kvstore.errors import ClockAhead, KVError, Refused, Removed
from kvstore.net.transport import Lane
from kvstore.server.membership import MemberCouriers, Membership
from kvstore.storage.membership_file import Remembered
from kvstore.swim.claims import State
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loopback_support import Listener

    from kvstore.ids import NodeId
    from kvstore.net.contacts import ContactBook
    from kvstore.net.peers import PeerPool

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
    """By the shard map."""
    rig.membership.go_by(replace(MAP, nodes=MAP.nodes[1:], removed=(N1,)))
    rig.pass_time(1.0)


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


def test_a_member_that_claims_it_expels_nobody_but_may_make_it_ask_for_the_map(
    rig: MembershipRig,
) -> None:
    said = gossip(N2, claim(N1, State.REMOVED, accuser=N2), claim(N3, State.REMOVED, accuser=N2))
    rig.receive(replace(said, sender=sender(N2, map_version=9)))
    assert not rig.membership.is_expelled
    assert not rig.membership.is_removed(N3)
    assert [sent.node for sent in rig.couriers.take(Kind.MAP_PULL)] == [N2]


def test_whoever_listens_where_no_member_is_known_to_cannot_expel_a_node(
    rig: MembershipRig,
) -> None:
    error = Removed("n1 was removed from this cluster")
    rig.membership.refused(error, "n4:1")
    assert not rig.membership.is_expelled
    rig.membership.refused(error, "n2:1")
    assert rig.membership.is_expelled


@pytest.mark.parametrize("error", [Refused("no"), ClockAhead("too fast")])
def test_who_is_turned_away_for_another_reason_was_not_removed(
    error: KVError, rig: MembershipRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.membership.refused(error)
    rig.receive(ping(N2))
    assert rig.couriers.take(Kind.SWIM) != []
    assert not rig.membership.is_expelled
    assert SAID.format("n1") not in caplog.text


class Returned:
    """``n4``, which does not know yet that it was removed; its time is the test's."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.refusals = 0
        self.membership: Membership

    def start(
        self, data_dir: Path, pool: PeerPool, contacts: ContactBook, seeds: Sequence[Listener]
    ) -> None:
        cluster = ClusterConfig("c", (), seeds=tuple(seed.address for seed in seeds))
        self.membership = Membership(
            NodeConfig(N4, data_dir, cluster, joining=NodeAddress(N4, "n4:1")),
            Remembered(),
            MemberCouriers(pool, contacts),
            None,
            clock=self.clock,
            wall_ms=lambda: WALL_MS,
            cpu_s=lambda: 0.0,
            rng=random.Random(1),
        )

    def refused(self, error: KVError) -> None:
        self.refusals += 1
        self.membership.refused(error)

    def hint(self, node: NodeId, is_gone: bool) -> None:
        self.membership.driver.hint(node, is_gone=is_gone)

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.membership.driver, seconds)


async def test_a_removed_node_that_comes_back_by_contacts_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    back = Returned()
    async with (
        listening("n5", "n6") as others,
        connections(N4, {}, back.refused, back.hint) as (pool, contacts),
    ):
        for other in others:
            other.refusal = Removed("n4 was removed from this cluster")
        back.start(tmp_path, pool, contacts, others)
        while not back.membership.is_expelled:
            back.pass_time(0.1)
            await until(lambda: contacts._dials() == [])
        back.pass_time(1000)
        assert contacts._dials() == [], "it has nothing to say"
        told = [other.dialled_on for other in others]
    assert [Lane.CONTACT] in told
    assert all(lanes in ([], [Lane.CONTACT]) for lanes in told)
    assert complaints(caplog) == [SAID.format("n4")]


async def test_a_removed_node_that_comes_back_to_its_standing_peers_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    back = Returned()
    async with listening("n5", "n6", "n7") as others:
        for other in others:
            other.refusal = Removed("n4 was removed from this cluster")
        peers = {other.node: other.address for other in others}
        async with connections(N4, peers, back.refused, back.hint) as (pool, contacts):
            back.start(tmp_path, pool, contacts, others)
            await until(lambda: back.refusals == len(others))
            assert back.membership.is_expelled
            back.pass_time(1000)
            assert contacts._dials() == []
    assert [other.dialled_on for other in others] == [[Lane.CONTROL]] * len(others)
    assert complaints(caplog) == [SAID.format("n4")]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What ``n4`` has said that should be looked at; what the others say is their servers'."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname not in ("DEBUG", "INFO") and record.name != "kvstore.net.server"
    ]
