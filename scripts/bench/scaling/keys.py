"""What an operation costs with few keys in the store and with many: it should be the same."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.cells import USUAL
from bench.driver import running_worker
from bench.measure import tell
from bench.measured import Cell
from bench.scaling.outcome import Outcome
from bench.scaling.quiet import until_quiet
from bench.scaling.room import check_room, needed_bytes
from bench.stage import fresh
from bench.summary import Measured
from bench.table import common_notes, median, significant

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from bench.driver import Bencher
    from bench.measured import Run

DRAWS: Final = 1 << 20
"""Different keys of a load, so that no cache of the store holds all that is asked for."""
FILL_CONNECTIONS: Final = 4
FILL_AT_ONCE: Final = 4 * 1024
TOLD_EVERY: Final = 500_000
FLAT_WITHIN: Final = 1.5
MANY: Final = 10_000_000
"""For so many, or more, and a hundredth of them, it must be so."""
HEADER: Final = (
    *(
        "keys",
        "load",
        "ops/s",
        "min..max",
        "p50 ms",
        "p99",
        "server µs/op",
        "times",
        "client µs/op",
    ),
    *("MiB", "filled in s", "puts/s"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One load on so many keys."""

    keys: int
    measured: Measured
    fill_s: float

    @property
    def server_us(self) -> float | None:
        """What it costs."""
        cost = self.measured.server_us
        return None if cost is None else cost.median

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        load = self.measured.cell.operation
        return {"keys": self.keys, "load": load, "fill_s": self.fill_s, **self.measured.to_json()}


async def measure(asked: Namespace) -> Outcome:
    """Puts and gets, with each of these numbers of keys.

    Raises:
        KVError: something could not be measured.
    """
    tell(check_room(needed_bytes(asked.nodes, max(asked.points), asked.value_bytes)))
    rows: list[Row] = []
    for keys in asked.points:
        rows += await _measure(asked, keys)
    rows.sort(key=lambda row: row.measured.cell.operation, reverse=True)
    return Outcome(
        f"{asked.nodes} nodes with {asked.shards} shards, values of {asked.value_bytes} B, "
        f"{USUAL[0]} in flight on {USUAL[1]} connections",
        HEADER,
        [line(row, rows) for row in rows],
        [row.to_json() for row in rows],
        [
            "times: server µs/op in that of the same load on the fewest keys.",
            f"Filled in the order of keys, at most {FILL_AT_ONCE:,} puts at once; each load then "
            f"asks for {DRAWS:,} keys at random. What files the system's cache holds, nobody has "
            "taken out of it.",
            *common_notes([row.measured for row in rows]),
        ],
        broken(rows),
    )


async def _measure(asked: Namespace, keys: int) -> list[Row]:
    cells = [Cell(name, *USUAL, asked.value_bytes) for name in ("get", "put")]
    runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
    async with (
        fresh(asked.nodes, asked.shards) as target,
        running_worker(target.endpoints) as worker,
    ):
        fill_s = await _fill(worker, keys, asked.value_bytes)
        tell(f"{keys:,} keys written in {fill_s:.0f} s")
        await until_quiet(target.pids)
        for turn in range(asked.runs):
            for cell in cells:
                run = await worker.run(
                    cell,
                    keys=keys,
                    seed=turn,
                    warm_up_s=asked.warm_up,
                    seconds=asked.seconds,
                    pids=target.pids,
                    draws=DRAWS,
                )
                runs[cell].append(run)
                tell(f"  {cell.name}: {run.rate:,.0f}/s")
    return [Row(keys, Measured(cell, tuple(every)), fill_s) for cell, every in runs.items()]


async def _fill(worker: Bencher, keys: int, value_bytes: int) -> float:
    """How many seconds it took."""
    began, told = time.monotonic(), 0

    def said(written: int) -> None:
        nonlocal told
        if written // TOLD_EVERY > told // TOLD_EVERY:
            tell(f"  {written:,} of {keys:,} keys after {time.monotonic() - began:.0f} s")
        told = written

    await worker.fill(
        keys, value_bytes, connections=FILL_CONNECTIONS, at_once=FILL_AT_ONCE, said=said
    )
    return time.monotonic() - began


def times(row: Row, rows: Sequence[Row]) -> float | None:
    """What it costs in what the same load costs on the fewest keys; None if that is not known."""
    same = [other for other in rows if other.measured.cell == row.measured.cell]
    least = min(same, key=lambda other: other.keys).server_us
    return None if row.server_us is None or not least else row.server_us / least


def broken(rows: Sequence[Row]) -> list[str]:
    """A sentence for each load that becomes dearer with many keys."""
    said = []
    for row in rows:
        ratio = times(row, rows)
        if row.keys >= MANY and ratio is not None and ratio > FLAT_WITHIN:
            said.append(
                f"a {row.measured.cell.operation} costs {ratio:.2f} times as much with "
                f"{row.keys:,} keys, over {FLAT_WITHIN:g}"
            )
    return said


def line(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """As :data:`HEADER` names it."""
    measured, rate, ratio = row.measured, row.measured.rate, times(row, rows)
    memory = measured.memory_bytes
    return (
        f"{row.keys:,}",
        measured.cell.operation,
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f}..{rate.high:,.0f}",
        *(significant(measured.percentile_ms(p).median) for p in (50, 99)),
        median(measured.server_us),
        "-" if ratio is None else f"{ratio:.2f}",
        median(measured.client_us),
        "-" if memory is None else f"{memory.median / 2**20:.0f}",
        f"{row.fill_s:.0f}",
        f"{row.keys / row.fill_s:,.0f}",
    )
