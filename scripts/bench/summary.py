"""What several runs of one load come to. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.keys import KEY_BYTES
from bench.loads import write_share
from bench.measured import LOAD, Cell, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over all runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Of at least one run."""
        kept = list(figures)
        return cls(statistics.median(kept), min(kept), max(kept))


@dataclass(frozen=True, slots=True)
class Measured:
    """One cell and its runs, at least one."""

    cell: Cell
    runs: tuple[Run, ...]

    def spread(self, figure: Callable[[Run], float]) -> Spread:
        """One figure of every run."""
        return Spread.of(map(figure, self.runs))

    @property
    def rate(self) -> Spread:
        """Operations a second."""
        return self.spread(lambda run: run.rate)

    def percentile_ms(self, percent: float) -> Spread:
        """The time that so many percent did not exceed."""
        return self.spread(lambda run: 1000 * run.latency.percentile_s(percent))

    @property
    def server_us(self) -> Spread | None:
        """Processor time of all servers together, for each operation."""
        if not self._is_told:
            return None
        return self.spread(lambda run: _us(sum(run.cpu_s.values()) - run.cpu_s[LOAD], run))

    @property
    def client_us(self) -> Spread | None:
        """Likewise of the process that loads them."""
        if all(LOAD not in run.cpu_s for run in self.runs):
            return None
        return self.spread(lambda run: _us(run.cpu_s[LOAD], run))

    @property
    def bytes_per_byte(self) -> Spread | None:
        """Written to all disks together, for each byte of a key or value that was put."""
        share = write_share(self.cell.operation)
        if not self._is_told or not share:
            return None
        each = share * (KEY_BYTES + self.cell.value_bytes)
        return self.spread(lambda run: sum(run.disk_bytes.values()) / (run.operations * each))

    @property
    def memory_bytes(self) -> Spread | None:
        """Resident in the largest server at the end."""
        if not self._is_told:
            return None
        return self.spread(lambda run: max(run.memory_bytes.values()))

    @property
    def stall_ms(self) -> Spread | None:
        """The longest that a server's event loop was kept from its poll by what it did."""
        if not all(run.stall_ms for run in self.runs):
            return None
        return self.spread(lambda run: max(run.stall_ms.values()))

    @property
    def _is_told(self) -> bool:
        return all(run.memory_bytes for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        spreads = {
            "rate": self.rate,
            "p50_ms": self.percentile_ms(50),
            "p99_ms": self.percentile_ms(99),
            "p999_ms": self.percentile_ms(99.9),
            "server_us": self.server_us,
            "client_us": self.client_us,
            "bytes_per_byte": self.bytes_per_byte,
            "memory_bytes": self.memory_bytes,
            "stall_ms": self.stall_ms,
        }
        return {
            name: {"median": spread.median, "min": spread.low, "max": spread.high}
            for name, spread in spreads.items()
            if spread is not None
        }


def _us(seconds: float, run: Run) -> float:
    return 1e6 * seconds / run.operations
