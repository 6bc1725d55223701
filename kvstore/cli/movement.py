"""What moves, and how far it is: the map says what, the leaders of the groups how far.

Pure: a map and what the nodes say of themselves go in, rows come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvstore.ids import META_GROUP, GroupId, shard_of_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kvstore.cli.view import NodeStatus
    from kvstore.sharding.shard_map import Change, ShardMap

META = "meta"


@dataclass(frozen=True, slots=True)
class Movement:
    """One change of one group's replicas that is under way, or wanted."""

    group: GroupId
    add: str | None
    remove: str | None
    stage: str
    """``waiting`` (for its turn, the newcomer, or a leader), ``starting``, ``snapshot``, ``log``
    (it gets entries), ``switching`` (who votes), ``leaving``, or ``going back``."""
    bytes_sent: int = 0
    bytes_total: int | None = None
    """An estimate; None while nobody tells."""
    behind: int | None = None
    """Entries that the newcomer lacks."""
    is_begun: bool = True
    """Whether it is under way."""
    why: str = ""
    """What holds it up, where that can be seen."""
    eta_s: float | None = None
    """For how long bytes will be on their way yet, at the pace of late; None if unknown."""

    @property
    def name(self) -> str:
        """Of the group."""
        return group_name(self.group)

    @property
    def key(self) -> tuple[GroupId, str]:
        """What stays the same while it goes on."""
        return self.group, self.path

    @property
    def path(self) -> str:
        """From where to where."""
        return path(self.add, self.remove)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **move_json(self.group, self.add, self.remove),
            "stage": self.stage,
            "bytes_sent": self.bytes_sent,
            "bytes_total": self.bytes_total,
            "behind": self.behind,
            "under_way": self.is_begun,
            "why": self.why or None,
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
        }


def group_name(group: GroupId) -> str:
    """``meta``, or ``shard 3``."""
    return META if group == META_GROUP else f"shard {shard_of_group(group)}"


def path(add: str | None, remove: str | None) -> str:
    """``n2→n4``; ``+n4`` for one that only comes, ``-n2`` for one that only goes."""
    if add is None:
        return f"-{remove}"
    return f"+{add}" if remove is None else f"{remove}→{add}"


def move_json(group: GroupId, add: str | None, remove: str | None) -> dict[str, Any]:
    """A move, or what would be one, for programs."""
    shard = META if group == META_GROUP else shard_of_group(group)
    return {"shard": shard, "from": remove, "to": add}


def movements(shard_map: ShardMap, statuses: Iterable[NodeStatus]) -> list[Movement]:
    """All that is under way, by group."""
    told = list(statuses)
    return [_movement(change, leader_row(change.group, told)) for change in shard_map.changes]


def leader_row(group: GroupId, statuses: Iterable[NodeStatus]) -> Mapping[str, Any] | None:
    """What the leader of ``group`` says of it."""
    rows: list[Mapping[str, Any]] = []
    for status in statuses:
        if group == META_GROUP:
            rows += [row for row in [status.get("meta")] if row]
        else:
            shard = shard_of_group(group)
            rows += [row for row in status["shards"] if row["id"] == shard]
    leading = [row for row in rows if row["role"] == "leader"]
    return max(leading, key=lambda row: int(row["term"]), default=None)


def _movement(change: Change, leader: Mapping[str, Any] | None) -> Movement:
    add = None if change.add is None else change.add.node
    remove = None if change.remove is None else change.remove.node
    if change.cancelled_at:
        return Movement(change.group, add, remove, "going back")
    if leader is None:
        return Movement(change.group, add, remove, "waiting")
    if add is None:
        return Movement(change.group, add, remove, "leaving")
    peer = next((row for row in leader.get("catching_up", ()) if row["node"] == add), None)
    if peer is None:
        stage = "switching" if add in leader.get("replicas", ()) else "waiting"
        total = leader.get("bytes")
        sent = total if total is not None and stage == "switching" else 0
        return Movement(change.group, add, remove, stage, sent, total)
    stage = {"snapshot": "snapshot", "replicate": "log"}.get(peer["state"], "starting")
    if add in leader.get("replicas", ()):
        stage = "switching"
    return Movement(
        change.group,
        add,
        remove,
        stage,
        bytes_sent=peer["bytes_sent"],
        bytes_total=peer["bytes_total"],
        behind=max(0, peer["last_index"] - peer["match_index"]),
    )


def size(count: int | None) -> str:
    """``512 B``, ``1.5 kB``, ``20.0 MB``: decimal units, as disks are sold."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.95 or unit == "GB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
