"""How long the node's event loop was kept from its poll.

While the loop runs something, nobody else has a turn: no request is read, no heartbeat is sent. A
timer that is due in a moment shows it: it runs late by as long as the loop did not come back. By
that alone a node on a busy machine would look bad, for the loop's thread also waits for a
processor. So what it waited is told apart: the rest is the node's own doing, work or a call that
blocks, waiting for the interpreter's lock included.

A stall that begins before the timer is due is seen shorter by that, by one beat at most. So beats
are short while the loop is at work, and rare while it rests, for each of them wakes it up.

Pure: the time is given by the caller.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

BEAT_S_MIN: Final = 0.004
BEAT_S_MAX: Final = 0.05
"""Of a loop at rest: of one core this takes a quarter of a percent."""
STALL_S: Final = 0.001
"""What is late by less is not counted: no timer is more exact."""
LONG_S: Final = 0.020
"""Of longer stalls the number is told."""
WINDOW_S: Final = 60.0
_MS_APART_MAX: Final = 100
"""Up to here stalls are counted by the millisecond, longer ones by two digits."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What passed, in seconds, from when a beat was asked for until it came."""

    passed_s: float
    busy_s: float
    """Processor time of the loop's thread."""
    waited_s: float
    """That it could have run and was given no processor."""


@dataclass(frozen=True, slots=True)
class Stall:
    """One time that the loop did not come back to its poll. All in seconds."""

    late_s: float
    own_s: float
    """Without the wait for a processor, and at least what follows."""
    busy_s: float
    """Processor time of the loop's thread since the beat was asked for, but no more than that."""


def stall_of(beat: Beat, wanted_s: float) -> Stall | None:
    """The stall that a beat shows which should have come after ``wanted_s``; None for none."""
    late_s = beat.passed_s - wanted_s
    if late_s < STALL_S:
        return None
    busy_s = min(late_s, beat.busy_s)
    return Stall(late_s, max(late_s - beat.waited_s, busy_s), busy_s)


def next_beat_s(beat: Beat) -> float:
    """When the next one should come: the sooner the more there was to do meanwhile."""
    share = (beat.busy_s + beat.waited_s) / max(beat.passed_s, BEAT_S_MIN)
    return BEAT_S_MAX if share <= BEAT_S_MIN / BEAT_S_MAX else max(BEAT_S_MIN, BEAT_S_MIN / share)


class _Worst:
    """The longest stalls since some time, and how many were long."""

    __slots__ = ("busy_s", "late_s", "longs", "own_longs", "own_s", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.late_s = self.own_s = self.busy_s = 0.0
        self.longs = self.own_longs = 0

    def note(self, stall: Stall) -> None:
        self.late_s = max(self.late_s, stall.late_s)
        self.own_s = max(self.own_s, stall.own_s)
        self.busy_s = max(self.busy_s, stall.busy_s)
        self.longs += stall.late_s > LONG_S
        self.own_longs += stall.own_s > LONG_S

    def to_map(self, now: float, *earlier: _Worst) -> dict[str, Any]:
        """Together with ``earlier`` ones."""
        every = (self, *earlier)
        return {
            "seconds": round(now - min(each.since for each in every), 1),
            "longest_ms": _ms(max(each.late_s for each in every)),
            "longest_own_ms": _ms(max(each.own_s for each in every)),
            "longest_busy_ms": _ms(max(each.busy_s for each in every)),
            "over_20_ms": sum(each.longs for each in every),
            "own_over_20_ms": sum(each.own_longs for each in every),
        }


class Stalls:
    """Keeps account. Invariant: the two windows follow one another, the last began last."""

    def __init__(self, now: float) -> None:
        """Nothing has happened yet."""
        self._ever, self._before, self._last = _Worst(now), _Worst(now), _Worst(now)
        self._late: Counter[str] = Counter()
        self._own: Counter[str] = Counter()

    def note(self, stall: Stall | None, now: float) -> None:
        """A beat has come, with or without a stall."""
        self._turn(now)
        if stall is None:
            return
        self._ever.note(stall)
        self._last.note(stall)
        for counts, seconds in ((self._late, stall.late_s), (self._own, stall.own_s)):
            if seconds >= STALL_S:
                counts[rounded_ms(seconds)] += 1

    def to_map(self, now: float) -> dict[str, Any]:
        """For the answer to STATUS: what only grows comes last, so that it can be subtracted."""
        self._turn(now)
        return {
            "recent": self._last.to_map(now, self._before),
            "since_start": self._ever.to_map(now),
            "late_ms": dict(self._late),
            "own_ms": dict(self._own),
        }

    def _turn(self, now: float) -> None:
        if now - self._last.since >= WINDOW_S:
            self._before, self._last = self._last, _Worst(now)


def rounded_ms(seconds: float) -> str:
    """Milliseconds, rounded down; so that there are never many different ones."""
    ms, unit = int(seconds * 1000), 1
    while ms // unit >= _MS_APART_MAX:
        unit *= 10
    return str(ms // unit * unit)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
