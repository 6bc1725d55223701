"""What is still to move, and what holds it up: a map and who answers in, moves and words out.

Pure. What is wanted is worked out from the map as the meta group's leader does it
(:mod:`kvstore.sharding.steering`). What that leader knows beside the map (its configuration, and
which nodes took nothing in when they were to) is not known here. So an obstacle that is named is
one, as far as whoever asks can see who answers; where none is named there may be one all the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvstore.cli.movement import Movement, group_name, leader_row, movements
from kvstore.config import ShardingConfig
from kvstore.ids import META_GROUP, STAY_MAX, GroupId, NodeId, shard_of_group
from kvstore.sharding import changes, steering
from kvstore.sharding.known import Known, Seen
from kvstore.sharding.loads import zone_level, zone_of
from kvstore.sharding.shard_map import NodeState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from kvstore.cli.view import NodeStatus
    from kvstore.sharding.shard_map import Change, ShardMap
    from kvstore.sharding.steering import Moving

NAMED_MAX: Final = 8
"""Shards that are named one by one; of more, how many is enough."""
WAITING: Final = "waiting"


class Outlook:
    """Of one map, as whoever has asked the nodes sees it."""

    def __init__(self, shard_map: ShardMap, statuses: Iterable[NodeStatus]) -> None:
        """``statuses``: one for each node that answers."""
        self._map = shard_map
        self._statuses = list(statuses)
        self._answering = {NodeId(status["node"]["id"]) for status in self._statuses}
        self._leaderless = self._lack_of_meta_leader()

    def moves(self) -> list[Movement]:
        """All moves that are under way, then those that are wanted, the most urgent first."""
        under_way = movements(self._map, self._statuses)
        ends = zip(under_way, self._map.changes, strict=True)
        now = [replace(move, why=self._silence_in(change)) for move, change in ends]
        return now + [self._waiting(move) for move in self._wanted()]

    def held_up(self, node: NodeId) -> str:
        """Why nothing that ``node`` holds can go; empty if something can, or nobody knows."""
        if not self._map.held_by(node):
            return self._leaderless
        waiting = {move.group: move for move in self._wanted() if move.remove == node}
        groups: dict[str, list[GroupId]] = defaultdict(list)
        for group in self._map.held_by(node):
            change = self._map.change_of(group)
            why = ""
            if change is not None:
                why = self._obstacle_of(change)
            elif group in waiting:
                why = self._obstacle(waiting[group])
            elif not changes.has_ids_left(self._map, group):
                why = f"moved {STAY_MAX} times, as often as can be"
            if not why:
                return ""
            groups[why].append(group)
        return "; ".join(f"{_called(held)}: {why}" for why, held in groups.items())

    def for_balance(self) -> int:
        """How many replicas would have to move to make the load even enough, begun or not."""
        wanted = steering.wanted_moves(self._map, self._known(everybody=True))
        active = {node.id for node in self._map.nodes if node.state is NodeState.ACTIVE}
        under_way = [
            change
            for change in self._map.changes
            if change.group != META_GROUP
            and not change.cancelled_at
            and change.add is not None
            and change.remove is not None
            and change.remove.node in active
        ]
        return sum(move.for_balance for move in wanted) + len(under_way)

    def crowded(self, node: NodeId) -> tuple[int, int]:
        """What it costs the zone rule that ``node``, a member, is to hold nothing.

        Returns:
            How many shards will have more replicas in one zone than any had to have while
            ``node`` could hold some, and how many replicas that is at most.
        """
        after = [n for n in self._map.nodes if n.state is NodeState.ACTIVE and n.id != node]
        before = [*after, self._map.node(node)]
        enough, needed = (
            zone_level(nodes, min(self._map.replication, len(nodes))) for nodes in (before, after)
        )
        if needed <= enough:
            return 0, 0
        zone = {n.id: zone_of(n) for n in self._map.nodes}
        most = [max(Counter(zone[n] for n in held).values()) for held in self._to_be_held()]
        crowded = [count for count in most if count > enough]
        return len(crowded), max(crowded, default=0)

    def _to_be_held(self) -> list[set[NodeId]]:
        """By shard: who holds it once all that is wanted has moved."""
        held = [{replica.node for replica in r} for r in changes.after(self._map).replicas]
        for move in self._wanted():
            if move.group != META_GROUP:
                nodes = held[shard_of_group(move.group)]
                if move.add is not None:
                    nodes.add(move.add)
                if move.remove is not None:
                    nodes.discard(move.remove)
        return held

    def _wanted(self) -> list[Moving]:
        """Also those that cannot begin now."""
        hopeful, real = self._known(everybody=True), self._known(everybody=False)
        in_meta = steering.wanted_in_meta(self._map, real) or steering.wanted_in_meta(
            self._map, hopeful
        )
        return [
            *([in_meta] if in_meta is not None else []),
            *(
                move
                for move in steering.wanted_moves(self._map, hopeful)
                if self._map.is_rebalancing or not move.for_balance
            ),
        ]

    def _known(self, *, everybody: bool) -> Known:
        seen = {
            node.id: Seen(
                node.address, node.weight, node.zone, everybody or node.id in self._answering
            )
            for node in self._map.nodes
        }
        return Known(seen, {}, ShardingConfig())

    def _waiting(self, move: Moving) -> Movement:
        leader = leader_row(move.group, self._statuses)
        total = None if leader is None or move.add is None else leader.get("bytes")
        return Movement(
            move.group,
            move.add,
            move.remove,
            WAITING,
            bytes_total=total,
            why=self._obstacle(move),
            is_begun=False,
        )

    # -- what holds them up -----------------------------------------------------------------------

    def _obstacle(self, move: Moving) -> str:
        """To a move that has not begun; empty if it may only wait for its turn."""
        change = self._map.change_of(move.group)
        if change is not None:
            return self._obstacle_of(change)
        return self._silence(move.group, move.add, move.remove) or self._leaderless

    def _obstacle_of(self, change: Change) -> str:
        """To the end of one that is under way, which only a leader of the meta group settles."""
        return self._silence_in(change) or self._leaderless

    def _silence_in(self, change: Change) -> str:
        ends = (None,) * 2 if change.cancelled_at else (change.add, change.remove)
        add, remove = (None if end is None else end.node for end in ends)
        return self._silence(change.group, add, remove)

    def _silence(self, group: GroupId, add: NodeId | None, remove: NodeId | None) -> str:
        """Who would have to answer and does not: a change needs a majority before and after it."""
        before = [replica.node for replica in self._map.members(group)]
        after = [node for node in before if node != remove] + ([] if add is None else [add])
        for members in (before, after):
            silent = sorted(node for node in members if node not in self._answering)
            if 2 * len(silent) >= len(members) and silent != [add]:
                return f"no majority while {_do_not_answer(silent)}"
        return _do_not_answer([add]) if add is not None and add not in self._answering else ""

    def _lack_of_meta_leader(self) -> str:
        """Without a leader of the meta group nothing begins or is settled."""
        if not all("meta" in status for status in self._statuses):
            return ""  # A node of an older version does not tell.
        if leader_row(META_GROUP, self._statuses) is not None:
            return ""
        silent = sorted(r.node for r in self._map.meta if r.node not in self._answering)
        nor = f", nor {'do' if len(silent) > 1 else 'does'} {', '.join(silent)} of it"
        return "no leader of the meta group answers" + (nor if silent else "")


def _do_not_answer(nodes: Sequence[str]) -> str:
    verb = "does not answer" if len(nodes) == 1 else "do not answer"
    return f"{', '.join(nodes)} {verb}"


def _called(groups: Collection[GroupId]) -> str:
    """``meta, shards 0, 3``."""
    shards = [str(shard_of_group(group)) for group in groups if group != META_GROUP]
    names = [group_name(META_GROUP)] if META_GROUP in groups else []
    if len(shards) > NAMED_MAX:
        names.append(f"{len(shards)} shards")
    elif shards:
        names.append(f"shard{'s' if len(shards) > 1 else ''} {', '.join(shards)}")
    return " and ".join(names)
