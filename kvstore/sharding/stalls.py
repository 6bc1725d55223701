"""Which copies do not come on, and which nodes seem to take nothing in.

A newcomer may be alive and yet get nothing: its disk is full, or it is cut off from the leader
that would send. Its change would keep a place that other changes need, for ever. So a change
without progress is given up (:mod:`kvstore.sharding.steering`), and for a while nothing is sent
to that node, for twice as long each time in a row.

This is the controller's memory, not the cluster's: whoever leads the meta group next begins
without it, and finds out anew. Pure: the time is given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.sharding.known import Report

if TYPE_CHECKING:
    from kvstore.ids import GroupId, NodeId
    from kvstore.sharding.shard_map import Change, ShardMap

STALLED_AFTER_S: Final = 60.0
"""A change may go on for so long without progress."""
UNFIT_S_MIN: Final = 60.0
UNFIT_S_MAX: Final = 3600.0


@dataclass(slots=True)
class _Mark:
    """How far the change of a group has come."""

    begun_at: int
    moved_at: float
    """When it last made progress."""
    report: Report | None = None
    is_blamed: bool = False


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
        if mark is not None and _is_progress(mark.report, report):
            mark.report, mark.moved_at = report, now

    def look(self, shard_map: ShardMap, now: float) -> list[NodeId]:
        """See what has changed; returns the nodes that are blamed from now on."""
        marks: dict[GroupId, _Mark] = {}
        for change in shard_map.changes:
            mark = self._marks.get(change.group)
            if mark is None or mark.begun_at != change.begun_at:
                mark = _Mark(change.begun_at, now)
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
            group for group, mark in self._marks.items() if now - mark.moved_at >= STALLED_AFTER_S
        )

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


def _members(report: Report) -> tuple[object, ...]:
    return report.epoch, report.voters, report.outgoing, report.learners
