"""What a client's connections take in the servers, and what many of them do to throughput."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.cells import USUAL
from bench.driver import running_worker
from bench.measure import tell
from bench.measured import Cell
from bench.resources import is_told, look
from bench.scaling.outcome import Outcome
from bench.scaling.quiet import until_quiet
from bench.stage import fresh
from bench.summary import Measured
from bench.table import common_notes, median, significant
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from argparse import Namespace

KEYS: Final = 20_000
CONNECTIONS_MIN: Final = 50
"""With fewer more a server's memory moves by itself about as much."""
HEADER: Final = (
    *("clients", "connections", "KiB each", "load", "in flight", "ops/s", "p50 ms", "p99"),
    *("server µs/op", "client µs/op", "MiB", "stall ms"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What the servers hold, by node."""

    memory_bytes: Mapping[str, int]
    sockets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One load by so many clients."""

    clients: int
    connections: int
    """That came to the node where the most did."""
    each_bytes: float | None
    """Of each in the node where it is the most, at rest; None if too few came to tell."""
    measured: Measured

    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADER` names them."""
        measured, memory, stall = self.measured, self.measured.memory_bytes, self.measured.stall_ms
        return (
            f"{self.clients:,}",
            f"{self.connections:,}",
            "-" if self.each_bytes is None else significant(self.each_bytes / 1024),
            measured.cell.operation,
            f"{measured.cell.in_flight:,}",
            f"{measured.rate.median:,.0f}",
            *(significant(measured.percentile_ms(p).median) for p in (50, 99)),
            *map(median, (measured.server_us, measured.client_us)),
            "-" if memory is None else f"{memory.median / 2**20:.0f}",
            "-" if stall is None else f"{stall.high:.0f}",
        )

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "clients": self.clients,
            "connections": self.connections,
            "each_bytes": self.each_bytes,
            "load": self.measured.cell.operation,
            "in_flight": self.measured.cell.in_flight,
            **self.measured.to_json(),
        }


async def measure(asked: Namespace) -> Outcome:
    """As many clients as is asked for, each time on a fresh cluster.

    Raises:
        KVError: something could not be measured.
    """
    if not is_told():
        raise KVError("this system does not tell what a process has used")
    rows: list[Row] = []
    for clients in asked.points:
        rows += await _measure(asked, clients)
    return Outcome(
        f"{asked.nodes} nodes with {asked.shards} shards, values of 256 B; all clients in one "
        "process",
        HEADER,
        [row.cells() for row in rows],
        [row.to_json() for row in rows],
        [
            "connections: that came to a server; KiB each: by how much the memory that is resident "
            "in it grew with them, on a fresh cluster of which each had asked for one key. What "
            "the system keeps for a socket is not in that.",
            *common_notes([row.measured for row in rows]),
        ],
    )


async def _measure(asked: Namespace, clients: int) -> list[Row]:
    in_flight = max(USUAL[0], clients)
    cells = [Cell(name, in_flight, clients) for name in ("get", "put")]
    rows = []
    async with (
        fresh(asked.nodes, asked.shards) as target,
        running_worker(target.endpoints) as worker,
    ):
        await until_quiet(target.pids)
        before = seen(target.pids)
        await worker.connect(clients)
        await worker.touch()
        connections, each_bytes = growth(before, seen(target.pids))
        await worker.fill(KEYS, cells[0].value_bytes, connections=clients)
        tell(f"{clients:,} clients: {connections:,} connections to a node")
        for cell in cells:
            run = await worker.run(
                cell,
                keys=KEYS,
                seed=0,
                warm_up_s=asked.warm_up,
                seconds=asked.seconds,
                pids=target.pids,
            )
            tell(f"  {cell.name}: {run.rate:,.0f}/s")
            rows.append(Row(clients, connections, each_bytes, Measured(cell, (run,))))
    return rows


def seen(pids: Mapping[str, int]) -> Look:
    """As it is now.

    Raises:
        Unavailable: a node has ended.
    """
    return Look(look(pids).memory_bytes, {name: sockets(pid) for name, pid in pids.items()})


def sockets(pid: int) -> int:
    """How many a process has open. Raises likewise."""
    count = 0
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                count += Path(entry.path).readlink().name.startswith("socket:")
            except FileNotFoundError:
                continue  # closed since it was listed
    except OSError as error:
        raise Unavailable(f"process {pid} has ended") from error
    return count


def growth(before: Look, after: Look) -> tuple[int, float | None]:
    """Connections that came to a node, and what each takes there; of both the most."""
    came = {name: after.sockets[name] - count for name, count in before.sockets.items()}
    each = [
        (after.memory_bytes[name] - before.memory_bytes[name]) / count
        for name, count in came.items()
        if count >= CONNECTIONS_MIN
    ]
    return max(came.values()), max(each, default=None)
