"""Waiting between attempts: exponential, capped, with full jitter.

Full jitter (a uniform draw from 0 to the bound) spreads the retries of many that failed
together best: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


class Backoff:
    """The waits of one sequence of attempts."""

    def __init__(self, base_s: float, cap_s: float, rng: random.Random) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng
        self._bound_s = base_s

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        wait_s = self._rng.uniform(0, self._bound_s)
        self._bound_s = min(self._cap_s, 2 * self._bound_s)
        return wait_s

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._bound_s = self._base_s
