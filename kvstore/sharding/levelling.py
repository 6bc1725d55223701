"""Moving replicas away from nodes that hold too many, and to nodes that hold too few.

Fresh replicas first, which costs nothing, until each node holds its share rounded down or up,
as far as they suffice. Others only as far as nodes still hold more or fewer than they may:
single moves if possible; else chains, for corners where no single move is allowed.

Nodes are known here by their ranks in the order of their ids.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvstore.sharding.holding import Holding
    from kvstore.sharding.loads import Level


def level_out(holding: Holding, level: Level, distance: Callable[[int, int], int]) -> None:
    """Make ``holding`` level.

    Args:
        holding: every shard has all of its replicas.
        level: what to come to.
        distance: between a shard and a node. A node takes near shards first.
    """
    levelling = _Levelling(holding, level, distance)
    levelling.place_fresh()
    levelling.raise_low()
    levelling.lower_high()


class _Levelling:
    def __init__(self, holding: Holding, level: Level, distance: Callable[[int, int], int]) -> None:
        self._holding = holding
        self._level = level
        self._distance = distance

    def place_fresh(self) -> None:
        """Move fresh replicas as long as that brings a node to its share."""
        low, high = self._level.low, self._level.high
        while lacking := self._outside(low, -1):
            if not self._chain(self._outside(low, +1), lacking, fresh_only=True):
                break
        while full := self._outside(high, +1):
            if not self._chain(full, self._outside(high, -1), fresh_only=True):
                break

    def raise_low(self) -> None:
        """Bring those up to their share who hold too few."""
        load, low = self._holding.load, self._level.low
        mend = self._to_mend(low, self._level.least, -1)
        self._feed(mend, low, self._outside(low, +1), low)
        while lacking := [node for node in mend if load(node) < low[node]]:
            made = self._chain(self._outside(low, +1), lacking, fresh_only=False)
            assert made

    def lower_high(self) -> None:
        """Bring those down to their share who hold too many."""
        load, low, high = self._holding.load, self._level.low, self._level.high
        mend = self._to_mend(high, self._level.most, +1)
        self._feed(self._outside(low, -1), low, mend, high)
        self._feed(self._outside(high, -1), high, mend, high)
        while full := [node for node in mend if load(node) > high[node]]:
            made = self._chain(full, self._outside(high, -1), fresh_only=False)
            assert made

    def _to_mend(self, share: Sequence[int], bounds: Sequence[int], side: int) -> list[int]:
        """Who is beyond its bound; if the others are too far from their shares together, all."""
        load = self._holding.load
        found = self._outside(share, side)
        off = {node: side * (load(node) - share[node]) for node in found}
        mend = [node for node in found if side * (load(node) - bounds[node]) > 0]
        rest = sum(off.values()) - sum(off[node] for node in mend)
        return found if rest > self._level.slack else mend

    def _outside(self, bounds: Sequence[int], side: int) -> list[int]:
        """The nodes above ``bounds``, or with ``side`` -1 below, the farthest from share first."""
        loads = [self._holding.load(node) for node in range(len(bounds))]
        found = [node for node, load in enumerate(loads) if side * (load - bounds[node]) > 0]
        return sorted(found, key=lambda node: -side * self._level.excess(node, loads[node]))

    def _chain(self, givers: list[int], takers: list[int], *, fresh_only: bool) -> bool:
        """Make a chain of moves from one of ``givers`` to one of ``takers``."""
        end = self._holding.chain_from(givers, set(takers).__contains__, fresh_only=fresh_only)
        return end is not None

    def _feed(
        self, takers: list[int], up_to: Sequence[int], givers: list[int], down_to: Sequence[int]
    ) -> None:
        """Let each taker take from the giver who has most above its share."""
        giving = _Giving(self._holding, self._level, self._distance, down_to)
        giving.offer(givers)
        for taker in takers:
            giving.give(taker, up_to[taker])


class _Giving:
    """Nodes that give, by single moves, as long as they hold more than ``down_to``.

    Invariant: ``barred`` has pairs of a node and a zone to which it cannot give any shard. Where
    every shard has a replica in every zone that is so for all other zones.
    """

    def __init__(
        self,
        holding: Holding,
        level: Level,
        distance: Callable[[int, int], int],
        down_to: Sequence[int],
    ) -> None:
        self._holding = holding
        self._level = level
        self._distance = distance
        self._down_to = down_to
        self._heap: list[tuple[int, int]] = []
        self._barred: set[tuple[int, int]] = set()

    def offer(self, givers: Iterable[int]) -> None:
        """These give, as far as they hold too many."""
        for giver in givers:
            load = self._holding.load(giver)
            if load > self._down_to[giver]:
                heappush(self._heap, (-self._level.excess(giver, load), giver))

    def give(self, taker: int, up_to: int) -> None:
        """Fill ``taker``, each time from the node that has most above its share and can give."""
        passed: list[int] = []
        choices: dict[int, list[int]] = {}
        while self._heap and self._holding.load(taker) < up_to:
            _, giver = heappop(self._heap)
            if giver not in choices:
                choices[giver] = self._choice(giver, taker)
            if self._move_one(giver, taker, choices[giver]):
                self.offer([giver])
            else:
                passed.append(giver)
        self.offer(passed)

    def _choice(self, giver: int, taker: int) -> list[int]:
        """The shards that ``giver`` may give, the best last: fresh ones, then the nearest."""
        holding, zone = self._holding, self._holding.zone[taker]
        if (giver, zone) in self._barred:
            return []
        shards = [s for s in holding.holds[giver] if holding.may_hold(taker, s, without=giver)]
        if not shards and not holding.may_cross(giver, zone):
            self._barred.add((giver, zone))
        far = {shard: -self._distance(shard, taker) for shard in shards}
        return sorted(shards, key=lambda shard: (holding.is_fresh(shard, giver), far[shard]))

    def _move_one(self, giver: int, taker: int, choice: list[int]) -> bool:
        holding = self._holding
        while choice:
            shard = choice.pop()
            if holding.may_hold(taker, shard, without=giver):
                holding.drop(shard, giver)
                holding.put(shard, taker)
                if holding.zone[giver] != holding.zone[taker]:
                    self._barred.clear()
                return True
        return False
