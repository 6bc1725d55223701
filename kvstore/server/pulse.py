"""The timer by which a node measures its event loop; :mod:`kvstore.server.stalls` reckons."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kvstore.server.stalls import BEAT_S_MAX, Beat, Stalls, next_beat_s, stall_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.server.scheduling import Loop, Timer

_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")
"""Linux: nanoseconds on a processor and waiting for one, and how often, of the asking thread."""
_SCHEDSTAT_BYTES_MAX: Final = 64


class ProcessorWait:
    """How long one thread could have run and was given no processor."""

    def __init__(self) -> None:
        """Of the thread that makes it; where the system does not tell, it is always 0."""
        self._fd: int | None = None
        if _SCHEDSTAT.exists():
            self._fd = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Since the thread began."""
        if self._fd is None:
            return 0.0
        return int(os.pread(self._fd, _SCHEDSTAT_BYTES_MAX, 0).split()[1]) * 1e-9

    def close(self) -> None:
        """From now on it is 0."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None


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
