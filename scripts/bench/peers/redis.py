"""Redis: one server that syncs its log before it answers, loaded by redis-benchmark."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.histogram import Histogram
from bench.peers.portions import Timing, observed, timed
from bench.peers.processes import finished, free_ports, running, until
from bench.peers.resp import connected, info_of
from kvstore.cli.launcher.ports import HOST
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.measured import Cell, Run

KEYS: Final = 10_000
KEY: Final = b"key:%012d"
"""As redis-benchmark makes them."""
VALUE_BYTES: Final = 256
LOAD_WAIT_S: Final = 120.0
OPERATIONS: Final = {"put": "set", "get": "get"}
MARKS: Final = {"p50": 0.5, "p95": 0.45, "p99": 0.04, "max": 0.01}
"""The times that redis-benchmark tells, and how many requests lie between each and the last."""


class OneRedis:
    """See :class:`bench.peers.store.Peer`."""

    name: Final = "redis"
    note: Final = "ONE server, no replication: appendonly yes, appendfsync always; redis-benchmark"

    def missing(self) -> str | None:
        """See :class:`bench.peers.store.Peer`."""
        is_there = all(map(shutil.which, ("redis-server", "redis-benchmark")))
        return None if is_there else "sudo apt-get install redis-server"

    def serves(self, cell: Cell) -> bool:
        """See :class:`bench.peers.store.Peer`."""
        return cell.operation in OPERATIONS and cell.rate is None

    @asynccontextmanager
    async def up(self) -> AsyncIterator[RedisServer]:
        """See :class:`bench.peers.store.Peer`."""
        with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
            port = free_ports(1)[0]
            async with running(self.name, *command(port), directory=Path(folder)) as program:
                server = RedisServer(port, program.pid)
                await until(server.is_up, [program])
                await server.fill()
                yield server


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One that runs."""

    port: int
    pid: int

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        """See :class:`bench.peers.store.Store`."""
        return await timed(partial(self._portion, cell), cell, seconds, warm_up_s)

    async def is_up(self) -> bool:
        """Whether it answers."""
        try:
            async with connected(self.port) as redis:
                return await redis.ask(b"PING") == b"PONG"
        except Unavailable:
            return False

    async def fill(self) -> None:
        """Write every key. Raises as :meth:`run` does."""
        value = b"v" * VALUE_BYTES
        pairs = (part for number in range(KEYS) for part in (KEY % number, value))
        async with connected(self.port) as redis:
            await redis.ask(b"MSET", *pairs)

    async def _portion(self, cell: Cell, requests: int) -> Run:
        before = await self._counts(cell)
        run = await observed(self._load(cell, requests), {OneRedis.name: self.pid})
        check_counts(before, await self._counts(cell), requests)
        return run

    async def _load(self, cell: Cell, requests: int) -> Timing:
        said = await finished(*benchmark(self.port, cell, requests), wait_s=LOAD_WAIT_S)
        return timing(said, requests)

    async def _counts(self, cell: Cell) -> dict[str, int]:
        async with connected(self.port) as redis:
            info = info_of(await redis.ask(b"INFO", b"all"))
        return counts(info, OPERATIONS[cell.operation])


def command(port: int) -> tuple[str, ...]:
    """Of the server."""
    return (
        *("redis-server", "--bind", HOST, "--port", str(port), "--dir", "."),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    )


def benchmark(port: int, cell: Cell, requests: int) -> tuple[str, ...]:
    """Of the load: what is in flight is spread over the connections, pipelined on each."""
    return (
        *("redis-benchmark", "-h", HOST, "-p", str(port), "-t", OPERATIONS[cell.operation]),
        *("-d", str(cell.value_bytes), "-c", str(cell.connections)),
        *("-P", str(cell.in_flight // cell.connections), "-n", str(requests)),
        *("-r", str(KEYS), "--csv"),
    )


def timing(said: str, requests: int) -> Timing:
    """Read the one line of figures; between the times it tells, the histogram is empty.

    Raises:
        KVError: there is no such line.
    """
    header = said.find('"test"')
    lines = list(csv.DictReader(io.StringIO(said[header:]))) if header >= 0 else []
    if len(lines) != 1:
        raise KVError("redis-benchmark does not say how fast it was")
    latency, left = Histogram(), requests
    for mark, share in reversed(MARKS.items()):
        count = left if mark == "p50" else int(share * requests)
        latency.merge(of_one(count, float(lines[0][f"{mark}_latency_ms"]) / 1000))
        left -= count
    return Timing(requests, requests / float(lines[0]["rps"]), latency)


def of_one(count: int, seconds: float) -> Histogram:
    """So many operations that all took as long."""
    one = Histogram()
    one.add(seconds)
    return Histogram(dict.fromkeys(one.counts, count))


def counts(info: dict[str, dict[str, str]], operation: str) -> dict[str, int]:
    """How often the operation was asked for, how often in vain, and what else went wrong."""
    asked = info.get(f"cmdstat_{operation}", {})
    return {
        "calls": int(asked.get("calls", 0)),
        "failed": int(asked.get("failed_calls", 0)) + int(asked.get("rejected_calls", 0)),
        "errors": int(info["total_error_replies"][""]),
        "misses": int(info["keyspace_misses"][""]),
    }


def check_counts(before: dict[str, int], after: dict[str, int], requests: int) -> None:
    """Make sure that exactly these requests have been served meanwhile, all of them well.

    Raises:
        KVError: it is not so.
    """
    more = {name: count - before[name] for name, count in after.items()}
    if {name: count for name, count in more.items() if count} != {"calls": requests}:
        raise KVError(f"redis was asked {requests:,} times and counts {more}")
