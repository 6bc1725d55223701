"""What is printed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bench.summary import Measured, Spread

HEADER: Final = (
    *("load", "in flight", "conns", "value", "ops/s", "min..max", "p50 ms", "p99", "p99.9"),
    *("server µs/op", "client µs/op", "disk B/B", "MiB"),
)
LEGEND: Final = (
    "Medians of all runs; min..max: of their rates.",
    "µs/op: processor time for each operation, of all servers together and of the client.",
    "disk B/B: written by all servers together for each byte put, keys included; "
    "MiB: resident in the largest server.",
)


def line(measured: Measured) -> tuple[str, ...]:
    """One load, as :data:`HEADER` names it."""
    cell, rate = measured.cell, measured.rate
    pace = "" if cell.rate is None else f" at {cell.rate:,.0f}/s"
    memory = measured.memory_bytes
    return (
        cell.operation + pace + _outcomes(measured),
        f"{cell.in_flight:,}",
        str(cell.connections),
        size(cell.value_bytes),
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f}..{rate.high:,.0f}",
        *(significant(measured.percentile_ms(p).median) for p in (50, 99, 99.9)),
        *map(_median, (measured.server_us, measured.client_us, measured.bytes_per_byte)),
        "-" if memory is None else f"{memory.median / 2**20:.0f}",
    )


def progress(measured: Measured) -> str:
    """The same in a few words."""
    cpu = measured.server_us
    used = "" if cpu is None else f", server {significant(cpu.median)} µs/op"
    p50, p99 = (significant(measured.percentile_ms(p).median) for p in (50, 99))
    return f"{measured.rate.median:,.0f}/s, p50 {p50} ms, p99 {p99} ms{used}"


def size(value_bytes: int) -> str:
    """As people say it."""
    return f"{value_bytes} B" if value_bytes < 1024 else f"{value_bytes / 1024:g} KiB"


def significant(figure: float) -> str:
    """Three digits of it, or all before the point."""
    digits = 2 if figure < 10 else 1 if figure < 100 else 0
    return f"{figure:,.{digits}f}"


def _median(spread: Spread | None) -> str:
    return "-" if spread is None else significant(spread.median)


def _outcomes(measured: Measured) -> str:
    """How often each came about, where an operation can end in more than one way."""
    totals: dict[str, int] = {}
    for run in measured.runs:
        for name, count in run.counts.items():
            totals[name] = totals.get(name, 0) + count
    every = sum(totals.values())
    said = ", ".join(f"{100 * count / every:.0f} % {name}" for name, count in totals.items())
    return f" ({said})" if said else ""
