"""Which copies do not come on, and which nodes seem to take nothing in.

A newcomer may be alive and yet get nothing: its disk is full, or it is cut off from the leader
that would send. Its change would keep a place that other changes need, for ever. So a change
without progress is given up (:mod:`kvstore.sharding.steering`), and for a while nothing is sent
to that node, for twice as long each time in a row. Not everything that stands still is stuck:

* One node lets another learn only so many groups at once (:mod:`kvstore.server.rejoin`). Whoever
  is no learner yet waits for its turn while others come on, on the same way: from the node that
  leads its group to the node that it comes to. When none does, it is stuck as they are. (Repaired
  replicas may be ahead as well. Those are no change, so they count for nothing here: a node that
  gets them back so slowly is given nothing else meanwhile.)
* Whoever has all of a snapshot says nothing while it puts it in force. That takes longer the
  more it got, so it is given more time for each byte that it has stored.

And not everything that moves comes to an end. Where the log grows faster than the newcomer takes
it in, the leader soon has none left of what it lacks, and sends the state once more, and so on:
there is always something new to take in, and no round (thesis section 4.2.1) is ever short. So
after some snapshots in a row it is given up all the same. Nothing else goes on for ever: with
the log alone a newcomer comes nearer in each round, or falls behind until it needs a snapshot.

This is the controller's memory, not the cluster's: whoever leads the meta group next begins
without it, and finds out anew. Pure: the time is given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.ids import number_of
from kvstore.sharding.known import Report
from kvstore.sharding.shard_map import Replica

if TYPE_CHECKING:
    from kvstore.ids import GroupId, NodeId
    from kvstore.sharding.shard_map import Change, ShardMap

STALLED_AFTER_S: Final = 60.0
"""A change may go on for so long without progress."""
INSTALLED_BYTES_PER_S_MIN: Final = 4 * 1024 * 1024
"""A slow disk that others use too puts a snapshot in force so fast. The rests between its parts
(:mod:`kvstore.server.snapshot_work`) are shorter than ``STALLED_AFTER_S`` in all."""
SNAPSHOTS_AGAIN_MAX: Final = 5
"""So often a newcomer that has taken in a state may need another, because the log has gone on."""
UNFIT_S_MIN: Final = 60.0
UNFIT_S_MAX: Final = 3600.0


@dataclass(slots=True)
class _Mark:
    """How far the change of a group has come."""

    begun_at: int
    comes: Replica | None
    moved_at: float
    """When it last made progress, or one did that it waits for."""
    report: Report | None = None
    """The last that told of progress."""
    staged_bytes: int = 0
    """The most that was stored of the snapshot that the newcomer gets, or is putting in force."""
    snapshots_again: int = 0
    """How many it was sent since it had taken in something."""
    is_blamed: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether the newcomer is no member yet, not even a learner."""
        if self.comes is None or self.report is None:
            return False
        return self.comes.id not in self.report.voters | self.report.learners

    def is_ahead_of(self, other: _Mark) -> bool:
        """Whether ``other`` waits for its turn behind this one."""
        if self.is_waiting or not other.is_waiting:
            return False
        way = self._way()
        return way is not None and way == other._way()

    def _way(self) -> tuple[int, NodeId] | None:
        """The number of the node that sends, and the node that it sends to."""
        if self.comes is None or self.report is None:
            return None
        return number_of(self.report.leader), self.comes.node

    def note(self, report: Report, now: float) -> bool:
        """The group's leader tells this; returns whether that is progress."""
        before = self.report
        if _is_nearer(before, report) or 0 < report.received_bytes < self.staged_bytes:
            self.staged_bytes = report.received_bytes  # What it had is in force, or is no good.
        else:
            # An attempt of which nothing more is heard, of any leader, may be in force soon.
            self.staged_bytes = max(self.staged_bytes, report.received_bytes)
        if not _is_progress(before, report):
            return False
        self.snapshots_again += _is_sent_again(before, report)
        self.report, self.moved_at = report, now
        return True


@dataclass(frozen=True, slots=True)
class _Blame:
    since: float
    lasts_s: float

    def is_over(self, now: float) -> bool:
        return now >= self.since + self.lasts_s


class Stalls:
    """Invariant: there is a mark for each change of the map that was looked at last."""

    def __init__(self) -> None:
        self._marks: dict[GroupId, _Mark] = {}
        self._blames: dict[NodeId, _Blame] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._marks.clear()
        self._blames.clear()

    def note(self, report: Report, now: float) -> None:
        """A group's leader has told how far it is."""
        mark = self._marks.get(report.group)
        if mark is not None and mark.note(report, now):
            for other in self._marks.values():
                if mark.is_ahead_of(other):
                    other.moved_at = now

    def look(self, shard_map: ShardMap, now: float) -> list[NodeId]:
        """See what has changed; returns the nodes that are blamed from now on."""
        marks: dict[GroupId, _Mark] = {}
        for change in shard_map.changes:
            mark = self._marks.get(change.group)
            if mark is None or mark.begun_at != change.begun_at:
                mark = _Mark(change.begun_at, change.add, now)
            marks[change.group] = mark
        self._marks = marks
        return [
            change.add.node
            for change in shard_map.changes
            if change.add is not None and self._must_blame(change, now)
        ]

    def _must_blame(self, change: Change, now: float) -> bool:
        """Whether the newcomer is at fault. Where nobody reports, nobody knows."""
        mark = self._marks[change.group]
        if mark.is_blamed or mark.report is None or change.group not in self.stalled(now):
            return False
        if change.add is None or change.add.id in mark.report.voters:
            return False
        mark.is_blamed = True
        before = self._blames.get(change.add.node)
        if before is not None and mark.moved_at < before.since:
            return False  # It stood still beside the one that the blame is for.
        is_again = before is not None and now < before.since + 4 * before.lasts_s
        lasts_s = min(2 * before.lasts_s, UNFIT_S_MAX) if before and is_again else UNFIT_S_MIN
        self._blames[change.add.node] = _Blame(now, lasts_s)
        return True

    def stalled(self, now: float) -> frozenset[GroupId]:
        """The groups whose change makes no progress, or whose leader tells nothing."""
        return frozenset(
            group for group, mark in self._marks.items() if self._is_stalled(mark, now)
        )

    def _is_stalled(self, mark: _Mark, now: float) -> bool:
        if mark.snapshots_again > SNAPSHOTS_AGAIN_MAX:
            return True
        install_s = mark.staged_bytes // INSTALLED_BYTES_PER_S_MIN
        if now - mark.moved_at < STALLED_AFTER_S + install_s:
            return False
        # None of those ahead waits itself, so this goes no deeper.
        ahead = (other for other in self._marks.values() if other.is_ahead_of(mark))
        return all(self._is_stalled(other, now) for other in ahead)

    def unfit(self, now: float) -> frozenset[NodeId]:
        """The nodes that nothing is sent to for now."""
        return frozenset(node for node, blame in self._blames.items() if not blame.is_over(now))


def _is_progress(before: Report | None, after: Report) -> bool:
    """Whether a group is further than it ever was under this leader; a new one begins anew.

    An attempt that begins again and again is none, however often.
    """
    if before is None or before.leader != after.leader:
        return True
    if _members(before) != _members(after):
        return True
    return (after.matched, after.received_bytes) > (before.matched, before.received_bytes)


def _is_nearer(before: Report | None, after: Report) -> bool:
    """Whether the newcomer has more of the log, by the word of the same leader."""
    if before is None or before.leader != after.leader:
        return False
    return after.matched > before.matched


def _is_sent_again(before: Report | None, after: Report) -> bool:
    """Whether a snapshot has begun that follows on something which the newcomer has taken in.

    A leader that has just begun does not know yet what that is, so its first is none.
    """
    if before is None or before.leader != after.leader:
        return False
    if not (after.matched and after.received_bytes):
        return False
    return not before.received_bytes or after.received_bytes < before.received_bytes


def _members(report: Report) -> tuple[object, ...]:
    return report.epoch, report.voters, report.outgoing, report.learners
