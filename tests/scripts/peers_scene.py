"""Stores that take no time: what they measure is what the test says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.histogram import Histogram
from bench.measured import LOAD, Cell, Run

from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def run_of(rate: float, p50_s: float = 0.001, p99_s: float = 0.002, server_s: float = 0.5) -> Run:
    """One of a second; two percent of its operations take as long as the slowest."""
    latency = Histogram()
    latency.add_all([p50_s] * 98 + [p99_s] * 2)
    used = {"n1": server_s, LOAD: 9.0}
    return Run(int(rate), 1.0, latency, cpu_s=used, memory_bytes={"n1": 1})


@dataclass
class Scripted:
    """See :class:`bench.peers.store.Peer`; ``runs`` gives each run, or raises."""

    name: str
    runs: Callable[[Cell], Run]
    install: str | None = None
    is_up: bool = True
    log: list[str] = field(default_factory=list)
    note: str = "a fake"

    def missing(self) -> str | None:
        return self.install

    def serves(self, cell: Cell) -> bool:
        return cell.operation != "scan"

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Scripted]:
        if not self.is_up:
            raise KVError("it does not come up")
        self.log.append(f"{self.name} up")
        try:
            yield self
        finally:
            self.log.append(f"{self.name} down")

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        self.log.append(f"{self.name} {cell.name}")
        return self.runs(cell)
