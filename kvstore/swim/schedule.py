"""Whom to probe next: everybody once, in random order, then again (SWIM section 4.3).

So a dead member is found by each of the others within 2N - 1 probes, not just some day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from kvstore.ids import NodeId


class ProbeSchedule:
    """A shuffled round of members; who joins in the middle takes part in it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[NodeId] = []
        self._next = 0

    def add(self, node: NodeId) -> None:
        """Take ``node`` in at a random place of the round."""
        place = self._rng.randint(0, len(self._order))
        self._order.insert(place, node)
        if place < self._next:
            self._next += 1

    def remove(self, node: NodeId) -> None:
        """``node`` is probed no longer."""
        place = self._order.index(node)
        del self._order[place]
        if place < self._next:
            self._next -= 1

    def take(self) -> NodeId | None:
        """The next of the round; None if there is nobody."""
        if self._next >= len(self._order):
            self._rng.shuffle(self._order)
            self._next = 0
        if not self._order:
            return None
        self._next += 1
        return self._order[self._next - 1]
