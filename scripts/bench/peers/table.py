"""What is printed: how the stores compare, and whether the bars are held. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.peers.ours import Ours
from bench.peers.results import p50_s, p99_s, rate
from bench.table import significant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.measured import Cell, Run
    from bench.peers.bars import Verdict
    from bench.peers.results import Results
    from bench.peers.store import Peer
    from bench.summary import Spread

    Layout = Callable[[Sequence[str], Sequence[Sequence[str]]], list[str]]

NONE: Final = "-"
FAILED: Final = "failed"
LOAD_COLUMNS: Final = ("load", "in flight", "conns")
BAR_COLUMNS: Final = ("bar", "measured", "min..max", "must be", "aim", "held")
WORDS: Final = {True: "yes", False: "NO", None: "not measured"}


def report(
    results: Results,
    cells: Sequence[Cell],
    peers: Sequence[Peer],
    verdicts: Sequence[Verdict],
    layout: Layout,
) -> Iterator[str]:
    """All tables, with what they need to be understood."""
    names = [peer.name for peer in peers]
    others = [name for name in names if name != Ours.name]
    yield f"Operations a second, and how many times as fast {Ours.name} is (min..max):"
    header = [Ours.name, *(part for name in others for part in (name, f"vs {name}"))]
    yield from layout([*LOAD_COLUMNS, *header], [_rates(results, c, others) for c in cells])
    yield ""
    yield "Latency in ms, p50 / p99:"
    yield from layout([*LOAD_COLUMNS, *names], [_latencies(results, c, names) for c in cells])
    yield ""
    yield "Processor time of the servers in µs an operation, all of them together:"
    yield from layout([*LOAD_COLUMNS, *names], [_cpu(results, c, names) for c in cells])
    yield ""
    yield from layout(BAR_COLUMNS, [_bar(verdict) for verdict in verdicts])
    yield ""
    yield from notes(results, cells, peers)


def notes(results: Results, cells: Sequence[Cell], peers: Sequence[Peer]) -> Iterator[str]:
    """What one must know of the figures."""
    yield "Medians of all rounds; a ratio is of two runs of one round."
    every = (run for peer in peers for cell in cells for run in results.runs(peer.name, cell))
    others = [run.others_cores for run in every if run.others_cores is not None]
    if others:
        yield f"Other programs used {min(others):.1f} to {max(others):.1f} cores meanwhile."
    for peer in peers:
        yield f"{peer.name}: {peer.note}."


def _rates(results: Results, cell: Cell, others: Sequence[str]) -> list[str]:
    line = [*_load(cell), _figure(results, Ours.name, cell, rate, "{:,.0f}".format)]
    for name in others:
        line.append(_figure(results, name, cell, rate, "{:,.0f}".format))
        line.append(_times(results.ratio(Ours.name, name, cell, rate)))
    return line


def _latencies(results: Results, cell: Cell, names: Sequence[str]) -> list[str]:
    line = list(_load(cell))
    for name in names:
        p50, p99 = (_figure(results, name, cell, figure, _ms) for figure in (p50_s, p99_s))
        line.append(p50 if p50 in (NONE, FAILED) else f"{p50} / {p99}")
    return line


def _cpu(results: Results, cell: Cell, names: Sequence[str]) -> list[str]:
    line = list(_load(cell))
    for name in names:
        spread = results.server_us(name, cell)
        absent = FAILED if results.has_failed(name, cell) else NONE
        line.append(absent if spread is None else significant(spread.median))
    return line


def _bar(verdict: Verdict) -> list[str]:
    bar, spread = verdict.bar, verdict.measured
    return [
        bar.text,
        NONE if spread is None else f"{spread.median:.2f}{bar.unit}",
        NONE if spread is None else f"{spread.low:.2f}..{spread.high:.2f}",
        f"{bar.relation} {bar.limit:g}",
        NONE if bar.aim is None else f"{bar.aim:g}",
        WORDS[verdict.is_held],
    ]


def _load(cell: Cell) -> tuple[str, str, str]:
    return cell.operation, f"{cell.in_flight:,}", str(cell.connections)


def _figure(
    results: Results,
    name: str,
    cell: Cell,
    figure: Callable[[Run], float],
    show: Callable[[float], str],
) -> str:
    if results.has_failed(name, cell):
        return FAILED
    spread = results.spread(name, cell, figure)
    return NONE if spread is None else show(spread.median)


def _times(spread: Spread | None) -> str:
    if spread is None:
        return NONE
    median, low, high = map(significant, (spread.median, spread.low, spread.high))
    return f"{median}x ({low}..{high})"


def _ms(seconds: float) -> str:
    """Small ones too: a get from memory is far below a microsecond."""
    return significant(1000 * seconds) if seconds >= 1e-5 else f"{1000 * seconds:.3f}"
