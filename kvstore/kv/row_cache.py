"""Rows that were read or written lately, so that most commands need not ask the engine.

A put has to know the row that it replaces, on every replica: asking an engine for it costs more
than all else that a put does. Two generations approximate "least recently used" without a list:
what is used goes to the young one, and when that has its share it becomes the old one, whose rows
are forgotten unless they are used again (the idea of 2Q, Johnson and Shasha 1994).

All shards of a node share one; whoever writes a row to the engine puts it here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

ROW_OVERHEAD_BYTES: Final = 200
"""What two bytes objects and a place in a dictionary take besides their contents."""
ROW_BYTES_MAX: Final = 16 * 1024
"""Larger ones are better left to the engine: few of them would fill the cache."""


class RowCache:
    """Invariant: a row is as the engine has it, in the old generation unless the young has it."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max // 2
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """The row, if it is here."""
        row = self._young.get(key)
        if row is None:
            row = self._old.pop(key, None)
            if row is not None:
                self.put(key, row)
        return row

    def put(self, key: bytes, row: bytes) -> None:
        """The engine has this row."""
        if len(row) > ROW_BYTES_MAX:
            self._forget(key)
            return
        self._young[key] = row
        self._grow(len(key) + len(row) + ROW_OVERHEAD_BYTES)

    def written(self, changes: Mapping[bytes, bytes | None]) -> None:
        """The engine has these rows, and none where there is None."""
        rows = [row for row in changes.values() if row is not None]
        if len(rows) == len(changes) and max(map(len, rows), default=0) <= ROW_BYTES_MAX:
            self._young.update(cast("Mapping[bytes, bytes]", changes))
            size = sum(map(len, changes)) + sum(map(len, rows))
            self._grow(size + len(rows) * ROW_OVERHEAD_BYTES)
            return
        for key, row in changes.items():
            if row is None:
                self._forget(key)
            else:
                self.put(key, row)

    def _forget(self, key: bytes) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def _grow(self, size: int) -> None:
        """A row that is put again is counted again: hot ones only get old sooner."""
        self._young_bytes += size
        if self._young_bytes > self._bytes_max:
            self._old, self._young, self._young_bytes = self._young, {}, 0

    def clear(self) -> None:
        """The engine has got other rows."""
        self._young, self._old, self._young_bytes = {}, {}, 0
