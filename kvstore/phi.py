"""Phi-accrual failure detection (Hayashibara et al. 2004).

Instead of a yes or no the detector gives a suspicion ``phi``: with phi = 3 the chance that
the silence is only a late heartbeat is 10^-3, judged by the heartbeats seen so far. Turned
around, a phi gives the silence at which to act, which is how the election timeout adapts:
steady heartbeats allow a short one, jittery ones ask for patience.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

WINDOW = 64
"""Arrivals remembered."""

DEVIATION_MIN = 0.25
"""The deviation counts as at least this fraction of the mean: a perfectly steady past must
not make the detector nervous about the first small delay."""

PHI_MAX = 300.0
"""Where a double's tail of the normal distribution ends."""


class ArrivalWindow:
    """Intervals between heartbeats. Sums are kept, so every question costs O(1)."""

    __slots__ = ("_expected_s", "_intervals", "_last", "_oldest", "_sum", "_sum_of_squares")

    def __init__(self, expected_s: float) -> None:
        self._expected_s = expected_s
        self._intervals: list[float] = []
        """A ring once it is full; a list, for most of a thousand members are hardly heard."""
        self._oldest = 0
        self._sum = 0.0
        self._sum_of_squares = 0.0
        self._last: float | None = None

    def arrived(self, now: float) -> None:
        """A heartbeat came."""
        if self._last is not None:
            self._add(max(0.0, now - self._last))
        self._last = now

    def expect(self, seconds: float) -> None:
        """Until many have come, intervals are thought to be so long."""
        self._expected_s = seconds

    def restart(self) -> None:
        """The next arrival begins a new row: the silence before it says nothing."""
        self._last = None

    def _add(self, interval: float) -> None:
        self._sum += interval
        self._sum_of_squares += interval * interval
        if len(self._intervals) < WINDOW:
            self._intervals.append(interval)
            return
        oldest, self._intervals[self._oldest] = self._intervals[self._oldest], interval
        self._oldest = (self._oldest + 1) % WINDOW
        self._sum -= oldest
        self._sum_of_squares -= oldest * oldest

    def _mean_and_deviation(self) -> tuple[float, float]:
        # The expected interval weighs as one observation, so that an empty window answers.
        count = len(self._intervals) + 1
        mean = (self._sum + self._expected_s) / count
        square = (self._sum_of_squares + self._expected_s * self._expected_s) / count
        deviation = math.sqrt(max(0.0, square - mean * mean))
        return mean, max(deviation, DEVIATION_MIN * mean)

    def phi(self, now: float) -> float:
        """Suspicion after the silence since the last arrival; 0 before the first."""
        if self._last is None:
            return 0.0
        mean, deviation = self._mean_and_deviation()
        z = (now - self._last - mean) / deviation
        late = 0.5 * math.erfc(z / math.sqrt(2.0))
        return PHI_MAX if late <= 0.0 else min(PHI_MAX, -math.log10(late))

    def silence_at(self, phi: float) -> float:
        """Seconds of silence after which suspicion reaches ``phi``."""
        mean, deviation = self._mean_and_deviation()
        return mean + deviation * _quantile(phi)


@lru_cache(maxsize=16)
def _quantile(phi: float) -> float:
    """How many deviations beyond the mean give ``phi``."""
    return -NormalDist().inv_cdf(10.0**-phi)
