"""Lets moves go as fast as leaves clients nearly their usual latency.

What a move costs clients depends on the machine, the load and the data, so it is not guessed but
watched: a node knows how long its own clients usually wait, and slows what it sends to newcomers
when they wait longer. Its rate falls by halves and rises by steps, as TCP's does: so nodes that
share a machine, and do not know of each other, all get a part (Chiu and Jain 1989).

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
"""Fewer in a window tell nothing, and have little to lose."""
TOLERATED: Final = 1.3
"""The mean latency beside moves, in its usual values. The tail rises about twice as steeply."""
BYTES_PER_S_MIN: Final = 512 * 1024
"""However slow clients are: a move must end some day."""
BYTES_PER_S_FIRST: Final = 1024 * 1024
"""With which moves begin."""
INSTALLS_FASTER: Final = 4
"""To put a byte in force costs a fraction of what it costs to send it."""
INSTALLS_BYTES_PER_S_MIN: Final = 8 * 1024 * 1024
"""A replica that is being replaced serves nobody, and its leader does not wait for ever."""
SLOWER: Final = 0.5
FASTER: Final = 1.25
FASTER_UNWATCHED: Final = 2.0
"""While few clients, or none, have something to lose."""
USUAL_WEIGHT: Final = 0.1
"""Of the last window in the usual latency: what counts is about the last five seconds."""
USUAL_DRIFT: Final = 1.02
"""By how much what is usual rises in a window in which the slowest moves are too much: then it
is not they that make clients wait."""


class LatencyMeter:
    """How long requests wait for their answers, since the last look."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: steady seconds."""
        self.now = clock
        self._requests = 0
        self._sum_s = 0.0

    def answered(self, came_at: float) -> None:
        """One that came then is answered now."""
        self._requests += 1
        self._sum_s += self.now() - came_at

    def take(self) -> tuple[int, float]:
        """How many there were, and their mean; begins anew."""
        requests, mean_s = self._requests, self._sum_s / max(1, self._requests)
        self._requests, self._sum_s = 0, 0.0
        return requests, mean_s


class Throttle:
    """Sets the rate of ``pace``. Invariant: it lies between the two bounds."""

    def __init__(self, *, bytes_per_s_max: int, clock: Callable[[], float]) -> None:
        """Begin slowly, with nothing known of clients."""
        self.pace = Pace(BYTES_PER_S_FIRST)
        """Of what is sent to newcomers."""
        self.meter = LatencyMeter(clock)
        """Of what clients ask for."""
        self._bytes_per_s_max = float(bytes_per_s_max)
        self._bytes_per_s_min = float(min(BYTES_PER_S_MIN, bytes_per_s_max))
        self._usual_s: float | None = None
        self._set(BYTES_PER_S_FIRST)

    def rest_s(self, installed_bytes: int) -> float:
        """How long to let others have a turn after so much of an installation."""
        bytes_per_s = INSTALLS_FASTER * self.pace.bytes_per_s
        return installed_bytes / max(bytes_per_s, INSTALLS_BYTES_PER_S_MIN)

    def check(self, *, is_moving: bool) -> None:
        """A window is over, in which replicas were on their way or not."""
        requests, mean_s = self.meter.take()
        is_telling = requests >= REQUESTS_MIN
        if not is_moving:
            if is_telling:
                self._usual_s = _between(self._usual_s or mean_s, mean_s, USUAL_WEIGHT)
            self._set(BYTES_PER_S_FIRST)
        elif not is_telling:
            self._set(self.pace.bytes_per_s * FASTER_UNWATCHED)
        elif self._usual_s is None:
            self._usual_s = mean_s
        elif mean_s <= TOLERATED * self._usual_s:
            self._set(self.pace.bytes_per_s * FASTER)
        elif self.pace.bytes_per_s > self._bytes_per_s_min:
            self._set(self.pace.bytes_per_s * SLOWER)
        else:
            self._usual_s *= USUAL_DRIFT

    def _set(self, bytes_per_s: float) -> None:
        bounded = min(max(bytes_per_s, self._bytes_per_s_min), self._bytes_per_s_max)
        self.pace.bytes_per_s = bounded


def _between(old: float, new: float, weight: float) -> float:
    return old + weight * (new - old)
