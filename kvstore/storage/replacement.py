"""Puts other rows in the place of all rows of a range, in short steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.kv.engine import Engine

Row = tuple[bytes, bytes]


class Replacement(Protocol):
    """Unless it ``is_aside`` the range may hold anything from the first step to the last."""

    is_aside: bool
    """Whether the range stays as it was until :meth:`finish`."""

    def add(self, rows: Iterable[Row]) -> None:
        """The next rows, in key order. Raises as :meth:`kvstore.kv.engine.Engine.write`."""
        ...

    def complete(self) -> None:
        """Those were all: what may fail for want of room has been done. Raises as :meth:`add`."""
        ...

    def finish(self) -> None:
        """Those that were added are in force, and no others; durable after the next flush.

        Blocks. Raises as :meth:`add`.
        """
        ...

    def abandon(self) -> None:
        """Keep nothing that is of use only for what is not finished."""
        ...


class ReplacementByWrites:
    """What any engine can do: the range is emptied, then filled."""

    is_aside = False

    def __init__(self, engine: Engine, start: bytes, end: bytes) -> None:
        """Of ``[start, end)``."""
        self._engine = engine
        self._batch = engine.batch()
        self._batch.delete_range(start, end)

    def add(self, rows: Iterable[Row]) -> None:
        """Write them."""
        for key, value in rows:
            self._batch.put(key, value)
        self._engine.write(self._batch)
        self._batch = self._engine.batch()

    def complete(self) -> None:
        """All is written already."""

    def finish(self) -> None:
        """Empty the range, if there was nothing to write."""
        self._engine.write(self._batch)

    def abandon(self) -> None:
        """Nothing is kept."""
