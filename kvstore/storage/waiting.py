"""How long a thread waits for a processor, and a clock that stands still meanwhile.

By them a slow disk or a slow loop is told from a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Linux: nanoseconds on a processor and waiting for one, and how often, of the asking thread."""
_SCHEDSTAT_BYTES_MAX: Final = 64


class ProcessorWait:
    """How long one thread could have run and was given no processor."""

    def __init__(self) -> None:
        """Of the thread that makes it; where the system does not tell, it is always 0."""
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Since the thread began."""
        if self._fd is None:
            return 0.0
        return int(os.pread(self._fd, _SCHEDSTAT_BYTES_MAX, 0).split()[1]) * 1e-9

    def close(self) -> None:
        """From now on it is 0; may be repeated."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class UndelayedClock:
    """Of the thread that makes it. Where the system does not tell, it never stands still."""

    def __init__(self) -> None:
        self._wait = ProcessorWait()

    def now(self) -> float:
        """Seconds in which the thread worked, slept or waited for anything but its turn."""
        return time.monotonic() - self._wait.seconds()

    def close(self) -> None:
        """Release its file; may be repeated."""
        self._wait.close()
