"""Lets moves go as fast as leaves clients nearly their usual latency.

What a move costs clients depends on the machine, the load and the data, so it is not guessed but
watched: a node knows how long its own clients usually wait, and slows what it sends to newcomers
when they wait longer. Its rate falls by halves and rises by steps, as TCP's does: so nodes that
share a machine, and do not know of each other, all get a part (Chiu and Jain 1989).

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
TOLERATED: Final = 1.2
"""The mean latency beside moves, in its usual values. The tail rises about twice as steeply."""
TOLERATED_OF_FEW: Final = 4.0
BYTES_PER_S_MIN: Final = 512 * 1024
"""At first; see :meth:`Throttle.check`."""
DOUBLED_AFTER_S: Final = 20.0
BYTES_PER_S_FIRST: Final = 1024 * 1024
"""With which moves begin."""
INSTALLS_FASTER: Final = 4
"""To put a byte in force costs a fraction of what it costs to send it."""
INSTALLS_BYTES_PER_S_MIN: Final = 8 * 1024 * 1024
"""A replica that is being replaced serves nobody, and its leader does not wait for ever."""
SLOWER: Final = 0.5
FASTER: Final = 1.2
FASTER_UNWATCHED: Final = 2.0
"""While few clients, or none, have something to lose."""
USUAL_WEIGHT: Final = 0.1
"""Of the last window in the usual latency: what counts is about the last five seconds."""
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
        self._set(BYTES_PER_S_FIRST, BYTES_PER_S_MIN)

    def rest_s(self, installed_bytes: int) -> float:
        """How long to let others have a turn after so much of an installation."""
        bytes_per_s = INSTALLS_FASTER * self.pace.bytes_per_s
        return installed_bytes / max(bytes_per_s, INSTALLS_BYTES_PER_S_MIN)

    def check(self, *, is_moving: bool, oldest_s: float = 0.0) -> None:
        """A window is over.

        Args:
            is_moving: Whether replicas were on their way, of this node or others.
            oldest_s: For how long this node has been sending the snapshot that it began first.
        """
        requests, mean_s = self.meter.take()
        slowest = BYTES_PER_S_MIN * 2.0 ** (oldest_s // DOUBLED_AFTER_S)
        if not is_moving:
            if requests >= REQUESTS_MIN:
                self._learn(mean_s)
            self._set(BYTES_PER_S_FIRST, slowest)
        elif self._minds(requests, mean_s):
            if self._usual_s is not None and self.pace.bytes_per_s <= slowest:
                self._usual_s *= USUAL_DRIFT
            self._set(self.pace.bytes_per_s * SLOWER, slowest)
        else:
            few = requests < REQUESTS_MIN
            if not few and mean_s < (self._usual_s or mean_s):
                self._learn(mean_s)
            self._set(self.pace.bytes_per_s * (FASTER_UNWATCHED if few else FASTER), slowest)

    def _minds(self, requests: int, mean_s: float) -> bool:
        """Whether clients wait too long; takes the first window for usual if none was seen."""
        if requests < REQUESTS_MIN:
            usual_s = self._usual_s or mean_s
            return requests > 0 and mean_s > TOLERATED_OF_FEW * usual_s
        if self._usual_s is None:
            self._learn(mean_s)
            return False
        return mean_s > TOLERATED * self._usual_s

    def _learn(self, mean_s: float) -> None:
        usual_s = mean_s if self._usual_s is None else self._usual_s
        self._usual_s = usual_s + USUAL_WEIGHT * (mean_s - usual_s)

    def _set(self, bytes_per_s: float, slowest: float) -> None:
        self.pace.bytes_per_s = min(max(bytes_per_s, slowest), self._bytes_per_s_max)
