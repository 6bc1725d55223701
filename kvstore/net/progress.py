"""Noticing what is stuck, without a clock on the path of every frame."""

from __future__ import annotations


class Progress:
    """How long something has been waiting without a step forward.

    It is looked at now and then; between two looks only a counter of steps moves.
    """

    __slots__ = ("_since", "_steps")

    def __init__(self) -> None:
        self._steps = -1
        self._since = 0.0

    def stuck_s(self, now: float, *, waiting: bool, steps: int) -> float:
        """Seconds since ``steps`` was first seen at its present value while ``waiting``."""
        if not waiting:
            self._steps = -1
            return 0.0
        if steps != self._steps:
            self._steps, self._since = steps, now
        return now - self._since
