"""Holds work in the background back, so that it leaves room for what clients wait for."""

from __future__ import annotations

from typing import Final

PAUSE_S_MIN: Final = 0.001
"""A shorter one costs more than it spares."""


class Pace:
    """So many bytes a second, spread evenly (a leaky bucket that saves up nothing).

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
        self._free_at = begins_at + size_bytes / self.bytes_per_s
        return begins_at - now

    def refund(self, size_bytes: int, bytes_per_s: float) -> None:
        """Of what was reserved at that rate so much was not needed."""
        self._free_at -= size_bytes / bytes_per_s
