"""Time as this node lived it.

A process that was stopped, starved or asleep wakes up to find every deadline passed and every
answer late, and would accuse the whole cluster. But time in which it did not run proves nothing
about others. So deadlines are kept in *awake time*, which goes on only as far as this node had
meant to sleep, and a little more. It never goes back, whatever the clock does.
"""

from __future__ import annotations

import math


class AwakeClock:
    """Invariant: ``now`` never falls, and never passes the wanted deadline by over the bound."""

    __slots__ = ("_late_s_max", "_seen", "now")

    def __init__(self, late_s_max: float, outside: float) -> None:
        self._late_s_max = late_s_max
        self._seen = outside
        self.now = 0.0

    def advance(self, outside: float, wanted: float) -> float:
        """The clock outside says ``outside``; we had meant to run by ``wanted``, awake time.

        Returns:
            Seconds that were slept through and do not count.
        """
        passed = max(0.0, outside - self._seen)
        self._seen = outside
        # Deadlines in the past were seen to already; what counts is how long we let it go.
        end = max(wanted, self.now) + self._late_s_max
        slept_s = max(0.0, self.now + passed - end)
        self.now += passed - slept_s
        return slept_s

    def outside(self, awake: float) -> float:
        """When the clock outside will say that it is ``awake``."""
        return math.inf if awake == math.inf else self._seen + (awake - self.now)
