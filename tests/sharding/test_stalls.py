"""Copies that do not come on, and whose fault that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId
from kvstore.sharding import changes
from kvstore.sharding.known import Report
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.sharding.stalls import (
    INSTALLED_BYTES_PER_S_MIN,
    SNAPSHOTS_AGAIN_MAX,
    STALLED_AFTER_S,
    UNFIT_S_MAX,
    UNFIT_S_MIN,
    Stalls,
)

N4 = NodeId("n4")
GROUP = GroupId(2)
NODES = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in range(1, 5))
REPORT = Report(GROUP, 2, frozenset(), frozenset(), frozenset(), leader=ReplicaId(1))


def moving(base: ShardMap | None = None) -> ShardMap:
    """A copy of ``GROUP`` is to come to n4."""
    before = base or bootstrap(ClusterConfig(id="c", nodes=NODES[:3], shards=4))
    if not before.has(N4):
        before = changes.admit(before, N4, "h:4", 1.0, "")
    return changes.succeed(before, changes.begin(before, GROUP, N4, None))


def stalls_at(time_s: float = 0.0, report: Report | None = REPORT) -> Stalls:
    stalls = Stalls()
    stalls.look(moving(), time_s)
    if report is not None:
        stalls.note(report, time_s)
    return stalls


def test_a_change_has_its_time() -> None:
    stalls = stalls_at()
    assert stalls.look(moving(), STALLED_AFTER_S - 1) == []
    assert stalls.stalled(STALLED_AFTER_S - 1) == frozenset()
    assert stalls.look(moving(), STALLED_AFTER_S) == [N4]
    assert stalls.stalled(STALLED_AFTER_S) == {GROUP}


@pytest.mark.parametrize(
    "further",
    [
        {"received_bytes": 1},
        {"matched": LogIndex(1)},
        {"learners": frozenset({ReplicaId(4)})},
        {"epoch": 3},
        {"leader": ReplicaId(2)},
    ],
)
def test_whoever_comes_on_is_given_more_time(further: dict[str, object]) -> None:
    stalls = stalls_at()
    stalls.note(replace(REPORT, **further), 50.0)  # type: ignore[arg-type]
    assert stalls.look(moving(), 50.0 + STALLED_AFTER_S - 1) == []
    assert stalls.look(moving(), 50.0 + STALLED_AFTER_S) == [N4]


def test_attempts_that_get_no_further_than_the_last_are_no_progress() -> None:
    stalls = stalls_at()
    for at in range(1, int(STALLED_AFTER_S)):
        stalls.note(replace(REPORT, received_bytes=at % 5), float(at))
    assert stalls.look(moving(), STALLED_AFTER_S + 4) == [N4], "4 bytes came within 4 seconds"


def test_where_nobody_reports_nobody_is_to_blame_but_the_place_is_free() -> None:
    stalls = stalls_at(report=None)
    assert stalls.look(moving(), STALLED_AFTER_S) == []
    assert stalls.stalled(STALLED_AFTER_S) == {GROUP}
    assert stalls.unfit(STALLED_AFTER_S) == frozenset()


def test_who_votes_already_is_not_to_blame() -> None:
    shard_map = moving()
    comes = shard_map.changes[0].add
    assert comes is not None
    stalls = stalls_at(report=replace(REPORT, voters=frozenset({comes.id})))
    assert stalls.look(shard_map, STALLED_AFTER_S) == []


def test_the_blame_passes_and_lasts_longer_each_time_in_a_row() -> None:
    stalls, shard_map, now = stalls_at(), moving(), 0.0
    for lasts_s in (UNFIT_S_MIN, 2 * UNFIT_S_MIN, 4 * UNFIT_S_MIN):
        now += STALLED_AFTER_S
        assert stalls.look(shard_map, now) == [N4]
        assert stalls.look(shard_map, now) == [], "once a change"
        assert stalls.unfit(now + lasts_s - 1) == {N4}
        now += lasts_s
        assert stalls.unfit(now) == frozenset()
        shard_map = moving(changes.abandon(shard_map, shard_map.changes[0]))
        stalls.look(shard_map, now)
        stalls.note(replace(REPORT, epoch=shard_map.version), now)


def test_changes_that_stand_still_together_are_one_reason_for_blame() -> None:
    one = moving()
    other = GroupId(3)
    shard_map = changes.succeed(one, changes.begin(one, other, N4, None))
    stalls = Stalls()
    stalls.look(shard_map, 0.0)
    stalls.note(REPORT, 0.0)
    stalls.note(replace(REPORT, group=other), 1.0)
    assert stalls.look(shard_map, STALLED_AFTER_S) == [N4]
    assert stalls.look(shard_map, STALLED_AFTER_S + 1) == []
    assert stalls.unfit(STALLED_AFTER_S + UNFIT_S_MIN) == frozenset()


def test_a_blame_of_long_ago_is_forgiven_and_none_lasts_for_ever() -> None:
    stalls, shard_map, now = stalls_at(), moving(), 0.0
    for _ in range(12):
        now += STALLED_AFTER_S
        stalls.look(shard_map, now)
        shard_map = moving(changes.abandon(shard_map, shard_map.changes[0]))
        stalls.look(shard_map, now)
        stalls.note(replace(REPORT, epoch=shard_map.version), now)
    assert stalls.unfit(now + UNFIT_S_MAX - 1) == {N4}
    assert stalls.unfit(now + UNFIT_S_MAX) == frozenset()
    later = now + 5 * UNFIT_S_MAX
    assert stalls.look(shard_map, later) == [N4]
    assert stalls.unfit(later + UNFIT_S_MIN) == frozenset()


def test_a_change_that_is_over_leaves_nothing() -> None:
    stalls = stalls_at()
    over = moving()
    stalls.look(changes.abandon(over, over.changes[0]), 1.0)
    assert stalls.stalled(1000.0) == frozenset()


def test_the_next_change_of_a_group_begins_anew() -> None:
    stalls = stalls_at()
    following = moving(changes.abandon(moving(), moving().changes[0]))
    stalls.look(following, 59.0)
    assert stalls.look(following, STALLED_AFTER_S) == []
    assert stalls.stalled(STALLED_AFTER_S) == frozenset()


INSTALL_S = 500.0
STAGED = int(INSTALL_S * INSTALLED_BYTES_PER_S_MIN)


# -- waiting for a turn ---------------------------------------------------------------------------

AHEAD, BEHIND = GROUP, GroupId(3)


class Queue:
    """Two groups come to n4; one of them learns already."""

    def __init__(self, *, behind_is_led_by: int = 1, behind_comes_to: NodeId = N4) -> None:
        one = moving()
        if not one.has(behind_comes_to):
            one = changes.admit(one, behind_comes_to, "h:5", 1.0, "")
        self.map = changes.succeed(one, changes.begin(one, BEHIND, behind_comes_to, None))
        comes = one.changes[0].add
        assert comes is not None
        self.ahead = replace(REPORT, learners=frozenset({comes.id}))
        self.behind = replace(REPORT, group=BEHIND, leader=ReplicaId(behind_is_led_by))
        self.stalls = Stalls()
        self.stalls.look(self.map, 0.0)
        self.stalls.note(self.ahead, 0.0)
        self.stalls.note(self.behind, 0.0)

    def come_on(self, until_s: int) -> None:
        """The one that learns gets something every ten seconds; both are told of."""
        for now in range(10, until_s + 1, 10):
            self.stalls.note(replace(self.ahead, matched=LogIndex(now)), float(now))
            self.stalls.note(self.behind, float(now))


def test_who_waits_for_its_turn_behind_one_that_comes_on_does_not_stand_still() -> None:
    it = Queue()
    it.come_on(300)
    assert it.stalls.look(it.map, 300.0 + STALLED_AFTER_S - 1) == []
    assert it.stalls.stalled(300.0 + STALLED_AFTER_S - 1) == frozenset()


def test_who_waits_behind_one_that_is_stuck_is_stuck_too_for_one_reason() -> None:
    it = Queue()
    it.come_on(300)
    assert it.stalls.look(it.map, 300.0 + STALLED_AFTER_S) == [N4]
    assert it.stalls.stalled(300.0 + STALLED_AFTER_S) == {AHEAD, BEHIND}
    assert it.stalls.unfit(300.0 + STALLED_AFTER_S + UNFIT_S_MIN) == frozenset()


def test_who_waits_behind_one_that_puts_a_snapshot_in_force_is_patient_with_it() -> None:
    it = Queue()
    it.stalls.note(replace(it.ahead, received_bytes=STAGED), 10.0)
    in_force_at = 10.0 + INSTALL_S
    assert it.stalls.stalled(in_force_at) == frozenset()
    it.stalls.note(replace(it.ahead, matched=LogIndex(9)), in_force_at)
    assert it.stalls.stalled(in_force_at + STALLED_AFTER_S - 1) == frozenset()


def test_once_nobody_is_ahead_its_turn_must_come() -> None:
    it = Queue()
    it.come_on(100)
    alone = changes.abandon(it.map, it.map.changes[0])
    assert it.stalls.look(alone, 100.0 + STALLED_AFTER_S - 1) == []
    assert it.stalls.look(alone, 100.0 + STALLED_AFTER_S) == [N4]


@pytest.mark.parametrize(
    "elsewhere", [{"behind_is_led_by": 2}, {"behind_comes_to": NodeId("n5")}], ids=str
)
def test_who_comes_on_another_way_is_not_waited_for(elsewhere: dict[str, object]) -> None:
    it = Queue(**elsewhere)  # type: ignore[arg-type]
    it.come_on(50)
    assert it.stalls.stalled(STALLED_AFTER_S) == {BEHIND}


def test_who_learns_already_does_not_wait_for_anybody() -> None:
    it = Queue()
    comes = it.map.changes[1].add
    assert comes is not None
    it.behind = replace(it.behind, learners=frozenset({comes.id}))
    it.come_on(60)
    assert it.stalls.stalled(10.0 + STALLED_AFTER_S) == {BEHIND}


# -- snapshots ------------------------------------------------------------------------------------


def staged() -> Stalls:
    """All of a snapshot has come by the time 10."""
    stalls = stalls_at()
    stalls.note(replace(REPORT, received_bytes=STAGED), 10.0)
    return stalls


@pytest.mark.parametrize(
    "told",
    [
        {"received_bytes": STAGED},
        {"received_bytes": 0},
        {"received_bytes": 0, "leader": ReplicaId(2)},
    ],
    ids=["told-the-same", "the-attempt-is-over", "another-leads"],
)
def test_to_put_a_snapshot_in_force_may_take_the_longer_the_larger_it_is(
    told: dict[str, object],
) -> None:
    stalls = staged()
    stalls.note(replace(REPORT, **told), 10.0)  # type: ignore[arg-type]
    assert stalls.stalled(10.0 + STALLED_AFTER_S + INSTALL_S - 1) == frozenset()
    assert stalls.look(moving(), 10.0 + STALLED_AFTER_S + INSTALL_S) == [N4]


def test_what_is_in_force_gives_no_more_time() -> None:
    stalls = staged()
    stalls.note(replace(REPORT, matched=LogIndex(7)), 20.0)
    assert stalls.look(moving(), 20.0 + STALLED_AFTER_S) == [N4]


def test_a_snapshot_that_is_sent_anew_was_not_about_to_be_in_force() -> None:
    stalls = staged()
    stalls.note(replace(REPORT, received_bytes=STAGED // 10), 20.0)
    assert stalls.look(moving(), 10.0 + STALLED_AFTER_S + INSTALL_S / 10) == [N4]


def sent_state(stalls: Stalls, number: int, *, is_seen_between: bool = True) -> float:
    """The newcomer has taken in ``number`` states, and another is on its way; returns the time."""
    matched, now = LogIndex(1000 * number), 100.0 * number
    if is_seen_between:
        stalls.note(replace(REPORT, matched=matched), now)
    stalls.note(replace(REPORT, matched=matched, received_bytes=1), now + 1)
    stalls.note(replace(REPORT, matched=matched, received_bytes=STAGED), now + 2)
    return now + 2


@pytest.mark.parametrize("is_seen_between", [True, False])
def test_one_state_after_the_other_is_no_progress_for_ever(is_seen_between: bool) -> None:
    stalls = stalls_at()
    for number in range(SNAPSHOTS_AGAIN_MAX + 1):
        now = sent_state(stalls, number, is_seen_between=is_seen_between)
        assert stalls.look(moving(), now) == []
        assert stalls.stalled(now) == frozenset()
    now = sent_state(stalls, SNAPSHOTS_AGAIN_MAX + 1, is_seen_between=is_seen_between)
    assert stalls.look(moving(), now) == [N4]
    assert stalls.stalled(now) == {GROUP}


def test_the_log_brings_a_newcomer_nearer_for_as_long_as_it_takes() -> None:
    stalls = stalls_at()
    for number in range(10 * SNAPSHOTS_AGAIN_MAX):
        stalls.note(replace(REPORT, matched=LogIndex(number)), 10.0 * number)
        assert stalls.look(moving(), 10.0 * number) == []


def test_attempts_at_one_state_are_not_one_state_after_the_other() -> None:
    stalls = stalls_at()
    for number in range(1, 10 * SNAPSHOTS_AGAIN_MAX):
        stalls.note(replace(REPORT, matched=LogIndex(9), received_bytes=number), float(number))
        stalls.note(replace(REPORT, matched=LogIndex(9)), float(number))
    assert stalls.look(moving(), 10.0 * SNAPSHOTS_AGAIN_MAX) == []


def test_old_log_that_is_acknowledged_during_a_snapshot_makes_no_other_of_it() -> None:
    stalls = stalls_at()
    for number in range(1, 10 * SNAPSHOTS_AGAIN_MAX):
        told = replace(REPORT, matched=LogIndex(number), received_bytes=number)
        stalls.note(told, float(number))
    assert stalls.look(moving(), 10.0 * SNAPSHOTS_AGAIN_MAX) == []
