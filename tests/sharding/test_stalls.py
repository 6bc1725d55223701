"""Copies that do not come on, and whose fault that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId
from kvstore.sharding import changes
from kvstore.sharding.known import Report
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.sharding.stalls import STALLED_AFTER_S, UNFIT_S_MAX, UNFIT_S_MIN, Stalls

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
