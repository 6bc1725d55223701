"""Holds work in the background back, so that it leaves room for what clients wait for."""

from __future__ import annotations

from typing import Final

PAUSE_S_MIN: Final = 0.001
"""A shorter one costs more than it spares."""


TURN_S_MAX: Final = 20.0
"""No piece keeps others waiting for longer, however large it is: silence would pass for death."""


class Pace:
    """So many bytes a second, spread evenly (a leaky bucket that saves up nothing).

    Faster only where a single piece is so large that it would take longer than ``TURN_S_MAX``.

    Pure: the time is given by the caller. Invariant: whatever is reserved begins at or after the
    end of what was reserved before it.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        """For what is reserved from now on."""
        self._free_at = 0.0

    def reserve(self, size_bytes: int, now: float) -> float:
        """Put ``size_bytes`` behind all that is reserved; returns how many seconds to wait."""
        begins_at = max(now, self._free_at)
        self._free_at = begins_at + _turn_s(size_bytes, self.bytes_per_s)
        return begins_at - now

    def refund(self, size_bytes: int, bytes_per_s: float, *, used_bytes: int = 0) -> None:
        """Of ``size_bytes`` that were reserved at that rate only so many were needed."""
        used_s = _turn_s(min(used_bytes, size_bytes), bytes_per_s)
        self._free_at -= _turn_s(size_bytes, bytes_per_s) - used_s


def _turn_s(size_bytes: int, bytes_per_s: float) -> float:
    return min(size_bytes / bytes_per_s, TURN_S_MAX)
