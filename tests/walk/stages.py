"""The stages of a move, as they show from outside: in the shard map and in the nodes' own words.

The controller runs on the leader of the meta group: the meta leader and the controller's node
are one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from kvstore.ids import META_GROUP, GroupId, NodeId, shard_of_group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvstore.sharding.shard_map import Change, ShardMap

Row = dict[str, Any]
"""What one node says of its replica of one group."""


class Stage(IntEnum):
    """In their order. A move may go back, but not behind a configuration that is committed."""

    ORDERED = 1
    """It stands in the map, and nothing has happened."""
    LEARNING = 2
    """Who comes is a learner, and has no data yet."""
    SNAPSHOT = 3
    """A snapshot is on its way."""
    CATCHING_UP = 4
    """The state is there; the log behind it comes, or has come."""
    JOINT = 5
    """The joint configuration is in force, and is not left yet."""
    COMMITTED = 6
    """The new configuration is; the map does not say so yet."""
    LEAVING = 7
    """The map says so, and whoever went still has its replica."""


@dataclass(frozen=True, slots=True)
class Move:
    """A replica of ``group`` goes from ``source`` to ``target``."""

    group: GroupId
    source: NodeId
    target: NodeId
    begun_at: int
    """The version of the map that wanted it first."""

    def __str__(self) -> str:
        what = "meta" if self.group == META_GROUP else f"shard {shard_of_group(self.group)}"
        return f"{what} {self.source}>{self.target}"


def move_of(change: Change) -> Move | None:
    """The move that ``change`` is; None if nobody comes, or nobody goes, or it is given up."""
    if change.add is None or change.remove is None or change.cancelled_at:
        return None
    return Move(change.group, change.remove.node, change.add.node, change.begun_at)


def row_of(status: Mapping[str, Any], group: GroupId) -> Row | None:
    """What the node of ``status`` says of its replica of ``group``, if it has one."""
    if group == META_GROUP:
        meta: Row | None = status.get("meta")
        return meta
    shard = shard_of_group(group)
    return next((row for row in status["shards"] if row["id"] == shard), None)


def leader_row(statuses: Mapping[NodeId, Mapping[str, Any]], group: GroupId) -> Row | None:
    """What the leader of ``group`` says; of two that think they are, the later one."""
    rows = {node: row_of(status, group) for node, status in statuses.items()}
    led = [row for node, row in rows.items() if row is not None and row["leader"] == node]
    return max(led, key=lambda row: int(row["term"]), default=None)


def stage_of(
    move: Move, shard_map: ShardMap, statuses: Mapping[NodeId, Mapping[str, Any]]
) -> Stage | None:
    """Where ``move`` is; None if it is over, or nobody who could say so speaks.

    Args:
        move: That was seen in an earlier map, or stands in this one.
        shard_map: The newest that any node has.
        statuses: What each node said last, of those who have spoken just now.
    """
    change = shard_map.change_of(move.group)
    if change is None or move_of(change) != move:
        return _after(move, shard_map, statuses)
    row = leader_row(statuses, move.group)
    if row is None:
        return None
    if move.target in row["replicas"]:
        return Stage.JOINT if move.target in row["learners"] else Stage.COMMITTED
    if move.target not in row["learners"]:
        return Stage.ORDERED
    return _of_learner(move, row)


def _of_learner(move: Move, row: Row) -> Stage:
    progress = next((p for p in row["catching_up"] if p["node"] == move.target), None)
    if progress is not None and progress["state"] == "snapshot":
        return Stage.SNAPSHOT
    has_state = progress is not None and progress["match_index"] > 0
    return Stage.CATCHING_UP if has_state else Stage.LEARNING


def _after(
    move: Move, shard_map: ShardMap, statuses: Mapping[NodeId, Mapping[str, Any]]
) -> Stage | None:
    """Whether the one that went is still to be rid of what it had."""
    holders = {replica.node for replica in shard_map.members(move.group)}
    is_made = move.target in holders and move.source not in holders
    if not is_made or move.source not in statuses:
        return None
    return None if row_of(statuses[move.source], move.group) is None else Stage.LEAVING
