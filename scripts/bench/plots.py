"""The pictures of a bench: throughput over concurrency, and how latency is distributed. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from bench.cells import USUAL
from bench.chart import Axis, Line, Point, decades, svg
from bench.histogram import Histogram, time_of
from bench.table import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench.measured import Cell
    from bench.summary import Measured

PERCENTILES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
BEYOND_MIN: Final = 10
"""A percentile that fewer operations exceed says nothing."""
MEDIANS: Final = "medians and ranges of all runs; logarithmic scales"
POINTS_WANTED: Final = 3
"""Of a curve, if there are such."""


def pictures(measured: Sequence[Measured]) -> dict[str, str]:
    """By file name, those for which there is something to show."""
    closed = [each for each in measured if each.cell.rate is None]
    paced = [each for each in measured if each.cell.rate is not None]
    drawn = {
        "throughput.svg": throughput(closed),
        "connections.svg": connections(closed),
        "latency.svg": latency("Latency of a closed loop", _alike(closed)),
        "latency-paced.svg": latency("Latency from when an operation was due", _alike(paced)),
    }
    return {name: picture for name, picture in drawn.items() if picture is not None}


def throughput(measured: Sequence[Measured]) -> str | None:
    """Operations a second over operations in flight."""
    # A few operations cannot use many connections, yet with them those curves begin.
    cells = [each.cell for each in measured]
    kinds = {cell.connections for cell in cells if cell.connections < cell.in_flight}
    kinds = kinds or {cell.connections for cell in cells}
    alike = {
        f"{kind} connections": [
            each for each in measured if each.cell.connections == min(kind, each.cell.in_flight)
        ]
        for kind in sorted(kinds)
    }
    return _rates("operations in flight", lambda cell: cell.in_flight, alike)


def connections(measured: Sequence[Measured]) -> str | None:
    """Operations a second over connections, where there is a choice of them."""
    several = [each for each in measured if each.cell.in_flight == USUAL[0]]
    if len({each.cell.connections for each in several}) < POINTS_WANTED:
        return None
    alike = {f"{USUAL[0]} in flight": several}
    return _rates("connections", lambda cell: cell.connections, alike)


def _rates(
    over: str, place: Callable[[Cell], int], alike: Mapping[str, Iterable[Measured]]
) -> str | None:
    """Throughput over one number, for each load and, by name, what else is the same."""
    found: defaultdict[tuple[str, str, str], list[Point]] = defaultdict(list)
    for name, every in alike.items():
        for each in every:
            cell, rate = each.cell, each.rate
            found[cell.operation, f"values of {size(cell.value_bytes)}", name].append(
                Point(place(cell), rate.median, rate.low, rate.high)
            )
    long = {name: points for name, points in found.items() if len(points) >= POINTS_WANTED}
    curves = long or found
    if not curves:
        return None
    points = [point for curve in curves.values() for point in curve]
    low, high, ticks = decades(bound for p in points for bound in (p.low or p.y, p.high or p.y))
    places = sorted({point.x for point in points})
    x = Axis(over, places[0] * 0.85, places[-1] * 1.15, [(at, f"{at:,.0f}") for at in places])
    y = Axis("operations/s", low, high, [(tick, f"{tick:,.0f}") for tick in ticks])
    names, common = _told_apart(list(curves))
    lines = [
        Line(name, sorted(points)) for name, points in zip(names, curves.values(), strict=True)
    ]
    return svg(f"Throughput over {over}", f"{common}{MEDIANS}", x, y, lines)


def latency(title: str, measured: Sequence[Measured]) -> str | None:
    """The time that so many percent of the operations did not exceed."""
    if not measured:
        return None
    names, common = _told_apart([_parts(each.cell) for each in measured])
    lines = [
        Line(name, percentiles(_all_runs(each)), has_dots=False)
        for name, each in zip(names, measured, strict=True)
    ]
    low, high, ticks = decades(point.y for line in lines for point in line.points)
    last = max(point.x for line in lines for point in line.points)
    shown = [(nines(p), f"{p:g} %") for p in PERCENTILES if nines(p) <= last]
    x = Axis("operations that took no longer", 0.0, max(last, 1.0), shown, is_log=False)
    y = Axis("ms", low, high, [(tick, f"{tick:g}") for tick in ticks])
    return svg(title, f"{common}all runs together", x, y, lines)


def percentiles(latency: Histogram) -> list[Point]:
    """The curve in ms over :func:`nines`, as far as there are enough operations to tell."""
    total, seen = latency.count, 0
    points: list[Point] = []
    for bucket in sorted(latency.counts):
        if points and total - seen < BEYOND_MIN:
            break
        points.append(Point(nines(100 * seen / total), 1000 * time_of(bucket)))
        seen += latency.counts[bucket]
    last = nines(100 * max(0, total - BEYOND_MIN) / total)
    if last > points[-1].x:
        points.append(Point(last, points[-1].y))
    return points


def nines(percent: float) -> float:
    """90 % is 1, 99 % is 2, and so on: what is rare gets as much room as what is not."""
    return -math.log10(1 - percent / 100)


def _all_runs(measured: Measured) -> Histogram:
    latency = Histogram()
    for run in measured.runs:
        latency.merge(run.latency)
    return latency


def _alike(measured: Sequence[Measured]) -> list[Measured]:
    """Those of the most loads that differ in nothing else, so that they can be compared."""
    kinds: defaultdict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for each in measured:
        kinds[_parts(each.cell)[1:]].append(each)
    return max(kinds.values(), key=lambda kind: (len(kind), kind[0].cell.in_flight), default=[])


def _parts(cell: Cell) -> tuple[str, ...]:
    pace = "" if cell.rate is None else f"at {cell.rate:,.0f}/s"
    return (
        cell.operation,
        f"values of {size(cell.value_bytes)}",
        f"{cell.in_flight} in flight",
        f"{cell.connections} connections",
        pace,
    )


def _told_apart(names: Sequence[tuple[str, ...]]) -> tuple[list[str], str]:
    """Each by its first part and those in which they differ; and what they have in common."""
    differing = [len(set(parts)) > 1 for parts in zip(*names, strict=True)]
    apart = [
        " ".join(part for n, part in enumerate(name) if n == 0 or differing[n]) for name in names
    ]
    common = [part for part, differs in zip(names[0], differing, strict=True) if not differs]
    return apart, "".join(f"{part}, " for part in common if part)
