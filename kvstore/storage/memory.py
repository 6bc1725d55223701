"""An engine in memory, for tests and the simulator: the same behaviour, no files."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from kvstore.kv.row_cache import RowCache
from kvstore.storage.replacement import ReplacementByWrites

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvstore.kv.engine import WriteBatch


class MemoryBatch:
    """Operations of one atomic write, in order."""

    def __init__(self) -> None:
        self.operations: list[tuple[bytes, bytes | None, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key``."""
        self.operations.append((key, value, None))

    def delete(self, key: bytes) -> None:
        """Remove ``key`` if it is there."""
        self.operations.append((key, None, None))

    def update(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Set each of ``rows``, or remove those where there is None."""
        for key, row in rows.items():
            if row is None:
                self.delete(key)
            else:
                self.put(key, row)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove every key in ``[start, end)``."""
        self.operations.append((start, None, end))


ROW_CACHE_BYTES: Final = 1 << 16
"""Small, so that rows leave it in tests too."""


class MemoryEngine:
    """Invariant: ``_keys`` holds the keys of ``_values``, sorted."""

    def __init__(self) -> None:
        self.row_cache = RowCache(bytes_max=ROW_CACHE_BYTES)
        self._keys: list[bytes] = []
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""
        return self._values.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key, or None, in the order asked."""
        return [self._values.get(key) for key in keys]

    def scan(
        self, start: bytes, end: bytes, limit: int, bytes_max: int
    ) -> list[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` in key order: at most ``limit``, about ``bytes_max`` bytes."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        for key in self._range(start, end)[:limit]:
            value = self._values[key]
            size += len(key) + len(value)
            if rows and size > bytes_max:
                break
            rows.append((key, value))
        return rows

    def batch(self) -> MemoryBatch:
        """An empty batch."""
        return MemoryBatch()

    def write(self, batch: WriteBatch) -> None:
        """Apply all of ``batch``."""
        assert isinstance(batch, MemoryBatch)
        for key, value, end in batch.operations:
            if end is not None:
                self._remove_range(key, end)
            elif value is None:
                self._remove(key)
            else:
                self._set(key, value)

    def snapshot_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` as they are now, whatever is written later."""
        return iter([(key, self._values[key]) for key in self._range(start, end)])

    def stream_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same."""
        return self.snapshot_rows(start, end)

    def replacing(self, start: bytes, end: bytes) -> ReplacementByWrites:
        """Begin to put other rows in the place of all in ``[start, end)``."""
        return ReplacementByWrites(self, start, end)

    def flush(self) -> None:
        """Nothing outlives the process, so there is nothing to do."""

    def close(self) -> None:
        """Nothing to release."""

    def _range(self, start: bytes, end: bytes) -> list[bytes]:
        return self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]

    def _set(self, key: bytes, value: bytes) -> None:
        if key not in self._values:
            self._keys.insert(bisect_left(self._keys, key), key)
        self._values[key] = value

    def _remove(self, key: bytes) -> None:
        if self._values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def _remove_range(self, start: bytes, end: bytes) -> None:
        for key in self._range(start, end):
            self._remove(key)
