"""What a leader does about its group's members, by the map that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from server_support import NODES, OWN, Rig, settle

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, NodeId, ReplicaId
from kvstore.raft.messages import AppendRequest, AppendResponse, HeartbeatResponse, TimeoutNow
from kvstore.server.replicas import ReplicaNodes
from kvstore.server.reshaper import BUSY_INTERVAL_S, IDLE_INTERVAL_S, Reshaper
from kvstore.sharding import changes
from kvstore.sharding.shard_map import ShardMap, bootstrap

if TYPE_CHECKING:
    from kvstore.sharding.known import Report

TWO, N2, N4 = ReplicaId(2), NodeId("n2"), NodeId("n4")
GROUP = GroupId(1)


class Reshaped:
    """The leader of one group, one of whose replicas is to give way to one on n4."""

    def __init__(self, goes: NodeId = N2) -> None:
        self.rig = Rig()
        nodes = tuple(NodeAddress(NODES[ReplicaId(n)], f"h:{n}") for n in (1, 2, 3))
        founded = bootstrap(ClusterConfig(id="c", nodes=nodes, shards=1))
        admitted = changes.admit(founded, N4, "h:4", 1.0, "")
        self.resting = changes.succeed(founded, admitted)
        self.moving = changes.succeed(self.resting, changes.begin(self.resting, GROUP, N4, goes))
        self.map: ShardMap | None = self.moving
        self.lives: dict[NodeId, int] = {N4: 0}
        self.reports: list[Report] = []
        self.rig.host.replicas = ReplicaNodes({n: NODES[ReplicaId(n)] for n in (1, 2, 3, 4)})
        self.reshaper = Reshaper(
            self.rig.driver,
            shard_map=lambda: self.map,
            lives=self.lives.get,
            tell=self.reports.extend,
            clock=lambda: self.rig.now,
        )

    @property
    def comes(self) -> ReplicaId:
        added = self.moving.changes[0].add
        assert added is not None
        return added.id

    async def check(self) -> None:
        """Look once; replicas 2 and 3 are there and take in whatever follows."""
        for voter in (TWO, ReplicaId(3)):
            self.rig.hear(HeartbeatResponse(voter, OWN, self.rig.host.core.term, 0))
        self.reshaper.check()
        await settle()

    async def commit(self) -> None:
        for voter in (TWO, ReplicaId(3)):
            await self.rig.acknowledge(by=voter)

    async def until_caught_up(self) -> None:
        """Who is to come is a learner and has the whole log."""
        await self.check()
        await self.commit()
        core = self.rig.host.core
        has_all = AppendResponse(self.comes, OWN, core.term, core.last_index)
        self.rig.driver.receive(N4, [(GROUP, has_all)])

    @property
    def learners(self) -> tuple[ReplicaId, ...]:
        return self.rig.host.core.config.learners


@pytest.fixture
async def it() -> Reshaped:
    reshaped = Reshaped()
    await reshaped.rig.lead()
    return reshaped


async def test_who_is_to_come_becomes_a_learner_and_that_is_told_once_committed(
    it: Reshaped,
) -> None:
    await it.check()
    assert it.learners == (it.comes,)
    assert it.rig.host.core.config.epoch == it.moving.version
    assert it.reports == []
    await it.commit()
    await it.check()
    assert [report.learners for report in it.reports] == [{it.comes}]
    assert [report.epoch for report in it.reports] == [it.moving.version]


async def test_who_has_caught_up_takes_the_place_of_who_is_to_go(it: Reshaped) -> None:
    await it.check()
    await it.commit()
    await it.check()
    assert it.learners == (it.comes,), "it has nothing yet"
    core = it.rig.host.core
    has_all = AppendResponse(it.comes, OWN, core.term, core.last_index)
    it.rig.driver.receive(N4, [(GROUP, has_all)])
    await it.check()
    config = it.rig.host.core.config
    assert set(config.voters) == {OWN, ReplicaId(3), it.comes}
    assert TWO in config.voters_outgoing


async def test_a_leader_that_is_to_go_hands_over_to_one_that_stays() -> None:
    it = Reshaped(goes=NODES[OWN])
    await it.rig.lead()
    await it.until_caught_up()
    await it.check()
    core = it.rig.host.core
    assert core.is_handing_over
    preferred = it.moving.members(GROUP)[0].id
    assert preferred not in (OWN, TWO), "the first one that could"
    assert [told.receiver for told in it.rig.peers.messages(TimeoutNow)] == [preferred]
    assert OWN in core.config.voters
    assert not core.config.voters_outgoing


async def test_a_leader_that_nobody_relieves_goes_as_it_is() -> None:
    it = Reshaped(goes=NODES[OWN])
    await it.rig.lead()
    await it.until_caught_up()
    await it.check()
    it.rig.now += 10.0
    it.rig.driver.tick()
    await settle()
    core = it.rig.host.core
    assert not core.is_handing_over
    await it.until_caught_up()
    await it.check()
    assert OWN not in core.config.voters
    assert len(it.rig.peers.messages(TimeoutNow)) == 1, "once a term"


async def test_who_is_not_connected_is_waited_for(it: Reshaped) -> None:
    it.lives.clear()
    await it.check()
    assert it.learners == ()


async def test_without_a_map_nothing_is_done(it: Reshaped) -> None:
    it.map = None
    await it.check()
    assert it.learners == ()
    assert it.reports == []


async def test_a_leader_that_knows_only_an_older_map_than_its_group_does_nothing(
    it: Reshaped,
) -> None:
    await it.check()
    await it.commit()
    sent = len(it.rig.peers.messages(AppendRequest))
    it.map = it.resting
    await it.check()
    assert it.learners == (it.comes,), "by the older map it would have been sent away"
    assert len(it.rig.peers.messages(AppendRequest)) == sent


async def test_who_does_not_lead_does_and_says_nothing() -> None:
    it = Reshaped()
    await it.check()
    assert it.learners == ()
    assert it.reports == []


async def test_it_looks_more_often_while_something_moves(it: Reshaped) -> None:
    assert it.reshaper.interval_s() == BUSY_INTERVAL_S
    it.map = it.resting
    assert it.reshaper.interval_s() == IDLE_INTERVAL_S
