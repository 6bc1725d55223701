"""The other end of the worker's pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from elasticity.driver import END_WAIT_S, SCRIPTS, Driver

from bench.histogram import Histogram
from bench.measured import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bench.measured import Cell

LINE_BYTES_MAX = 1 << 20
FILL_KEYS_AT_ONCE = 100_000
"""So that every answer comes soon, however many keys there are."""


class Bencher(Driver):
    """Tells one worker process what to do. One question at a time."""

    async def fill(self, keys: int, value_bytes: int) -> None:
        """Write so many keys. Raises as :meth:`ask` does."""
        await self.ask("connect", connections=1)
        bytes_at_once = FILL_KEYS_AT_ONCE * 256
        step = max(1, bytes_at_once // max(256, value_bytes))
        for first in range(0, keys, step):
            last = min(keys, first + step)
            await self.ask("fill", first=first, last=last, value_bytes=value_bytes, seed=first)

    async def run(
        self,
        cell: Cell,
        *,
        keys: int,
        seed: int,
        warm_up_s: float,
        seconds: float,
        pids: Mapping[str, int],
    ) -> Run:
        """Measure one cell once. Raises as :meth:`ask` does."""
        asked = {"cell": asdict(cell), "keys": keys, "seed": seed, "pids": dict(pids)}
        said = await self.ask("run", **asked, warm_up_s=warm_up_s, seconds=seconds)
        return run_of(said)


def run_of(said: dict[str, Any]) -> Run:
    """What the worker has said of a run."""
    return Run(**{**said, "latency": Histogram.from_json(said["latency"])})


@asynccontextmanager
async def running_worker(endpoints: str) -> AsyncIterator[Bencher]:
    """A worker at rest; it ends with the context, or with us."""
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.worker", endpoints),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        limit=LINE_BYTES_MAX,
        start_new_session=True,
    )
    try:
        yield Bencher(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_WAIT_S)
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
