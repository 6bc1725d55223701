"""Which nodes hold which shards while a placement is worked out, and chains of moves.

Nodes are known here by their ranks in the order of their ids.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvstore.sharding.loads import Zone


class Holding:
    """Invariant: the nodes of a shard are distinct, and at most ``in_zone_max`` are in one zone.

    Replicas placed since :meth:`keep` are *fresh*: they are not there yet, so to place them
    elsewhere costs nothing. Each other that is moved has to be copied.

    Attributes:
        held: the nodes of each shard, in the order in which they came.
        holds: the shards of each node, in the order in which they came (the keys; no values).
        zone: the number of each node's zone.
    """

    def __init__(self, shards: int, zones: Sequence[Zone], in_zone_max: int) -> None:
        self.held: list[list[int]] = [[] for _ in range(shards)]
        self.holds: list[dict[int, None]] = [{} for _ in zones]
        self._in_zone_max = in_zone_max
        numbers = {zone: number for number, zone in enumerate(dict.fromkeys(zones))}
        self.zone = [numbers[zone] for zone in zones]
        self._kept = [frozenset[int]()] * shards

    def keep(self) -> None:
        """What is held now is there already."""
        self._kept = [frozenset(held) for held in self.held]

    def is_fresh(self, shard: int, node: int) -> bool:
        """Whether the replica of ``shard`` on ``node`` is not there yet."""
        return node not in self._kept[shard]

    def surplus(self, shard: int, replicas: int) -> list[int]:
        """The nodes of ``shard`` of which one must give it up, for there are more than may be."""
        held = self.held[shard]
        in_zone = Counter(self.zone[node] for node in held)
        crowded = [node for node in held if in_zone[self.zone[node]] > self._in_zone_max]
        return crowded or (held if len(held) > replicas else [])

    def load(self, node: int) -> int:
        """How many replicas ``node`` holds."""
        return len(self.holds[node])

    def may_hold(self, node: int, shard: int, without: int | None = None) -> bool:
        """Whether the rules let ``shard`` be on ``node``, once it is gone from ``without``."""
        zone = self.zone[node]
        beside = 0
        for other in self.held[shard]:
            if other == node:
                return False
            if self.zone[other] == zone and other != without:
                beside += 1
        return beside < self._in_zone_max

    def may_cross(self, giver: int, zone: int) -> bool:
        """Whether any shard of ``giver`` may go to a node of ``zone`` that does not hold it."""
        for shard in self.holds[giver]:
            beside = [self.zone[node] for node in self.held[shard] if node != giver]
            if beside.count(zone) < self._in_zone_max:
                return True
        return False

    def put(self, shard: int, node: int) -> None:
        """A replica comes."""
        self.held[shard].append(node)
        self.holds[node][shard] = None

    def drop(self, shard: int, node: int) -> None:
        """A replica goes."""
        self.held[shard].remove(node)
        del self.holds[node][shard]

    def chain_for(
        self,
        shard: int,
        has_room: Callable[[int], bool],
        order: Callable[[int], Iterable[int]] | None = None,
        *,
        fresh_only: bool,
    ) -> int | None:
        """Give ``shard`` one more replica by the shortest chain of moves that makes room for it.

        Args:
            shard: it cannot be on any node that has room.
            has_room: whether the chain may end there. All nodes between hold as many as before.
            order: the nodes in the order in which they are tried for a shard; by default theirs.
            fresh_only: whether only fresh replicas may be moved.

        Returns:
            The node where it ends; None when there is none.
        """
        order = order or self._any_order
        taken: _Chain = {node: (shard, None) for node in order(shard) if self.may_hold(node, shard)}
        return self._search(taken, has_room, order, fresh_only)

    def chain_from(
        self, sources: Iterable[int], has_room: Callable[[int], bool], *, fresh_only: bool
    ) -> int | None:
        """Take one replica from one of ``sources`` by the shortest chain of moves.

        Returns:
            The node where it ends; None when there is none.
        """
        return self._search(dict.fromkeys(sources), has_room, self._any_order, fresh_only)

    def _any_order(self, _shard: int) -> Iterable[int]:
        return range(len(self.holds))

    def _search(
        self,
        taken: _Chain,
        has_room: Callable[[int], bool],
        order: Callable[[int], Iterable[int]],
        fresh_only: bool,
    ) -> int | None:
        """Find a chain breadth first (Ford and Fulkerson 1956) and make it.

        The shortest chain breaks no rule. If two of its moves were of one shard and in each
        other's way, the shard could go at once where the second move takes it.
        """
        reached = deque(taken)
        while reached:
            full = reached.popleft()
            for shard in self.holds[full]:
                if fresh_only and not self.is_fresh(shard, full):
                    continue
                for node in order(shard):
                    if node not in taken and self.may_hold(node, shard, without=full):
                        taken[node] = shard, full
                        if has_room(node):
                            self._make(taken, node)
                            return node
                        reached.append(node)
        return None

    def _make(self, taken: _Chain, end: int) -> None:
        step = taken[end]
        while step is not None:
            shard, before = step
            if before is not None:
                self.drop(shard, before)
            self.put(shard, end)
            if before is None:
                return
            step, end = taken[before], before


_Step = tuple[int, "int | None"]
_Chain = dict[int, "_Step | None"]
"""By node, the shard that may come to it if that leaves a node that an earlier step fills.

None for the node: a shard that had too few. None for the step: where the chain begins.
"""
