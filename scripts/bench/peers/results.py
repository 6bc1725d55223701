"""What was measured of all stores, round by round, and how they compare. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from bench.measured import LOAD
from bench.summary import Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measured import Cell, Run


class Results:
    """Invariant: a cell has one run a round of a store, or none if a run of it has failed."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.machine: list[dict[str, Any]] = []
        """See :func:`bench.machine.facts`, once a round."""
        self.failures: dict[tuple[str, Cell], str] = {}
        self._runs: defaultdict[tuple[str, Cell], list[Run]] = defaultdict(list)

    def add(self, store: str, cell: Cell, run: Run) -> None:
        """The run of the next round."""
        self._runs[store, cell].append(run)

    def fail(self, store: str, cell: Cell, reason: str) -> None:
        """A run has failed; what was measured of the cell before is forgotten."""
        self.failures[store, cell] = reason
        self._runs.pop((store, cell), None)

    def has_failed(self, store: str, cell: Cell) -> bool:
        """Whether there is nothing to be had from it any more."""
        return (store, cell) in self.failures

    def runs(self, store: str, cell: Cell) -> list[Run]:
        """One a round; none if one has failed, or it was not measured."""
        return self._runs.get((store, cell), [])

    def spread(self, store: str, cell: Cell, figure: Callable[[Run], float]) -> Spread | None:
        """One figure over all rounds."""
        runs = self.runs(store, cell)
        return Spread.of(map(figure, runs)) if runs else None

    def ratio(
        self,
        one: str,
        other: str,
        cell: Cell,
        figure: Callable[[Run], float],
        other_figure: Callable[[Run], float] | None = None,
    ) -> Spread | None:
        """One store's figure over the other's of the same round, over all rounds."""
        runs, peers = self.runs(one, cell), self.runs(other, cell)
        if not runs or not peers:
            return None
        below = other_figure or figure
        return Spread.of(figure(run) / below(peer) for run, peer in zip(runs, peers, strict=True))

    def server_us(self, store: str, cell: Cell) -> Spread | None:
        """Processor microseconds of all servers together for each operation, where told."""
        runs = self.runs(store, cell)
        is_told = runs and all(run.memory_bytes for run in runs)
        return Spread.of(map(server_us, runs)) if is_told else None

    def over_floor(self, store: str, cell: Cell, figure_s: Callable[[Run], float]) -> Spread | None:
        """One figure in seconds over a round trip and a sync of the same round, over all rounds."""
        if not (runs := self.runs(store, cell)):
            return None
        return Spread.of(
            1000 * figure_s(run) / (facts["round_trip_ms"] + facts["fdatasync_ms"])
            for run, facts in zip(runs, self.machine, strict=True)
        )


def rate(run: Run) -> float:
    """Operations a second."""
    return run.rate


def p50_s(run: Run) -> float:
    """Half of the operations took no longer."""
    return run.latency.percentile_s(50)


def p99_s(run: Run) -> float:
    """All but a hundredth of the operations took no longer."""
    return run.latency.percentile_s(99)


def server_us(run: Run) -> float:
    """Processor microseconds of all servers together, for each operation."""
    used_s = sum(used for name, used in run.cpu_s.items() if name != LOAD)
    return 1e6 * used_s / run.operations
