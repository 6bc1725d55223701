"""How a leader takes a repaired node back in: as a learner, then as a voter."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from server_support import NODES, OWN, Rig, settle

from kvstore.errors import InvalidArgument
from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId, Term, life_of, replica_id
from kvstore.raft.confchange import encode
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    Heartbeat,
    TimeoutNow,
    VoteRequest,
)
from kvstore.raft.ready import Role
from kvstore.server import rejoin as rejoin_module
from kvstore.server.rejoin import (
    LEARNERS_MAX,
    PATIENCE_S,
    REMINDER_S,
    Change,
    Rejoin,
    keep_rejoining,
    next_change,
)
from kvstore.server.replicas import ReplicaNodes
from kvstore.server.shard_host import GATHER_S
from kvstore.server.status import shard_status
from kvstore.sharding.shard_map import Replica
from kvstore.storage import records

if TYPE_CHECKING:
    from kvstore.server.shard_host import ShardHost

R1, R2, R3 = map(ReplicaId, (1, 2, 3))
N2, N3 = NodeId("n2"), NodeId("n3")


def new(number: int, life: int) -> ReplicaId:
    return replica_id(number, life)


# -- where replicas are ------------------------------------------------------------------------


def test_a_replica_of_any_life_is_found_on_its_node() -> None:
    replicas = ReplicaNodes.of([Replica(R1, NodeId("n1")), Replica(R3, N3)])
    for life in (0, 1, 1_700_000_000, (1 << 32) - 1):
        assert replicas.get(new(3, life)) == replicas[new(3, life)] == "n3"
        assert new(3, life) in replicas
        assert new(2, life) not in replicas
        assert replicas.get(new(2, life)) is None
    with pytest.raises(KeyError):
        replicas[R2]
    replicas.learn({2: NodeId("n2")})
    assert replicas[new(2, 7)] == "n2"
    assert replicas[R1] == "n1", "whoever was known stays known"


def test_an_id_of_the_founding_is_the_nodes_number_and_fits_the_log() -> None:
    assert [replica_id(number, 0) for number in (1, 2, 3)] == [1, 2, 3]
    latest = replica_id(3, (1 << 32) - 1)
    assert life_of(latest) == (1 << 32) - 1
    assert records.encode_hard_state(GroupId(1), Term(1), latest)


# -- the next step, as a function --------------------------------------------------------------


def step(
    config: GroupConfig,
    latest: dict[ReplicaId, ReplicaId],
    *,
    caught_up: tuple[ReplicaId, ...] = (),
    may_begin: bool = True,
) -> Change | None:
    return next_change(
        config,
        latest,
        is_caught_up=lambda replica: replica in caught_up,
        may_begin=lambda replica: may_begin,
    )


VOTERS = (R1, R2, R3)
A, B = new(3, 5), new(3, 6)
OTHER = new(2, 4)


@pytest.mark.parametrize(
    ("learners", "latest", "caught_up", "expected"),
    [
        ((), {}, (), None),
        ((), {R3: A}, (), Change(frozenset(VOTERS), frozenset({A}), A)),
        ((A,), {R3: A}, (), None),
        ((A,), {R3: A}, (A,), Change(frozenset({R1, R2, A}), frozenset(), A)),
        ((A,), {R3: B}, (A,), Change(frozenset(VOTERS), frozenset({B}), B)),
        ((B,), {R3: A}, (A, B), None),
        ((A, B), {R3: B}, (A, B), Change(frozenset({R1, R2, B}), frozenset(), B)),
        ((OTHER,), {R3: A}, (), Change(frozenset(VOTERS), frozenset({OTHER, A}), A)),
        (
            (OTHER, A),
            {R2: OTHER, R3: A},
            (A,),
            Change(frozenset({R1, R2, A}), frozenset({OTHER}), A),
        ),
        ((OTHER,), {}, (OTHER,), None),
    ],
    ids=[
        "nobody was repaired",
        "a learner",
        "which is not caught up",
        "and a voter when it is",
        "a learner of a life that is over gives way",
        "but not to an earlier life, which another leader let in",
        "nor does it stay behind",
        "others' learners stay",
        "one at a time",
        "a learner whose node is away waits",
    ],
)
def test_the_next_step(
    learners: tuple[ReplicaId, ...],
    latest: dict[ReplicaId, ReplicaId],
    caught_up: tuple[ReplicaId, ...],
    expected: Change | None,
) -> None:
    config = GroupConfig(VOTERS, learners=learners)
    assert step(config, latest, caught_up=caught_up) == expected


def test_no_step_in_the_middle_of_another() -> None:
    config = GroupConfig((R1, R2, A), voters_outgoing=VOTERS)
    assert step(config, {R3: B}) is None


def test_too_many_at_once_wait_but_those_under_way_go_on() -> None:
    assert step(GroupConfig(VOTERS), {R3: A}, may_begin=False) is None
    config = GroupConfig(VOTERS, learners=(A,))
    assert step(config, {R3: A}, caught_up=(A,), may_begin=False) is not None
    assert step(config, {R3: B}, may_begin=False) is not None, "it takes the place of A"


# -- driven ------------------------------------------------------------------------------------


class Back:
    """``n1`` leads; ``n3`` comes back in life 5 when ``lives`` says so."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lives: dict[NodeId, int] = {N2: 0, N3: 0}
        for host in rig.hosts.values():
            host.replicas = ReplicaNodes.of(Replica(r, NODES[r]) for r in rig.voters)
        self.rejoin = Rejoin(rig.driver, lives=self.lives.get, clock=lambda: rig.now)

    @property
    def config(self) -> GroupConfig:
        return self.rig.host.core.config

    async def check(self) -> GroupConfig:
        self.rejoin.check()
        await settle()
        return self.config

    async def checked_and_committed(self) -> GroupConfig:
        await self.check()
        await self.rig.acknowledge()
        await self.rig.acknowledge()
        return self.config

    async def answer(self, replica: ReplicaId, behind: int = 0) -> None:
        """``replica`` says that it has the log, or all but so much."""
        core = self.rig.host.core
        index = LogIndex(core.last_index - behind)
        node = self.rig.host.replicas[replica]
        message = AppendResponse(replica, OWN, core.term, index)
        self.rig.driver.receive(node, [(GroupId(1), message)])
        await settle()


async def back(*, shards: int = 1) -> Back:
    rig = Rig(shards=shards)
    it = Back(rig)
    for host in rig.hosts.values():
        await rig.lead(host)
    return it


async def test_a_repaired_node_becomes_a_learner_then_a_voter() -> None:
    it = await back()
    it.lives[N3] = 5
    assert await it.checked_and_committed() == GroupConfig(VOTERS, learners=(A,))
    assert await it.check() == GroupConfig(VOTERS, learners=(A,)), "it has nothing yet"
    await it.answer(A)
    assert await it.checked_and_committed() == GroupConfig((R1, R2, A))
    last = it.rig.host.core.last_index
    await it.check()
    assert it.rig.host.core.last_index == last, "nothing is left to do"
    assert it.rig.fatal == []


async def test_it_is_joint_from_the_old_voter_to_the_new() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.answer(A)
    assert await it.check() == GroupConfig((R1, R2, A), voters_outgoing=VOTERS)


@pytest.mark.parametrize("life", [None, 0])
async def test_nothing_is_done_for_a_node_that_is_away_or_as_it_was(life: int | None) -> None:
    it = await back()
    if life is None:
        del it.lives[N3]
    assert await it.check() == GroupConfig(VOTERS)


async def test_only_the_leader_proposes() -> None:
    it = await back()
    await it.rig.depose()
    it.lives[N3] = 5
    assert await it.check() == GroupConfig(VOTERS)


async def test_a_step_waits_until_the_one_before_is_committed() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.check()
    it.lives[N3] = 6
    assert await it.check() == GroupConfig(VOTERS, learners=(A,)), "not committed yet"
    await it.rig.acknowledge()
    assert await it.check() == GroupConfig(VOTERS, learners=(B,))


async def test_whoever_leads_next_goes_on() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.rig.depose()
    await it.rig.lead()
    next_leader = Back(it.rig)
    next_leader.lives[N3] = 5
    assert await next_leader.check() == GroupConfig(VOTERS, learners=(A,))
    await next_leader.answer(A)
    assert await next_leader.checked_and_committed() == GroupConfig((R1, R2, A))


async def test_a_learner_that_is_far_behind_is_no_voter_yet() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    for _ in range(rejoin_module.CATCH_UP_ENTRIES_MAX + 1):
        it.rig.now += GATHER_S
        it.rig.write()
        await settle()
    await it.rig.acknowledge()
    await it.answer(A, behind=rejoin_module.CATCH_UP_ENTRIES_MAX + 1)
    assert await it.check() == GroupConfig(VOTERS, learners=(A,))
    await it.answer(A, behind=rejoin_module.CATCH_UP_ENTRIES_MAX)
    assert (await it.check()).voters == (R1, R2, A)


async def test_a_node_that_was_repaired_twice_comes_back_in_its_last_life() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.answer(A)
    await it.checked_and_committed()
    it.lives[N3] = 6
    assert await it.checked_and_committed() == GroupConfig((R1, R2, A), learners=(B,))
    await it.answer(B)
    assert await it.checked_and_committed() == GroupConfig((R1, R2, B))


async def test_an_earlier_life_than_that_of_the_member_is_ignored() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.answer(A)
    await it.checked_and_committed()
    it.lives[N3] = 0
    assert await it.check() == GroupConfig((R1, R2, A))


async def test_only_a_few_shards_of_one_node_catch_up_at_once() -> None:
    it = await back(shards=LEARNERS_MAX + 2)
    it.lives[N3] = 5

    def learning() -> list[ShardHost]:
        return [host for host in it.rig.hosts.values() if host.core.config.learners]

    for _ in range(2):
        await it.check()
        assert len(learning()) == LEARNERS_MAX
        for host in it.rig.hosts.values():
            await it.rig.acknowledge(host)
    await it.answer(A)
    await it.check()
    await it.rig.acknowledge()
    await it.rig.acknowledge()
    await it.check()
    assert len(learning()) == LEARNERS_MAX
    assert it.rig.host not in learning()


async def test_leadership_is_not_given_to_a_learner_but_to_the_voter_it_becomes() -> None:
    it = await back()
    rig = it.rig
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.answer(A)
    with pytest.raises(InvalidArgument, match="not another voter"):
        rig.host.core.transfer_leadership(A, rig.now)
    await it.checked_and_committed()
    rig.host.core.transfer_leadership(A, rig.now)
    assert rig.host.core.status(rig.now).transferring_to == A


async def test_it_is_shown_as_a_learner_until_the_group_can_do_without_the_old_voter() -> None:
    it = await back()
    host = it.rig.host

    def shown() -> tuple[list[str], list[str], str]:
        row = shard_status(host, it.rig.now)
        return row["replicas"], row["learners"], row["role"]

    everybody = ["n1", "n2", "n3"]
    assert shown() == (everybody, [], "leader")
    it.lives[N3] = 5
    await it.checked_and_committed()
    await it.answer(A)
    assert shown() == (everybody, ["n3"], "leader")
    await it.check()
    assert it.config.voters_outgoing
    assert shown() == (everybody, ["n3"], "leader"), "the joint configuration is not committed"
    await it.rig.acknowledge()
    assert it.config == GroupConfig((R1, R2, A))
    assert shown() == (everybody, ["n3"], "leader"), "nor is the one behind it"
    await it.rig.acknowledge()
    assert shown() == (everybody, [], "leader")


async def test_the_leader_tells_how_far_whoever_catches_up_is() -> None:
    it = await back()
    host = it.rig.host

    def told() -> list[tuple[str, str, int, int]]:
        rows = shard_status(host, it.rig.now)["catching_up"]
        return [
            (r["node"], r["state"], r["last_index"] - r["match_index"], r["bytes_sent"])
            for r in rows
        ]

    assert told() == []
    it.rig.write(b"key", b"value")
    await it.rig.acknowledge()
    it.lives[N3] = 5
    await it.checked_and_committed()
    assert told() == [("n3", "probe", host.core.last_index, 0)]
    await it.answer(A)
    assert told() == [("n3", "replicate", 0, len(b"keyvalue"))]
    await it.rig.depose()
    assert told() == [], "it does not know any more"


async def test_a_node_outside_its_groups_shows_itself_as_a_learner() -> None:
    it = Outside()
    row = shard_status(it.rig.host, it.rig.now)
    assert (row["role"], row["replicas"]) == ("learner", ["n1", "n2", "n3"])


async def test_messages_of_every_life_go_to_and_come_from_the_node() -> None:
    it = await back()
    it.lives[N3] = 5
    await it.checked_and_committed()
    it.rig.peers.frames.clear()
    it.rig.now += 1.0
    it.rig.driver.tick()
    await settle()
    receivers = {
        (node, message.receiver)
        for node, _, body in it.rig.peers.frames
        for _, message in body
        if isinstance(message, Heartbeat)
    }
    assert receivers == {("n2", R2), ("n3", R3), ("n3", A)}


# -- the repaired node itself ------------------------------------------------------------------


class Outside(Back):
    """``n3`` in life 5, in groups that know nothing of it."""

    def __init__(self) -> None:
        super().__init__(Rig(shards=2, own=A))

    async def hear(self, config: GroupConfig, *, commit: bool = True) -> None:
        """Replica 1, which leads every group, has changed its members."""
        for group, host in self.rig.hosts.items():
            last = host.core.last_index
            entry = Entry(LogIndex(last + 1), Term(1), EntryKind.CONFIG, encode(config))
            before = Term(1 if last else 0)
            committed = LogIndex(last + commit)
            append = AppendRequest(R1, A, Term(1), last, before, (entry,), committed)
            self.rig.driver.receive(NodeId("n1"), [(group, append)])
        await settle()
        self.rejoin.check()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger=rejoin_module.__name__)
    return caplog


async def test_a_node_outside_its_groups_says_so_now_and_then(
    said: pytest.LogCaptureFixture,
) -> None:
    it = Outside()
    counts = []
    for wait_s in (0.0, PATIENCE_S - 1, 1.0, 1.0, REMINDER_S - 2, 1.0):
        it.rig.now += wait_s
        it.rejoin.check()
        counts.append(len(said.messages))
    assert counts == [0, 0, 1, 1, 1, 2]
    assert "no member of shard 0, 1 yet: a majority of the other replicas" in said.messages[0]


async def test_a_node_that_has_its_votes_again_says_so_once(
    said: pytest.LogCaptureFixture,
) -> None:
    it = Outside()
    await it.hear(GroupConfig(VOTERS, learners=(A,)))
    it.rig.now += PATIENCE_S
    it.rejoin.check()
    assert said.messages == []
    await it.hear(GroupConfig((R1, R2, A), voters_outgoing=VOTERS))
    await it.hear(GroupConfig((R1, R2, A)), commit=False)
    assert said.messages == [], "while joint, the group needs those whom it is to do without"
    await it.hear(GroupConfig((R1, R2, A)))
    it.rejoin.check()
    assert said.messages == ["this node votes in all its groups"]


async def test_a_node_that_never_lost_its_votes_says_nothing(
    said: pytest.LogCaptureFixture,
) -> None:
    it = await back()
    await it.check()
    await it.check()
    assert said.messages == []


async def test_a_replica_that_is_no_voter_neither_stands_nor_takes_over() -> None:
    it = Outside()
    for config in (None, GroupConfig(VOTERS, learners=(A,))):
        if config is not None:
            await it.hear(config)
        for group, host in it.rig.hosts.items():
            it.rig.driver.campaign_if_leaderless(group)
            it.rig.driver.receive(NodeId("n1"), [(group, TimeoutNow(R1, A, Term(1)))])
            it.rig.driver.peer_gone(NodeId("n1"))
            it.rig.now += 10.0
            it.rig.driver.tick()
            await settle()
            assert host.core.role is Role.FOLLOWER
    assert it.rig.peers.messages(VoteRequest) == []


async def test_the_loop_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejoin_module, "REJOIN_INTERVAL_S", 0.001)
    it = await back()
    checked = asyncio.Event()
    monkeypatch.setattr(it.rejoin, "check", checked.set)
    task = asyncio.create_task(keep_rejoining(it.rejoin))
    async with asyncio.timeout(10):
        await checked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
