"""Loads by programs that are told how many operations, not for how long.

So the time is found in steps: a few operations, then what these make of the warm-up's time, then
of the time itself. Every operation is answered by the end: nothing is cut off that could hide a
failure.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.histogram import Histogram
from bench.measured import LOAD, Run
from bench.resources import Look, is_told, look

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bench.measured import Cell

PILOT_OPERATIONS: Final = 200
TURNS_MIN: Final = 4
"""Each of those in flight asks at least so often."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What a load program says of one portion."""

    operations: int
    seconds: float
    latency: Histogram


async def timed(
    portion: Callable[[int], Awaitable[Run]], cell: Cell, seconds: float, warm_up_s: float
) -> Run:
    """The last of three portions, which takes about so many seconds. Raises as they do."""
    pilot = await portion(operations_for(cell, PILOT_OPERATIONS))
    warm_up = await portion(operations_for(cell, pilot.rate * warm_up_s))
    return await portion(operations_for(cell, warm_up.rate * seconds))


def operations_for(cell: Cell, wanted: float) -> int:
    """About so many, the same number for each of those in flight."""
    return cell.in_flight * max(TURNS_MIN, round(wanted / cell.in_flight))


async def observed(portion: Awaitable[Timing], servers: Mapping[str, int]) -> Run:
    """Run a portion by a child process, with what it and the servers use meanwhile.

    Raises:
        Unavailable: a server has ended.
    """
    pids = servers if is_told() else {}
    children_s, before = _children_s(), look(pids)
    timing = await portion
    return between(before, look(pids), timing, _children_s() - children_s)


def between(before: Look, after: Look, timing: Timing, load_s: float) -> Run:
    """What was measured, with what servers have used from one look to the next.

    Args:
        before: At the beginning.
        after: At the end.
        timing: What the load says.
        load_s: Processor seconds of the load, unless it is in a server.
    """
    cpu_s = {name: used - before.cpu_s[name] for name, used in after.cpu_s.items()}
    busy_s = after.busy_s - before.busy_s - sum(cpu_s.values()) - load_s
    return Run(
        timing.operations,
        timing.seconds,
        timing.latency,
        cpu_s={**cpu_s, LOAD: load_s},
        disk_bytes={name: n - before.disk_bytes[name] for name, n in after.disk_bytes.items()},
        memory_bytes=after.memory_bytes,
        peak_bytes=after.peak_bytes,
        others_cores=max(0.0, busy_s / (after.at - before.at)) if cpu_s else None,
    )


def _children_s() -> float:
    """Processor seconds of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
