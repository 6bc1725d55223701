"""A clock that stands still while its thread only waits for a processor.

By it a slow disk is told from a busy machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_PATH: Final = "/proc/thread-self/schedstat"
"""Nanoseconds on a processor, nanoseconds of waiting for one, turns (Linux)."""


class UndelayedClock:
    """Of the thread that makes it. Where the system does not tell, it never stands still."""

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)

    def now(self) -> float:
        """Seconds in which the thread worked, slept or waited for anything but its turn."""
        if self._fd is None:
            return time.monotonic()
        return time.monotonic() - int(os.pread(self._fd, 64, 0).split()[1]) / 1e9

    def close(self) -> None:
        """Release its file; may be repeated."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
