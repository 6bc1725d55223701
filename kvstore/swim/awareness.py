"""Local health: does this node itself keep up? (Lifeguard section IV-A)."""

from __future__ import annotations


class Awareness:
    """Invariant: ``0 <= score <= score_max``; 0 is well."""

    __slots__ = ("_score_max", "score")

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def worsen(self, by: int = 1) -> None:
        """Something was missed that a healthy node would not miss."""
        self.score = min(self._score_max, self.score + by)

    def improve(self) -> None:
        """A probe was answered in time."""
        self.score = max(0, self.score - 1)

    def scale(self, seconds: float) -> float:
        """``seconds`` for a node of this health."""
        return seconds * (self.score + 1)
