"""The timer by which a node measures its event loop; :mod:`kvstore.server.stalls` reckons."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kvstore.server.stalls import BEAT_S_MAX, Beat, Stalls, next_beat_s, stall_of
from kvstore.storage.waiting import ProcessorWait

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.scheduling import Loop, Timer


class Pulse:
    """Beats from :meth:`start` to :meth:`stop`, both to be called on the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        *,
        clock: Callable[[], float],
        busy_s: Callable[[], float] = time.thread_time,
        wait: ProcessorWait | None = None,
    ) -> None:
        """Not beating yet.

        Args:
            loop: Whose stalls are measured.
            clock: Steady seconds.
            busy_s: Processor time of the loop's thread.
            wait: What that thread waited for a processor.
        """
        self._loop = loop
        self._clock = clock
        self._busy_s = busy_s
        self._wait = wait or ProcessorWait()
        self._stalls = Stalls(clock())
        self._beat_s = BEAT_S_MAX
        self._asked_at = self._asked_busy_s = self._asked_wait_s = 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin, with nothing measured yet."""
        self._stalls = Stalls(self._clock())
        self._ask(self._clock(), self._busy_s(), self._wait.seconds())

    def stop(self) -> None:
        """End; may be called twice, and without a start."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._wait.close()

    def to_map(self) -> dict[str, Any]:
        """What was measured, as ``kv status -o json`` shows it."""
        return {"beat_ms": round(self._beat_s * 1000, 1), **self._stalls.to_map(self._clock())}

    def _beat(self) -> None:
        now, busy_s, wait_s = self._clock(), self._busy_s(), self._wait.seconds()
        beat = Beat(now - self._asked_at, busy_s - self._asked_busy_s, wait_s - self._asked_wait_s)
        self._stalls.note(stall_of(beat, self._beat_s), now)
        self._beat_s = next_beat_s(beat)
        self._ask(now, busy_s, wait_s)

    def _ask(self, now: float, busy_s: float, wait_s: float) -> None:
        self._asked_at, self._asked_busy_s, self._asked_wait_s = now, busy_s, wait_s
        self._timer = self._loop.call_later(self._beat_s, self._beat)
