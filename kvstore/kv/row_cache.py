"""Rows that were read or written lately, so that most commands need not ask the engine.

A put has to know the row that it replaces, on every replica: asking an engine for it costs more
than all else that a put does. Two generations approximate "least recently used" without a list:
what is used goes to the young one, and when that has its share it becomes the old one, whose rows
are forgotten unless they are used again (the idea of 2Q, Johnson and Shasha 1994).

All shards of a node share one; whoever writes a row to the engine puts it here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ROW_OVERHEAD_BYTES: Final = 200
"""What two bytes objects and a place in a dictionary take besides their contents."""
ROW_BYTES_MAX: Final = 16 * 1024
"""Larger ones are better left to the engine: few of them would fill the cache."""


class RowCache:
    """Invariant: a row that is here is as the engine has it; both together have the bound."""

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
        size = len(key) + len(row) + ROW_OVERHEAD_BYTES
        before = self._young.pop(key, None)
        if before is not None:
            self._young_bytes -= len(key) + len(before) + ROW_OVERHEAD_BYTES
        if size > ROW_BYTES_MAX:
            self._old.pop(key, None)
            return
        self._young[key] = row
        self._young_bytes += size
        if self._young_bytes > self._bytes_max:
            self._old, self._young, self._young_bytes = self._young, {}, 0

    def written(self, changes: Mapping[bytes, bytes | None]) -> None:
        """The engine has these rows, and none where there is None."""
        young = self._young
        for key, row in changes.items():
            before = young.get(key)
            if row is not None and before is not None and len(row) == len(before):
                young[key] = row
            elif row is not None:
                self.put(key, row)
            else:
                self._forget(key)

    def _forget(self, key: bytes) -> None:
        before = self._young.pop(key, None)
        if before is not None:
            self._young_bytes -= len(key) + len(before) + ROW_OVERHEAD_BYTES
        self._old.pop(key, None)

    def clear(self) -> None:
        """The engine has got other rows."""
        self._young, self._old, self._young_bytes = {}, {}, 0
