"""What is printed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.keys import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure import Plan
    from bench.summary import Measured, Spread

HEADER: Final = (
    *("load", "in flight", "conns", "value", "ops/s", "min..max", "p50 ms", "p99", "p99.9"),
    *("server µs/op", "client µs/op", "disk B/B", "MiB", "stall ms"),
)


def line(measured: Measured) -> tuple[str, ...]:
    """One load, as :data:`HEADER` names it."""
    cell, rate = measured.cell, measured.rate
    pace = "" if cell.rate is None else f" at {cell.rate:,.0f}/s"
    memory, stall = measured.memory_bytes, measured.stall_ms
    return (
        cell.operation + pace + _outcomes(measured),
        f"{cell.in_flight:,}",
        str(cell.connections),
        size(cell.value_bytes),
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f}..{rate.high:,.0f}",
        *(significant(measured.percentile_ms(p).median) for p in (50, 99, 99.9)),
        *map(median, (measured.server_us, measured.client_us, measured.bytes_per_byte)),
        "-" if memory is None else _mib(memory.median),
        "-" if stall is None else f"{stall.high:.0f}",
    )


def progress(measured: Measured) -> str:
    """The same in a few words."""
    cpu = measured.server_us
    used = "" if cpu is None else f", server {significant(cpu.median)} µs/op"
    p50, p99 = (significant(measured.percentile_ms(p).median) for p in (50, 99))
    return f"{measured.rate.median:,.0f}/s, p50 {p50} ms, p99 {p99} ms{used}"


def title(plan: Plan) -> str:
    """What the table is of."""
    where = f"{plan.nodes} nodes with {plan.shards} shards"
    if plan.endpoints is not None:
        where = plan.endpoints
    runs = "1 run" if plan.runs == 1 else f"{plan.runs} runs"
    return f"{where}; keys of {KEY_BYTES} B; {runs} of {plan.seconds:g} s"


def notes(measured: Sequence[Measured]) -> list[str]:
    """What the table needs to be understood."""
    said = ["ops/s and all after it: the median of all runs; min..max: of their rates."]
    if any(each.cell.rate is not None for each in measured):
        said.append("Where a rate is named, times run from when an operation was due.")
    if any(run.disk_bytes for each in measured for run in each.runs):
        said.append(
            "disk B/B: bytes that all servers together wrote to their disks for each byte put."
        )
    return said + common_notes(measured)


def common_notes(measured: Sequence[Measured]) -> list[str]:
    """Likewise, of what every table of loads has."""
    runs, said = [run for each in measured for run in each.runs], []
    if any(run.cpu_s for run in runs):
        said.append(
            "µs/op: processor time of an operation, in all servers together and in the client."
        )
    if any(run.memory_bytes for run in runs):
        peak = max(max(run.peak_bytes.values()) for run in runs if run.peak_bytes)
        others = [run.others_cores for run in runs if run.others_cores is not None]
        said += [
            f"MiB: resident in the largest server after it; it never was over {_mib(peak)}.",
            f"Other programs used {min(others):.1f} to {max(others):.1f} cores meanwhile.",
        ]
    late = [max(run.late_ms.values()) for run in runs if run.late_ms]
    if late:
        said.append(
            "stall ms: the longest, in all runs, that a server's event loop did not come back to "
            "its poll for what the server did; with the wait for a processor it was up to "
            f"{max(late)} ms."
        )
    return said


def size(value_bytes: int) -> str:
    """As people say it."""
    return f"{value_bytes} B" if value_bytes < 1024 else f"{value_bytes / 1024:g} KiB"


def significant(figure: float) -> str:
    """Three digits of it, or all before the point."""
    digits = 2 if figure < 10 else 1 if figure < 100 else 0
    return f"{figure:,.{digits}f}"


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:.0f}"


def median(spread: Spread | None) -> str:
    """Of what is known."""
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
