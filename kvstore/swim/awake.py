"""Time as this node lived it.

A process that was stopped, starved or asleep wakes up to find every deadline passed and every
answer late, and would accuse the whole cluster. But time in which it did not run proves nothing
about others. So deadlines are kept in *awake time*, which goes on only as far as this node had
meant to sleep. And when it has slept longer, awake time stands still for a moment first: what
came in meanwhile is to be read before anything falls due.
"""

from __future__ import annotations


class AwakeClock:
    """Invariant: ``now`` never falls, and passes the wanted deadline by the bound at most."""

    __slots__ = ("_late_s_max", "_runs_from", "_seen", "now")

    def __init__(self, late_s_max: float, outside: float) -> None:
        """At ``outside``, by the clock of that name, awake time begins with 0.

        Args:
            late_s_max: Seconds; to run later than meant by more is to have slept, and for so
                long awake time stands still then.
            outside: A steady clock.
        """
        self._late_s_max = late_s_max
        self._seen = outside
        self._runs_from = outside
        """By the clock outside, when it was, or will be, ``now``."""
        self.now = 0.0

    @property
    def is_still(self) -> bool:
        """Whether nothing may fall due yet."""
        return self._seen < self._runs_from

    def advance(self, outside: float, wanted: float) -> float:
        """The clock outside says ``outside``; we had meant to run by ``wanted``, awake time.

        Returns:
            Seconds that were slept through and do not count.
        """
        self._runs_from += min(0.0, outside - self._seen)  # No clock should go back; if it does.
        was_still = self.is_still
        self._seen = outside
        late_s = outside - self.outside(wanted)
        if late_s > self._late_s_max:
            # Never still twice in a row: who only ever runs for short still gets things done.
            self.now, self._runs_from = max(self.now, wanted), outside
            self._runs_from += 0.0 if was_still else self._late_s_max
            return late_s
        if outside >= self._runs_from:
            passed_s = outside - self._runs_from
            # Who ticks just when told to finds that it is time, however that was rounded.
            self.now = max(self.now + passed_s, wanted if late_s >= 0.0 else 0.0)
            self._runs_from = outside
        return 0.0

    def outside(self, awake: float) -> float:
        """When the clock outside will say that it is ``awake``, or has been for long."""
        return self._runs_from + max(0.0, awake - self.now)
