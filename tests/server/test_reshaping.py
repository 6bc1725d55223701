"""The steps by which a group's members become those of the shard map."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import (
    NO_REPLICA,
    GroupId,
    LogIndex,
    NodeId,
    ReplicaId,
    Term,
    in_life,
    replica_id,
)
from kvstore.raft import confchange
from kvstore.raft.messages import GroupConfig
from kvstore.raft.ready import PeerProgress, Role, Status
from kvstore.server.reshaping import Step, must_confirm, next_step, report_of, wanted_members
from kvstore.sharding import changes
from kvstore.sharding.shard_map import Change, Replica, bootstrap

R1, R2, R3 = (ReplicaId(number) for number in (1, 2, 3))
COMES = replica_id(4, 0, 1)
OTHER = replica_id(5, 0, 2)
FOUNDED = GroupConfig((R1, R2, R3))
MOVED = frozenset({R1, R2, COMES})
STAYS = frozenset(FOUNDED.voters)


def step(
    config: GroupConfig,
    wanted: frozenset[ReplicaId],
    *,
    confirm: int = 0,
    lives: dict[ReplicaId, int | None] | None = None,
    caught_up: bool = False,
    may_begin: bool = True,
) -> Step | None:
    known = lives or {}
    return next_step(
        config,
        wanted,
        confirm=confirm,
        life=lambda replica: known.get(replica, 0),
        is_caught_up=lambda replica: caught_up,
        may_begin=lambda replica: may_begin,
    )


def test_nothing_is_done_where_all_is_as_it_should_be() -> None:
    assert step(FOUNDED, STAYS) is None


def test_whoever_comes_learns_first_and_votes_when_it_has_caught_up() -> None:
    assert step(FOUNDED, MOVED) == Step(STAYS, frozenset({COMES}))
    learning = GroupConfig(FOUNDED.voters, learners=(COMES,))
    assert step(learning, MOVED) is None
    assert step(learning, MOVED, caught_up=True) == Step(MOVED, frozenset())


def test_nobody_comes_who_is_not_connected_or_has_no_room() -> None:
    assert step(FOUNDED, MOVED, lives={COMES: None}) is None
    assert step(FOUNDED, MOVED, may_begin=False) is None


def test_one_that_gives_way_to_its_next_life_makes_room_for_it() -> None:
    outlived = GroupConfig(FOUNDED.voters, learners=(COMES,))
    taken = step(outlived, MOVED, lives={COMES: 9}, may_begin=False)
    assert taken == Step(STAYS, frozenset({in_life(COMES, 9)}))


def test_a_joint_configuration_is_left_alone() -> None:
    joint = GroupConfig((R1, R2, COMES), voters_outgoing=FOUNDED.voters)
    assert step(joint, STAYS, caught_up=True) is None


def test_a_change_that_is_not_wanted_any_more_is_undone() -> None:
    learning = GroupConfig(FOUNDED.voters, learners=(COMES,), epoch=5)
    assert step(learning, STAYS, confirm=6) == Step(STAYS, frozenset())


def test_that_it_was_cancelled_is_written_down_even_if_nothing_was_done() -> None:
    assert step(replace(FOUNDED, epoch=5), STAYS, confirm=6) == Step(STAYS, frozenset())
    assert step(replace(FOUNDED, epoch=6), STAYS, confirm=6) is None


def test_whoever_only_goes_goes_at_once() -> None:
    assert step(FOUNDED, frozenset({R1, R2})) == Step(frozenset({R1, R2}), frozenset())


def test_whoever_comes_is_met_in_the_life_that_its_data_is_in() -> None:
    lives: dict[ReplicaId, int | None] = {COMES: 9}
    alive = in_life(COMES, 9)
    assert step(FOUNDED, MOVED, lives=lives) == Step(STAYS, frozenset({alive}))
    outlived = GroupConfig(FOUNDED.voters, learners=(COMES,))
    assert step(outlived, MOVED, lives=lives, caught_up=True) == Step(STAYS, frozenset({alive}))
    learning = GroupConfig(FOUNDED.voters, learners=(alive,))
    assert step(learning, MOVED, lives=lives, caught_up=True) == Step(
        frozenset({R1, R2, alive}), frozenset()
    )
    moved = GroupConfig(tuple(sorted((R1, R2, alive))))
    assert step(moved, MOVED, lives=lives) is None


def test_a_repaired_voter_that_learns_again_is_not_in_the_way() -> None:
    again = in_life(R2, 7)
    repairing = GroupConfig(FOUNDED.voters, learners=(again,))
    assert step(repairing, STAYS) is None
    assert step(repairing, MOVED) == Step(STAYS, frozenset({again, COMES}))


def test_all_who_come_must_have_caught_up() -> None:
    two = frozenset({R1, COMES, OTHER})
    learning = GroupConfig(FOUNDED.voters, learners=tuple(sorted((COMES, OTHER))))
    caught = {COMES}
    half = next_step(
        learning,
        two,
        confirm=0,
        life=lambda replica: 0,
        is_caught_up=lambda replica: replica in caught,
        may_begin=lambda replica: True,
    )
    assert half is None


NAMES = st.sets(st.sampled_from([replica_id(n, 0, n % 3) for n in range(1, 7)]), min_size=1)


@given(NAMES, NAMES, NAMES)
def test_it_always_arrives(
    old: set[ReplicaId], learning: set[ReplicaId], wanted: set[ReplicaId]
) -> None:
    config = GroupConfig(tuple(sorted(old)), learners=tuple(sorted(learning - old)))
    for _ in range(6):
        taken = step(config, frozenset(wanted), caught_up=True)
        if taken is None:
            break
        config = confchange.change(config, taken.voters, taken.learners)
        if config.voters_outgoing:
            assert step(config, frozenset(wanted), caught_up=True) is None
            config = confchange.leave_joint(config)
    assert config == GroupConfig(tuple(sorted(wanted)))


# -- what the map wants --------------------------------------------------------------------------

NODES = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in (1, 2, 3))
MAP = changes.admit(
    bootstrap(ClusterConfig(id="c", nodes=NODES, shards=2)), NodeId("n4"), "h:4", 1.0, ""
)
GROUP = GroupId(1)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_map_wants_what_its_change_leads_to_unless_it_was_cancelled(is_cancelled: bool) -> None:
    begun = changes.begin(MAP, GROUP, NodeId("n4"), NodeId("n2"))
    if is_cancelled:
        begun = changes.cancel(begun, begun.changes[0])
    assert wanted_members(begun, GROUP, FOUNDED) == (STAYS if is_cancelled else {R1, R3, COMES})
    assert must_confirm(begun, GROUP) == begun.version + 1
    assert wanted_members(begun, GroupId(2), FOUNDED) == STAYS
    assert must_confirm(begun, GroupId(2)) == 0


def test_a_cancelled_change_that_was_made_is_seen_to_its_end() -> None:
    begun = changes.begin(MAP, GROUP, NodeId("n4"), NodeId("n2"))
    cancelled = changes.cancel(begun, begun.changes[0])
    made = GroupConfig(tuple(sorted((R1, R3, COMES))))
    assert wanted_members(cancelled, GROUP, made) == {R1, R3, COMES}
    half = GroupConfig(tuple(sorted((R1, R2, R3, COMES))))
    assert wanted_members(cancelled, GROUP, half) == STAYS


def test_a_report_names_replicas_as_the_map_does_and_tells_of_the_newcomer() -> None:
    config = GroupConfig((R1, in_life(R2, 3)), (R1, R3), (in_life(COMES, 4),), (R3,), 8)
    there = PeerProgress(in_life(R2, 3), "replicate", LogIndex(9), LogIndex(10), True, 0.0)
    newcomer = PeerProgress(in_life(COMES, 4), "snapshot", LogIndex(0), LogIndex(1), True, 0.0, 512)
    progress = (there, newcomer)
    status = Status(
        R1, Role.LEADER, Term(2), R1, LogIndex(9), LogIndex(9), LogIndex(9), LogIndex(1), config,
        NO_REPLICA, progress,
    )  # fmt: skip
    change = Change(GROUP, Replica(COMES, NodeId("n4")), None, 8)
    report = report_of(change, status)
    assert report.epoch == 8
    assert report.voters == {R1, R2}
    assert report.outgoing == {R1, R3}
    assert report.learners == {COMES, R3}
    assert (report.leader, report.matched, report.received_bytes) == (R1, 0, 512)
