"""A store in memory, and runs that never took place."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bench.histogram import Histogram, bucket_of
from bench.measured import LOAD, Cell, Run
from bench.summary import Measured

from kvstore.client.key_value import KeyValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Store:
    """As much of a client as the loads use."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.calls: Counter[str] = Counter()

    async def put(self, key: bytes, value: bytes) -> int:
        self.calls["put"] += 1
        self.held[key] = value
        return self.calls["put"]

    async def get(self, key: bytes) -> KeyValue | None:
        self.calls["get"] += 1
        value = self.held.get(key)
        return None if value is None else KeyValue(key, value, 1)

    async def compare_and_swap(self, key: bytes, expected: bytes | None, value: bytes) -> bool:
        self.calls["cas"] += 1
        if self.held.get(key) != expected:
            return False
        self.held[key] = value
        return True

    async def scan(self, prefix: bytes, *, start: bytes, limit: int) -> AsyncIterator[KeyValue]:
        self.calls["scan"] += 1
        rows = [key for key in sorted(self.held) if key.startswith(prefix) and key >= start]
        for key in rows[:limit]:
            yield KeyValue(key, self.held[key], 1)


def run(operations: int = 1000, *, seconds: float = 2.0, ms: float = 4.0, **told: Any) -> Run:
    """One that was told everything, unless ``told`` says otherwise."""
    latency = Histogram({bucket_of(ms / 1000): operations})
    servers = ("n1", "n2", "n3")
    whole: dict[str, Any] = {
        "cpu_s": {**dict.fromkeys(servers, 0.02), LOAD: 0.01},
        "disk_bytes": dict.fromkeys(servers, 544_000),
        "memory_bytes": {"n1": 50 << 20, "n2": 90 << 20, "n3": 60 << 20},
        "peak_bytes": dict.fromkeys(servers, 100 << 20),
        "stall_ms": {"n1": 3, "n2": 7, "n3": 0},
        "late_ms": {"n1": 12, "n2": 9, "n3": 1},
        "others_cores": 0.25,
    }
    return Run(operations, seconds, latency, **{**whole, **told})


def measured(cell: Cell, *runs: Run) -> Measured:
    return Measured(cell, runs or (run(),))
