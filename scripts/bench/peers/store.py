"""What the bench asks of a store, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from bench.measured import Cell, Run


class Store(Protocol):
    """One that runs."""

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        """Measure one cell once.

        Raises:
            KVError: an operation has failed, or the load could not be run.
        """
        ...


class Peer(Protocol):
    """A kind of store that can be started on this machine."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def note(self) -> str:
        """How it is run, and what it does not promise."""
        ...

    def missing(self) -> str | None:
        """The line that installs it; None if it is there."""
        ...

    def serves(self, cell: Cell) -> bool:
        """Whether the cell means anything for it."""
        ...

    def up(self) -> AbstractAsyncContextManager[Store]:
        """A fresh one with no data but what gets need; nothing is left of it afterwards.

        Raises:
            KVError: it does not come up.
        """
        ...
