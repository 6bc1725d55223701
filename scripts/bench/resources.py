"""What processes have used of the machine, as Linux tells it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from elasticity.machine import busy_s

from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOCK_OF_SCHEDULER: Final = 2
"""Of a process's three clocks the one in nanoseconds, threads that have ended included."""


@dataclass(slots=True)
class Look:
    """What each process has used since it began, at one moment."""

    at: float
    """By ``time.perf_counter``."""
    busy_s: float = 0.0
    """Processor seconds of the whole machine."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    disk_bytes: dict[str, int] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)


def is_told() -> bool:
    """Whether this system tells it."""
    return Path("/proc/self/io").exists()


def look(pids: Mapping[str, int]) -> Look:
    """Look at each of these processes, by name; at nothing if there are none.

    Raises:
        Unavailable: one has ended.
    """
    now = Look(time.perf_counter())
    if pids:
        now.busy_s = busy_s()
    for name, pid in pids.items():
        try:
            now.cpu_s[name] = cpu_s(pid)
            now.disk_bytes[name] = _fields(pid, "io")["write_bytes"]
            memory = _fields(pid, "status")
            now.memory_bytes[name] = memory["VmRSS"] * 1024
            now.peak_bytes[name] = memory["VmHWM"] * 1024
        except (OSError, KeyError) as error:  # one that is about to be buried has no memory
            raise Unavailable(f"{name} (process {pid}) has ended") from error
    return now


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, to the nanosecond.

    Its clock has a number that follows from the process's (Linux, ``posix-timers.h``).
    """
    return time.clock_gettime((~pid << 3) | _CLOCK_OF_SCHEDULER)


def others_cores(before: Look, after: Look) -> float:
    """How many cores other processes have used than those that were looked at."""
    used_s = sum(after.cpu_s[name] - before.cpu_s[name] for name in before.cpu_s)
    return max(0.0, (after.busy_s - before.busy_s - used_s) / (after.at - before.at))


def _fields(pid: int, file: str) -> dict[str, int]:
    """The lines ``name: number`` of one of the files about a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        name, _, said = line.partition(":")
        if (words := said.split()) and words[0].isdecimal():
            fields[name] = int(words[0])
    return fields
