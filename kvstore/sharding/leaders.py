"""Who leads which shard: evenly by weight, with as few changes as that needs.

An optimal semi-matching (Harvey et al. 2003): while there is a chain of hand-overs from a node
to another that is better off with one more, make it. Each lowers the sum of
``leads^2 / weight``, so this ends; and then no other choice has a lower one.

Nodes are known here by their ranks in the order of their ids.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from kvstore.sharding.loads import scaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

NOBODY = -1


def spread_leaders(
    leaders: Sequence[int], held: Sequence[Sequence[int]], weights: Sequence[Fraction]
) -> list[int]:
    """The leader of every shard.

    Args:
        leaders: who leads each shard now, one of its holders; or ``NOBODY``.
        held: the holders of each shard, at least one.
        weights: of every node.
    """
    leading = _Leading(leaders, held, weights)
    leading.appoint()
    leading.even_out()
    return leading.leader


class _Leading:
    """Invariant: ``led[n]`` are the shards whose ``leader`` is ``n``, in their order.

    A node from which no chain starts is settled, and so are all that its chains reach. Of
    these none will ever be in a chain again: those still to be relieved count for less, so
    what was not good enough for the settled node is not for them.
    """

    def __init__(
        self, leaders: Sequence[int], held: Sequence[Sequence[int]], weights: Sequence[Fraction]
    ) -> None:
        self.leader = list(leaders)
        self._held = held
        self._unit, _ = scaled([1 / weight for weight in weights])
        self._led: list[list[int]] = [[] for _ in weights]
        self._settled = [False] * len(weights)
        for shard, leader in enumerate(leaders):
            if leader != NOBODY:
                self._led[leader].append(shard)

    def appoint(self) -> None:
        """Give each shard that nobody leads to the holder best off with one more."""
        for shard, leader in enumerate(self.leader):
            if leader == NOBODY:
                chosen = min(self._held[shard], key=lambda node: self._with(node, +1))
                self.leader[shard] = chosen
                insort(self._led[chosen], shard)

    def even_out(self) -> None:
        """Make chains, always from the node that counts for most, until none is left."""
        loaded = [self._entry(node) for node in range(len(self._led))]
        heapify(loaded)
        while loaded:
            entry = heappop(loaded)
            node = entry[1]
            if self._settled[node] or entry != self._entry(node):
                continue
            to = self._relieve(node)
            if to is not None:
                heappush(loaded, self._entry(node))
                heappush(loaded, self._entry(to))

    def _entry(self, node: int) -> tuple[int, int]:
        return -self._with(node, -1), node

    def _with(self, node: int, change: int) -> int:
        """What ``node`` counts for with half a lead more or less, per weight."""
        return (2 * len(self._led[node]) + change) * self._unit[node]

    def _relieve(self, loaded: int) -> int | None:
        """Make the shortest chain from ``loaded``; who has one more now, None if there is none."""
        limit = self._with(loaded, -1)
        came_by = {loaded: NOBODY}
        reached = deque([loaded])
        while reached:
            for shard in self._led[reached.popleft()]:
                for other in self._held[shard]:
                    if other in came_by or self._settled[other]:
                        continue
                    came_by[other] = shard
                    if self._with(other, +1) < limit:
                        self._hand_over(other, loaded, came_by)
                        return other
                    reached.append(other)
        for node in came_by:
            self._settled[node] = True
        return None

    def _hand_over(self, to: int, loaded: int, came_by: Mapping[int, int]) -> None:
        while to != loaded:
            shard = came_by[to]
            before = self.leader[shard]
            self.leader[shard] = to
            self._led[before].remove(shard)
            insort(self._led[to], shard)
            to = before
