"""How busy the machine is, and how much of that is not ours."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TICKS = os.sysconf("SC_CLK_TCK")


def used_s(pids: Iterable[int]) -> dict[int, float]:
    """Processor seconds that each of these processes has used so far, if it is there."""
    used = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return used


def busy_s() -> float:
    """Processor seconds that the whole machine has used so far."""
    return busy_ticks(Path("/proc/stat").read_text()) / _TICKS


def busy_ticks(stat: str) -> int:
    """All of the first line of ``/proc/stat`` but idle time and what guests use, counted twice."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return user + nice + system + irq + softirq + steal


def others_cores(
    busy: float, before: Mapping[int, float], after: Mapping[int, float], seconds: float
) -> float:
    """How many cores others have used, of ``busy`` seconds that the machine has worked.

    Args:
        busy: By how much :func:`busy_s` has grown.
        before: What our processes had used at the beginning.
        after: Likewise at the end; only those that were there all the time count.
        seconds: From the beginning to the end.
    """
    own = sum(after[pid] - used for pid, used in before.items() if pid in after)
    return max(0.0, (busy - own) / seconds)
