"""The same loads on one kind of cluster after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from bench.cells import LARGE_IN_FLIGHT, USUAL
from bench.measure import Plan, measure_all, tell
from bench.measured import Cell
from bench.scaling.outcome import Outcome
from bench.summary import Measured
from bench.table import common_notes, median, significant, size

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Hashable, Mapping, Sequence


FULL: Final = (1024, 4)
"""In flight, connections: what the store can do at most."""
HEADER: Final = (
    *("load", "in flight", "value", "ops/s", "min..max", "times first", "MB/s", "p50 ms", "p99"),
    *("server µs/op", "client µs/op", "MiB", "stall ms"),
)
"""After the name of what is changed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One load on one kind of cluster."""

    point: str
    measured: Measured
    times_first: float
    """Its rate in that of the same load on the first kind."""

    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADER` names them."""
        cell, rate = self.measured.cell, self.measured.rate
        memory, stall = self.measured.memory_bytes, self.measured.stall_ms
        return (
            self.point,
            cell.operation,
            f"{cell.in_flight:,}",
            size(cell.value_bytes),
            f"{rate.median:,.0f}",
            f"{rate.low:,.0f}..{rate.high:,.0f}",
            f"{self.times_first:.2f}",
            significant(rate.median * cell.value_bytes / 1e6),
            *(significant(self.measured.percentile_ms(p).median) for p in (50, 99)),
            *map(median, (self.measured.server_us, self.measured.client_us)),
            "-" if memory is None else f"{memory.median / 2**20:.0f}",
            "-" if stall is None else f"{stall.high:.0f}",
        )

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        cell = self.measured.cell
        return {
            "point": self.point,
            "load": cell.operation,
            "in_flight": cell.in_flight,
            "connections": cell.connections,
            "value_bytes": cell.value_bytes,
            "times_first": self.times_first,
            **self.measured.to_json(),
        }


async def shards(asked: Namespace) -> Outcome:
    """Throughput over the number of shards.

    Raises:
        KVError: something could not be measured.
    """
    plans = {str(n): replace(_plan(asked, _loads(asked)), shards=n) for n in asked.points}
    rows = await _swept(plans, asked.runs, _in_flight)
    return _outcome("shards", f"{asked.nodes} nodes", rows)


async def nodes(asked: Namespace) -> Outcome:
    """Throughput over the number of nodes. Raises likewise."""
    plans = {str(n): replace(_plan(asked, _loads(asked)), nodes=n) for n in asked.points}
    rows = await _swept(plans, asked.runs, _in_flight)
    return _outcome("nodes", f"{asked.shards} shards of 3 replicas, all on one machine", rows)


async def values(asked: Namespace) -> Outcome:
    """Throughput over the size of values. Raises likewise."""
    plans = {}
    for value_bytes in asked.points:
        in_flight = USUAL[0] if value_bytes < 10_000 else LARGE_IN_FLIGHT
        cells = [Cell(name, in_flight, USUAL[1], value_bytes) for name in ("put", "get")]
        plans[f"{value_bytes:,}"] = _plan(asked, cells)
    rows = await _swept(plans, asked.runs, lambda cell: cell.operation)
    return _outcome("bytes", f"{asked.nodes} nodes with {asked.shards} shards", rows)


def _loads(asked: Namespace) -> list[Cell]:
    """Puts and gets, as many at once as usual and as many as it takes."""
    pairs = [USUAL, FULL]
    if asked.in_flight is not None:
        pairs = [(n, min(n, USUAL[1])) for n in asked.in_flight]
    return [Cell(name, *pair) for name in ("put", "get") for pair in pairs]


def _in_flight(cell: Cell) -> Hashable:
    return cell.operation, cell.in_flight


def _plan(asked: Namespace, cells: Sequence[Cell]) -> Plan:
    plan = Plan(tuple(cells), runs=1, seconds=asked.seconds, warm_up_s=asked.warm_up)
    return replace(plan, keys=asked.keys, nodes=asked.nodes, shards=asked.shards)


async def _swept(
    plans: Mapping[str, Plan], runs: int, load: Callable[[Cell], Hashable]
) -> list[Row]:
    """Each plan once, and all again, so that what drifts is in the spread of each."""
    found: dict[tuple[str, Cell], list[Measured]] = {}
    for turn in range(runs):
        for point, plan in plans.items():
            tell(f"{point}, turn {turn + 1} of {runs}")
            for each in await measure_all(plan):
                found.setdefault((point, each.cell), []).append(each)
    return rows_of(found, load)


def rows_of(
    found: Mapping[tuple[str, Cell], Sequence[Measured]], load: Callable[[Cell], Hashable]
) -> list[Row]:
    """Load by load, each in the order of ``found``. Pure.

    ``load`` tells which cells are the same one.
    """
    rows: dict[Hashable, list[Row]] = {}
    for (point, cell), turns in found.items():
        measured = Measured(cell, tuple(run for turn in turns for run in turn.runs))
        same = rows.setdefault(load(cell), [])
        first = same[0].measured if same else measured
        same.append(Row(point, measured, measured.rate.median / first.rate.median))
    return [row for same in rows.values() for row in same]


def _outcome(axis: str, title: str, rows: list[Row]) -> Outcome:
    return Outcome(
        title,
        (axis, *HEADER),
        [row.cells() for row in rows],
        [row.to_json() for row in rows],
        [
            "times first: its rate in that of the same load in the first line of it.",
            *common_notes([row.measured for row in rows]),
        ],
    )
