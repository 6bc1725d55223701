"""What is measured of one load on one store, whichever store it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from bench.histogram import Histogram

LOAD: Final = "load"
"""The name of the process that loads the servers, among those whose processor time is measured."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: what is asked, and how much of it at once."""

    operation: str
    """``put``, ``get``, ``mix`` (90 % gets), ``ycsb-a``, ``ycsb-b``, ``ycsb-c``, ``scan``, or
    ``cas``."""
    in_flight: int
    """Operations under way at any time, over all connections."""
    connections: int
    value_bytes: int = 256
    rate: float | None = None
    """Operations a second, due at a fixed pace; None for a closed loop."""

    @property
    def name(self) -> str:
        """For tables."""
        pace = "" if self.rate is None else f" at {self.rate:,.0f}/s"
        return f"{self.operation} {self.in_flight}/{self.connections}{pace}"


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run of one cell; without a failed operation, or it would not exist."""

    operations: int
    seconds: float
    latency: Histogram
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Processor seconds of each process, servers and load."""
    disk_bytes: dict[str, int] = field(default_factory=dict)
    """Written to the disk by each server."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Resident in each server at the end."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of operations that can end in more than one way, how many ended in each."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """The most that was ever resident in each server."""
    stall_ms: dict[str, int] = field(default_factory=dict)
    """The longest that each server's event loop was kept from its poll by what the server did, in
    the warm-up or after it; rounded down. Of servers that tell."""
    late_ms: dict[str, int] = field(default_factory=dict)
    """Likewise, with the time that it waited for a processor."""
    others_cores: float | None = None
    """That other programs used meanwhile: what they take, the store cannot have."""

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "operations": self.operations,
            "seconds": self.seconds,
            "rate": self.rate,
            "p50_ms": self.latency.percentile_s(50) * 1000,
            "p99_ms": self.latency.percentile_s(99) * 1000,
            "cpu_s": self.cpu_s,
            "disk_bytes": self.disk_bytes,
            "memory_bytes": self.memory_bytes,
            "peak_bytes": self.peak_bytes,
            "counts": self.counts,
            "stall_ms": self.stall_ms,
            "late_ms": self.late_ms,
            "others_cores": self.others_cores,
            "latency": self.latency.to_json(),
        }
