"""Hybrid logical clock: revisions that rise strictly and stay near wall-clock time.

Kulkarni et al. 2014, "Logical Physical Clocks". A revision is 64 bits: 46 of milliseconds
since the Unix epoch, 18 of a counter. When the counter overflows it carries into the
milliseconds, so a burst runs ahead of the wall clock for a moment instead of stopping.

Pure: the caller gives the wall-clock time in milliseconds.
"""

from __future__ import annotations

from kvstore.errors import ClockAhead
from kvstore.ids import Revision

COUNTER_BITS = 18


def revision_at(wall_ms: int) -> Revision:
    """The lowest revision of the millisecond ``wall_ms``."""
    return Revision(wall_ms << COUNTER_BITS)


def wall_ms_of(revision: int) -> int:
    """The millisecond part of ``revision``."""
    return revision >> COUNTER_BITS


class HybridClock:
    """Hands out revisions. Invariant: each is above every one handed out or observed."""

    def __init__(self, *, ahead_ms_max: int = 500, last: int = 0) -> None:
        self._ahead_ms_max = ahead_ms_max
        self._last = last

    @property
    def last(self) -> Revision:
        """The highest revision handed out or observed."""
        return Revision(self._last)

    def reserve(self, count: int, wall_ms: int) -> Revision:
        """Take ``count`` consecutive revisions and return the first."""
        assert count >= 1
        first = max(self._last + 1, revision_at(wall_ms))
        self._last = first + count - 1
        return Revision(first)

    def observe(self, revision: int) -> None:
        """Never hand out ``revision`` or less: it stands in a log that we lead from."""
        self._last = max(self._last, revision)

    def check_peer(self, peer_wall_ms: int, wall_ms: int) -> None:
        """Refuse a peer whose clock is too far ahead of ours.

        Raises:
            ClockAhead: by more than ``ahead_ms_max``.
        """
        ahead_ms = peer_wall_ms - wall_ms
        if ahead_ms > self._ahead_ms_max:
            raise ClockAhead(
                f"clock is {ahead_ms} ms ahead of ours (allowed: {self._ahead_ms_max} ms); "
                "check time synchronisation on both machines"
            )
