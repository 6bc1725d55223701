"""Runs the loads: all of them once, and again, so that what drifts is in every load's spread."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Final

from bench.driver import running_worker
from bench.loads import SCAN_ROWS
from bench.options import cells_of
from bench.stage import Target, fresh
from bench.summary import Measured
from bench.table import progress, size
from kvstore.errors import KVError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Sequence

    from bench.measured import Cell, Run

DATA_BYTES_MAX: Final = 64 << 20
"""Of all values together: of larger values there are fewer keys."""


async def measure_all(asked: Namespace) -> list[Measured]:
    """Everything that is asked for; tells on stderr how far it is.

    Raises:
        KVError: something could not be measured.
    """
    cells = cells_of(asked)
    runs: dict[Cell, list[Run]] = {cell: [] for cell in cells}
    for turn in range(asked.runs):
        for value_bytes, group in groupby(cells, lambda cell: cell.value_bytes):
            tell(f"run {turn + 1} of {asked.runs}, values of {size(value_bytes)}")
            await _measure(asked, list(group), turn, runs)
    return [Measured(cell, tuple(every)) for cell, every in runs.items()]


async def _measure(
    asked: Namespace, cells: Sequence[Cell], turn: int, runs: dict[Cell, list[Run]]
) -> None:
    """Each of these cells, of one value size, once."""
    value_bytes = cells[0].value_bytes
    keys = keys_of(asked.keys, value_bytes)
    async with _target(asked) as target, running_worker(target.endpoints) as worker:
        await worker.fill(keys, value_bytes)
        for cell in cells:
            try:
                run = await worker.run(
                    cell,
                    keys=keys,
                    seed=turn,
                    warm_up_s=asked.warm_up,
                    seconds=asked.seconds,
                    pids=target.pids,
                )
            except KVError as error:
                raise KVError(f"{cell.name}: {error}") from error
            runs[cell].append(run)
            tell(f"  {cell.name}: {progress(Measured(cell, (run,)))}")


@asynccontextmanager
async def _target(asked: Namespace) -> AsyncIterator[Target]:
    if asked.endpoints is not None:
        yield Target(asked.endpoints)
        return
    async with fresh(asked.nodes, asked.shards) as target:
        yield target


def keys_of(keys_max: int, value_bytes: int) -> int:
    """How many keys there are."""
    return min(keys_max, max(SCAN_ROWS, DATA_BYTES_MAX // max(1, value_bytes)))


def tell(text: str) -> None:
    """How far it is, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
