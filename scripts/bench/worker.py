"""The process that loads the store: ``python -m bench.worker ENDPOINTS``.

It does what it is told by lines of JSON on stdin and answers each with one on stdout; when stdin
ends, it ends. It shares the processors with the servers, so it does as little as it can.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvloop

import kvstore
from bench.histogram import Histogram
from bench.keys import key_of
from bench.loads import DRAWS, load_of, values
from bench.loops import closed, counted, paced
from bench.measured import LOAD as LOAD
from bench.measured import Cell
from bench.resources import is_told, look, others_cores
from bench.stalls import LATE, OWN, longest_ms
from bench.stalls import counted as stalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.loads import Load
    from bench.loops import Lapse
    from bench.resources import Look

FILL_BYTES_AT_ONCE_MAX: Final = 8 << 20
OPENED_AT_ONCE: Final = 50
"""Clients: if all came at once, those that are served last would give up."""


class Worker:
    """Invariant: every client in ``_stores`` is open, or is about to be."""

    def __init__(self, endpoints: str) -> None:
        """Not connected yet."""
        self._endpoints = endpoints
        self._stores: list[kvstore.Client] = []

    async def connect(self, connections: int) -> dict[str, Any]:
        """Have so many clients, each with connections of its own."""
        while len(self._stores) > connections:
            await self._stores.pop().close()
        while (missing := connections - len(self._stores)) > 0:
            some = [kvstore.connect(self._endpoints) for _ in range(min(missing, OPENED_AT_ONCE))]
            self._stores += some
            await asyncio.gather(*(store.open() for store in some))
        return {}

    async def touch(self) -> dict[str, Any]:
        """Have every client ask for something, so that its connections stand."""
        for first in range(0, len(self._stores), OPENED_AT_ONCE):
            some = self._stores[first : first + OPENED_AT_ONCE]
            await asyncio.gather(*(store.get(key_of(0)) for store in some))
        return {}

    async def fill(
        self, first: int, last: int, value_bytes: int, seed: int, at_once: int
    ) -> dict[str, Any]:
        """Write the keys from number ``first`` to before ``last``."""
        numbers = iter(range(first, last))
        value = values(value_bytes, random.Random(seed)).__next__
        at_once = max(1, min(at_once, FILL_BYTES_AT_ONCE_MAX // max(1, value_bytes)))

        async def work(store: kvstore.Client) -> None:
            for number in numbers:
                await store.put(key_of(number), value())

        stores = [self._stores[n % len(self._stores)] for n in range(at_once)]
        await asyncio.gather(*map(work, stores))
        return {}

    async def run(self, warm_up_s: float, seconds: float, **asked: Any) -> dict[str, Any]:
        """One cell for a time, as :func:`bench.driver.run_of` takes it."""
        cell, load, callers, looking = await self._ready(**asked)
        before = await stalls(callers[0])
        if cell.rate is None:
            lapse = await closed(load, callers, warm_up_s, seconds, looking)
        else:
            lapse = await paced(load, callers, cell.rate, warm_up_s, seconds, looking)
        after = await stalls(callers[0])
        return told(lapse) | {
            "stall_ms": longest_ms(before, after, OWN),
            "late_ms": longest_ms(before, after, LATE),
        }

    async def run_number(self, operations: int, **asked: Any) -> dict[str, Any]:
        """The same for so many operations."""
        _, load, callers, looking = await self._ready(**asked)
        return told(await counted(load, callers, operations, looking))

    async def _ready(
        self,
        cell: dict[str, Any],
        keys: int,
        seed: int,
        pids: dict[str, int],
        draws: int = DRAWS,
    ) -> tuple[Cell, Load, list[kvstore.Client], Callable[[], Look]]:
        """What a run needs."""
        wanted = Cell(**cell)
        await self.connect(wanted.connections)
        callers = [self._stores[n % wanted.connections] for n in range(wanted.in_flight)]
        own = {LOAD: os.getpid()} if is_told() else {}
        return wanted, load_of(wanted, keys, seed, draws), callers, partial(look, pids | own)

    async def end(self) -> None:
        """Close what is open."""
        await self.connect(0)


def told(lapse: Lapse) -> dict[str, Any]:
    """For the pipe."""
    before, after = lapse.before, lapse.after
    latency = Histogram()
    latency.add_all(lapse.took_s)
    servers = [name for name in after.cpu_s if name != LOAD]
    written = {name: after.disk_bytes[name] - before.disk_bytes[name] for name in servers}
    return {
        "operations": len(lapse.took_s),
        "seconds": lapse.seconds,
        "latency": latency.to_json(),
        "cpu_s": {name: used_s - before.cpu_s[name] for name, used_s in after.cpu_s.items()},
        "disk_bytes": written,
        "memory_bytes": {name: after.memory_bytes[name] for name in servers},
        "peak_bytes": {name: after.peak_bytes[name] for name in servers},
        "counts": lapse.counts,
        "others_cores": others_cores(before, after) if servers else None,
    }


async def serve(worker: Worker) -> None:
    """Do what stdin says until it ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        try:
            answer = await getattr(worker, asked.pop("do"))(**asked)
        except kvstore.KVError as failure:
            answer = {"failed": f"{type(failure).__name__}: {failure}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


async def _main(endpoints: str) -> None:
    worker = Worker(endpoints)
    try:
        await serve(worker)
    finally:
        await worker.end()


def open_more_files() -> None:
    """As many as the system lets us: a client has a connection to each node."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    open_more_files()
    uvloop.run(_main(sys.argv[1]))
