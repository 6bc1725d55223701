"""Lets moves go as fast as leaves clients nearly their usual latency.

What a move costs clients depends on the machine, the load and the data, so it is not guessed but
watched: a node knows how long its own clients usually wait, and slows what it sends to newcomers
when they wait longer. It finds the rate as TCP does: it doubles until clients notice; when they
mind it falls by half, comes back soon to nearly where that was, and feels its way from there, more
boldly the longer all is well (compare Ha et al., "CUBIC", 2008).

However long clients wait, a move must end: before the log that is kept for its newcomer grows too
long, and before it is taken for stuck. So the lowest rate doubles with the time that a snapshot is
on its way already.

Pure: the time is given by the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.server.pacing import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_S: Final = 0.5
"""How often :meth:`Throttle.check` is to be called."""
REQUESTS_MIN: Final = 20
"""Fewer in a window scatter."""
NOTICED: Final = 1.25
"""The mean latency beside moves, in its usual values, from which on they get no faster."""
TOLERATED: Final = 1.5
"""From which on they are slowed, if it is so twice in a row: once may be chance. The tail rises
about twice as steeply as the mean."""
ALARMING: Final = 3.0
"""From which on they are slowed at once."""
TOLERATED_OF_FEW: Final = 4.0
BYTES_PER_S_MIN: Final = 512 * 1024
"""At first; see :meth:`Throttle.check`."""
DOUBLED_AFTER_S: Final = 20.0
DOUBLINGS_MAX: Final = 32
"""More than any bound in the configuration."""
BYTES_PER_S_FIRST: Final = 4 * 1024 * 1024
"""With which moves begin."""
SLOWER: Final = 0.5
FASTER: Final = 2.0
"""Until clients notice, and while there are few of them, or none."""
RETURNS: Final = 1.5
"""Up to ``NEARLY``."""
NEARLY: Final = 0.8
"""Of the rate that clients minded last."""
FEELS: Final = 0.1
"""By so much it rises from there in the first window, then by twice as much in each."""
CALM_MAX: Final = 8
USUAL_WEIGHT: Final = 0.1
"""Of the last window in the usual latency: what counts is about the last five seconds."""
USUAL_WEIGHT_OF_LITTLE: Final = 0.5
"""If it is less than half of what was usual: a burst is over."""
USUAL_DRIFT: Final = 1.02
"""By how much what is usual rises in a window in which the slowest moves are too much: then it
is not they that make clients wait."""


class LatencyMeter:
    """How long requests wait, those included that wait still."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: steady seconds."""
        self._clock = clock
        self._answered = 0
        self._answered_s = 0.0
        self._waiting = 0
        self._came_s = 0.0
        """When those that wait came, added up."""

    def came(self) -> float:
        """A request is here, to be :meth:`answered`; gives the time."""
        now = self._clock()
        self._waiting += 1
        self._came_s += now
        return now

    def answered(self, came_at: float) -> None:
        """One that came then has its answer, whatever that is."""
        self._waiting -= 1
        self._came_s -= came_at
        self._answered += 1
        self._answered_s += self._clock() - came_at

    def take(self) -> tuple[int, float]:
        """How many were answered since the last look or wait, and how long so far on average."""
        requests = self._answered + self._waiting
        waited_s = self._waiting * self._clock() - self._came_s
        mean_s = (self._answered_s + waited_s) / max(1, requests)
        self._answered, self._answered_s = 0, 0.0
        return requests, mean_s


class Throttle:
    """Sets the rate of ``pace``. Invariant: it is never over what is configured."""

    def __init__(self, *, bytes_per_s_max: int, clock: Callable[[], float]) -> None:
        """Begin slowly, with nothing known of clients."""
        self.pace = Pace(BYTES_PER_S_FIRST)
        """Of what is sent to newcomers."""
        self.meter = LatencyMeter(clock)
        """Of what clients ask for."""
        self._bytes_per_s_max = float(bytes_per_s_max)
        self._usual_s: float | None = None
        self._minded: float | None = None
        """The rate at which clients of this node last minded the present moves, or noticed."""
        self._calm = 0
        """Windows in a row for which it has felt its way."""
        self._warned = False
        """Whether clients waited too long in the last window, and it was left at that."""
        self._set(BYTES_PER_S_FIRST, BYTES_PER_S_MIN)

    def check(self, *, is_moving: bool, oldest_s: float = 0.0) -> None:
        """A window is over.

        Args:
            is_moving: Whether replicas were on their way, of this node or others.
            oldest_s: For how long this node has been sending the snapshot that it began first.
        """
        requests, mean_s = self.meter.take()
        slowest = BYTES_PER_S_MIN * 2.0 ** min(oldest_s // DOUBLED_AFTER_S, DOUBLINGS_MAX)
        if not is_moving:
            self._begin_anew(requests, mean_s)
            self._set(BYTES_PER_S_FIRST, slowest)
        else:
            self._set(self._next_rate(requests, mean_s, slowest), slowest)

    def _begin_anew(self, requests: int, mean_s: float) -> None:
        if requests >= REQUESTS_MIN:
            self._learn(mean_s)
        self._minded, self._calm, self._warned = None, 0, False

    def _next_rate(self, requests: int, mean_s: float, slowest: float) -> float:
        rate = self.pace.bytes_per_s
        if requests < REQUESTS_MIN:
            usual_s = self._usual_s or mean_s
            minds = requests > 0 and mean_s > TOLERATED_OF_FEW * usual_s
            return rate * (SLOWER if minds else FASTER)
        if self._usual_s is None:
            self._learn(mean_s)  # the first window is taken for usual
        usual_s = self._usual_s or mean_s
        if mean_s > NOTICED * usual_s:
            return self._held_back(rate, mean_s / usual_s, slowest)
        if mean_s < usual_s:
            self._learn(mean_s)
        return self._faster(rate)

    def _held_back(self, rate: float, strain: float, slowest: float) -> float:
        """The next rate, when clients wait for ``strain`` times as long as is usual."""
        self._calm = 0
        warned, self._warned = self._warned, TOLERATED < strain <= ALARMING
        if rate <= slowest and self._usual_s is not None:
            self._usual_s *= USUAL_DRIFT
        if strain <= (TOLERATED if warned else ALARMING):
            self._minded = self._minded or rate / NEARLY
            return rate
        self._minded = rate
        return rate * SLOWER

    def _faster(self, rate: float) -> float:
        self._warned = False
        if self._minded is None:
            return rate * FASTER
        nearly = NEARLY * self._minded
        if rate < nearly:
            return min(rate * RETURNS, nearly)
        factor = min(FASTER, 1 + FEELS * 2.0**self._calm)
        self._calm = min(self._calm + 1, CALM_MAX)
        return rate * factor

    def _learn(self, mean_s: float) -> None:
        usual_s = mean_s if self._usual_s is None else self._usual_s
        weight = USUAL_WEIGHT if mean_s > usual_s / 2 else USUAL_WEIGHT_OF_LITTLE
        self._usual_s = usual_s + weight * (mean_s - usual_s)

    def _set(self, bytes_per_s: float, slowest: float) -> None:
        self.pace.bytes_per_s = min(max(bytes_per_s, slowest), self._bytes_per_s_max)
