"""Stops on the way of one replica's state: somebody wants to see it at one applied index.

Many entries go into one engine write, so a state in between is never there to be seen, unless
the write ends at the index in question. Hence :class:`~kvstore.server.applying.Applier` ends
a write at :attr:`Checkpoints.next_index`, and whoever waits for that index is called between
this write and the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvstore.errors import KVError
from kvstore.ids import LogIndex

NOWHERE = LogIndex(0)
"""No entry has this index."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Somebody waits for a replica to be at ``index``; told exactly one of both, once."""

    index: LogIndex
    deadline: float
    arrived: Callable[[LogIndex], None]
    """Called with the applied index: ``index`` itself while the engine holds exactly the state
    there, a higher one if the replica leapt over it, a lower one when the deadline has passed."""
    failed: Callable[[KVError], None]


class Checkpoints:
    """Those of one replica. Invariant: ``next_index`` is the lowest of them, else NOWHERE."""

    def __init__(self) -> None:
        self._waiting: list[Checkpoint] = []
        self.next_index = NOWHERE

    def add(self, checkpoint: Checkpoint) -> None:
        """Wait for ``checkpoint``, which lies ahead of the applied index."""
        self._keep([*self._waiting, checkpoint])

    def reached(self, applied: LogIndex) -> None:
        """The engine holds the state at ``applied``, and no later one until this returns."""
        if self._waiting and applied >= self.next_index:
            self._settle([c for c in self._waiting if c.index <= applied], applied)

    def expire(self, now: float, applied: LogIndex) -> None:
        """Give up on those that are overdue."""
        if self._waiting:
            self._settle([c for c in self._waiting if c.deadline <= now], applied)

    def fail_all(self, error: KVError) -> None:
        """None of them will be reached."""
        waiting = self._waiting
        self._keep([])
        for checkpoint in waiting:
            checkpoint.failed(error)

    def _settle(self, settled: list[Checkpoint], applied: LogIndex) -> None:
        self._keep([c for c in self._waiting if c not in settled])
        for checkpoint in settled:
            checkpoint.arrived(applied)

    def _keep(self, waiting: list[Checkpoint]) -> None:
        self._waiting = waiting
        self.next_index = min((c.index for c in waiting), default=NOWHERE)
