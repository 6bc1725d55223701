"""What processes have used of the machine, as Linux tells it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOCK_OF_SCHEDULER = 2
"""Of a process's three clocks the one in nanoseconds, threads that have ended included."""


@dataclass(frozen=True, slots=True)
class Look:
    """What each process has used since it began, at one moment."""

    at: float
    """By ``time.perf_counter``."""
    cpu_s: dict[str, float]
    disk_bytes: dict[str, int]
    memory_bytes: dict[str, int]
    peak_bytes: dict[str, int]


def is_told() -> bool:
    """Whether this system tells it."""
    return Path("/proc/self/io").exists()


def look(pids: Mapping[str, int]) -> Look:
    """Look at each of these processes.

    Raises:
        Unavailable: one has ended.
    """
    now = Look(time.perf_counter(), {}, {}, {}, {})
    for name, pid in pids.items():
        try:
            now.cpu_s[name] = cpu_s(pid)
            now.disk_bytes[name] = _fields(pid, "io")["write_bytes"]
            status = _fields(pid, "status")
        except OSError as error:
            raise Unavailable(f"{name} (process {pid}) has ended") from error
        now.memory_bytes[name] = status["VmRSS"] * 1024
        now.peak_bytes[name] = status["VmHWM"] * 1024
    return now


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, to the nanosecond.

    Its clock has a number that follows from the process's (Linux, ``posix-timers.h``).
    """
    return time.clock_gettime((~pid << 3) | _CLOCK_OF_SCHEDULER)


def _fields(pid: int, file: str) -> dict[str, int]:
    """The lines ``name: number`` of one of the files about a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        name, _, said = line.partition(":")
        if said and (number := said.split()) and number[0].isdecimal():
            fields[name] = int(number[0])
    return fields
