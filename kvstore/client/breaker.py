"""A circuit breaker per node: one that failed is left alone for a moment.

Nygard, "Release It!", chapter "Stability Patterns". A request to a dead machine costs a
whole timeout, and retries of all callers together would keep a struggling one down.

``closed``     the node is used.
``open``       it failed; nothing is sent before ``retry_at``, a wait that doubles.
``half-open``  the wait is over: one trial may go; its outcome closes or opens the breaker.

Pure: the caller gives time and randomness.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


class BreakerState(Enum):
    """See the module docstring."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Invariant: between a failure and its outcome at most one trial is under way."""

    def __init__(self, *, open_s_min: float, open_s_max: float, rng: random.Random) -> None:
        self._open_s_min = open_s_min
        self._open_s_max = open_s_max
        self._rng = rng
        self._failures = 0
        self._trial = False
        self.retry_at = 0.0
        """When the next trial may go; in the past unless the breaker is open."""

    def state(self, now: float) -> BreakerState:
        """The state at ``now``."""
        if not self._failures:
            return BreakerState.CLOSED
        if self._trial or now >= self.retry_at:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    def try_acquire(self, now: float) -> bool:
        """Whether the node may be tried now.

        In the half-open state the first caller gets the trial and owes its outcome:
        :meth:`succeeded` or :meth:`failed`.
        """
        state = self.state(now)
        if state is BreakerState.HALF_OPEN:
            free, self._trial = not self._trial, True
            return free
        return state is BreakerState.CLOSED

    def succeeded(self) -> None:
        """The node answered: use it without restraint."""
        self._failures = 0
        self._trial = False

    def failed(self, now: float) -> None:
        """The node could not be reached, dropped the connection, or fell silent."""
        window_s = min(self._open_s_max, self._open_s_min * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._trial = False
        # Half of the wait is random, so that many clients do not come back together.
        self.retry_at = now + window_s * self._rng.uniform(0.5, 1.0)
