"""The other end of the worker's pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from elasticity.driver import ANSWER_WAIT_S, END_WAIT_S, SCRIPTS, Driver

from bench.histogram import Histogram
from bench.loads import DRAWS
from bench.measured import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from bench.measured import Cell

LINE_BYTES_MAX: Final = 1 << 20
FILL_BYTES_AT_ONCE: Final = 32 << 20
"""So that every answer comes soon, however many keys there are."""
FILL_AT_ONCE: Final = 512
KEY_COST_BYTES: Final = 256
"""What a small value takes as long as."""


class Bencher:
    """Tells one worker process what to do. One question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._driver = Driver(process)

    async def connect(self, connections: int) -> None:
        """Have so many clients. Raises as :meth:`elasticity.driver.Driver.ask` does."""
        await self._driver.ask("connect", connections=connections)

    async def touch(self) -> None:
        """Have every client ask for something. Raises likewise."""
        await self._driver.ask("touch")

    async def fill(
        self,
        keys: int,
        value_bytes: int,
        *,
        begin: int = 0,
        connections: int = 1,
        at_once: int = FILL_AT_ONCE,
        said: Callable[[int], None] = lambda written: None,
    ) -> None:
        """Write the keys from number ``begin`` to before ``keys``. Raises likewise.

        ``said`` is told how many there are from time to time.
        """
        await self.connect(connections)
        step = max(1, FILL_BYTES_AT_ONCE // (KEY_COST_BYTES + value_bytes))
        for first in range(begin, keys, step):
            last = min(keys, first + step)
            what = {"first": first, "last": last, "value_bytes": value_bytes, "seed": first}
            await self._driver.ask("fill", **what, at_once=at_once)
            said(last)

    async def run(
        self,
        cell: Cell,
        *,
        keys: int,
        seed: int,
        warm_up_s: float,
        seconds: float,
        pids: Mapping[str, int],
        draws: int = DRAWS,
    ) -> Run:
        """Measure one cell for a time, with so many different keys. Raises likewise."""
        said = await self._driver.ask(
            "run",
            cell=asdict(cell),
            keys=keys,
            seed=seed,
            pids=dict(pids),
            draws=draws,
            warm_up_s=warm_up_s,
            seconds=seconds,
            within_s=ANSWER_WAIT_S + warm_up_s + seconds,
        )
        return run_of(said)

    async def run_number(
        self, cell: Cell, operations: int, *, keys: int, seed: int, pids: Mapping[str, int]
    ) -> Run:
        """Measure one cell for so many operations. Raises likewise."""
        said = await self._driver.ask(
            "run_number",
            cell=asdict(cell),
            keys=keys,
            seed=seed,
            pids=dict(pids),
            operations=operations,
        )
        return run_of(said)


def run_of(said: dict[str, Any]) -> Run:
    """What the worker has said of a run."""
    return Run(**{**said, "latency": Histogram.from_json(said["latency"])})


def surroundings() -> dict[str, str]:
    """The environment in which a process of ours finds its modules."""
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@asynccontextmanager
async def running_worker(endpoints: str) -> AsyncIterator[Bencher]:
    """A worker at rest; it ends with the context, or with us."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.worker", endpoints),
        stdin=PIPE,
        stdout=PIPE,
        env=surroundings(),
        limit=LINE_BYTES_MAX,
        start_new_session=True,
    )
    try:
        yield Bencher(process)
        assert process.stdin is not None
        process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), END_WAIT_S)
    finally:  # what is amiss shall not have to wait for a run to its end
        if process.returncode is None:
            process.kill()
        await process.wait()
