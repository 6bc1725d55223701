"""Runs the loads: all of them once, and again, so that what drifts is in every load's spread."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.driver import running_worker
from bench.loads import SCAN_ROWS
from bench.measured import Cell
from bench.stage import Target, fresh
from bench.summary import Measured
from bench.table import progress, size
from kvstore.config import SHARDS_DEFAULT
from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.measured import Run

RUNS: Final = 3
SECONDS: Final = 3.0
WARM_UP_S: Final = 1.0
NODES_DEFAULT: Final = 3
KEYS_DEFAULT: Final = 10_000
DATA_BYTES: Final = 64 << 20
"""Of all values together, unless the number of keys is given: of larger ones there are fewer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, and how."""

    cells: tuple[Cell, ...]
    runs: int = RUNS
    seconds: float = SECONDS
    """Of each run."""
    warm_up_s: float = WARM_UP_S
    keys: int | None = None
    """That the cluster is filled with; None: as many as is sensible."""
    nodes: int = NODES_DEFAULT
    shards: int = SHARDS_DEFAULT
    endpoints: str | None = None
    """Of a cluster that is there; None: a fresh one for every run and value size."""

    def keys_of(self, value_bytes: int) -> int:
        """How many keys there are with values of this size."""
        if self.keys is not None:
            return self.keys
        return min(KEYS_DEFAULT, max(SCAN_ROWS, DATA_BYTES // max(1, value_bytes)))


async def measure_all(plan: Plan) -> list[Measured]:
    """Everything that is planned; tells on stderr how far it is.

    Raises:
        KVError: something could not be measured.
    """
    runs: dict[Cell, list[Run]] = {cell: [] for cell in plan.cells}
    for turn in range(plan.runs):
        for value_bytes in dict.fromkeys(cell.value_bytes for cell in plan.cells):
            tell(f"run {turn + 1} of {plan.runs}, values of {size(value_bytes)}")
            same = [cell for cell in plan.cells if cell.value_bytes == value_bytes]
            await _measure(plan, same, turn, runs)
    return [Measured(cell, tuple(every)) for cell, every in runs.items()]


async def _measure(
    plan: Plan, cells: Sequence[Cell], turn: int, runs: dict[Cell, list[Run]]
) -> None:
    """Each of these cells, of one value size, once."""
    value_bytes = cells[0].value_bytes
    keys = plan.keys_of(value_bytes)
    async with _target(plan) as target, running_worker(target.endpoints) as worker:
        await worker.fill(keys, value_bytes)
        for cell in cells:
            try:
                run = await worker.run(
                    cell,
                    keys=keys,
                    seed=turn,
                    warm_up_s=plan.warm_up_s,
                    seconds=plan.seconds,
                    pids=target.pids,
                )
            except KVError as error:
                raise KVError(f"{cell.name}: {error}") from error
            if not run.operations:
                raise KVError(f"{cell.name}: no operation ended in {plan.seconds:g} s")
            runs[cell].append(run)
            tell(f"  {cell.name}: {progress(Measured(cell, (run,)))}")


@asynccontextmanager
async def _target(plan: Plan) -> AsyncIterator[Target]:
    if plan.endpoints is not None:
        yield Target(plan.endpoints)
        return
    async with fresh(plan.nodes, plan.shards) as target:
        yield target


def tell(text: str) -> None:
    """How far it is, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
