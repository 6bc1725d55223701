"""The engine with what a crash leaves of it, a fingerprint and a count of each shard's state.

Like RocksDB with its own log off: what was flushed stays, and of what was written since a
crash keeps a beginning (a memtable may have been flushed at any time), never a later write
without an earlier one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from kvstore.errors import DiskFull
from kvstore.kv.engine import Space
from kvstore.storage.memory import MemoryBatch, MemoryEngine

if TYPE_CHECKING:
    import random

    from kvstore.kv.engine import WriteBatch
    from sim.disk import SimDisk

_MASK = (1 << 64) - 1
_HEADER_BYTES = 25
"""Before each value as it is stored."""


class HashedEngine(MemoryEngine):
    """Keeps, for each shard, the sum of its rows' hashes: equal sums, equal state.

    And how many keys there are for clients, with the bytes of them and their values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[bytes, int] = {}
        self._counts: dict[bytes, tuple[int, int]] = {}

    def fingerprint(self, prefix: bytes) -> int:
        """Of all rows whose key begins with these two bytes."""
        return self._sums.get(prefix, 0)

    def counts(self, prefix: bytes) -> tuple[int, int]:
        """Keys and bytes of the shard whose keys begin with these two bytes."""
        return self._counts.get(prefix, (0, 0))

    def _set(self, key: bytes, value: bytes) -> None:
        before = self._values.get(key)
        if before is not None:
            self._add(key, -_row_hash(key, before))
            self._count(key, before, -1)
        self._add(key, _row_hash(key, value))
        self._count(key, value, 1)
        super()._set(key, value)

    def _remove(self, key: bytes) -> None:
        before = self._values.get(key)
        if before is not None:
            self._add(key, -_row_hash(key, before))
            self._count(key, before, -1)
        super()._remove(key)

    def _add(self, key: bytes, change: int) -> None:
        prefix = key[:2]
        self._sums[prefix] = (self._sums.get(prefix, 0) + change) & _MASK

    def _count(self, key: bytes, stored: bytes, sign: int) -> None:
        if key[2] == Space.DATA:
            keys, size_bytes = self.counts(key[:2])
            size = len(key) - 3 + len(stored) - _HEADER_BYTES
            self._counts[key[:2]] = keys + sign, size_bytes + sign * size


def _row_hash(key: bytes, value: bytes) -> int:
    return xxh3_64_intdigest(key, seed=len(key)) ^ xxh3_64_intdigest(value, seed=1)


class SimEngine(HashedEngine):
    """What one process sees. ``after_crash`` tells what its next life finds."""

    def __init__(self, disk: SimDisk, stored: MemoryEngine) -> None:
        super().__init__()
        self._disk = disk
        self._stored = stored
        self._unflushed: list[MemoryBatch] = []
        for key, value in stored.snapshot_rows(b"", b"\xff\xff\xff"):
            self._set(key, value)

    def write(self, batch: WriteBatch) -> None:
        assert isinstance(batch, MemoryBatch)
        self._disk.step()
        self._need_room()
        super().write(batch)
        self._unflushed.append(batch)

    def flush(self) -> None:
        self._disk.step()
        self._need_room()
        self._keep(len(self._unflushed))

    def _need_room(self) -> None:
        if self._disk.is_full:
            raise DiskFull("no room for the simulated engine") from self._disk.no_room()

    def after_crash(self, rng: random.Random) -> MemoryEngine:
        """What was flushed, and maybe some of what came after."""
        self._keep(rng.choice((0, 0, rng.randint(0, len(self._unflushed)))))
        return self._stored

    def _keep(self, count: int) -> None:
        for batch in self._unflushed[:count]:
            self._stored.write(batch)
        del self._unflushed[:count]
