"""A checksum over the rows of one shard, by which its replicas are compared.

All rows count: values with their revisions, sessions, the configuration, the applied index
with its term and the counts of keys and bytes. They follow from the log alone
(:mod:`kvstore.kv.state_machine`), so replicas at one applied index have equal rows, and rows
that differ show in the checksum (xxh3, 64 bits: it finds accidents and bugs, it does not stop
an attacker).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import xxhash

from kvstore.kv.engine import Space, space_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.ids import ShardId

_SHARD_PREFIX_BYTES: Final = 2
"""Equal in all rows of a shard, so left out."""

_LENGTHS = Struct(">IQ")
"""Go before each row: no two sequences of rows are the same sequence of bytes."""


class ShardDigest:
    """Takes the rows of one shard in key order, as many at a time as the caller likes."""

    def __init__(self, shard: ShardId) -> None:
        self._hash = xxhash.xxh3_64()
        self._data_prefix = space_prefix(shard, Space.DATA)
        self.keys = 0
        """Keys that a client can read."""
        self.bytes = 0
        """Bytes of those keys and their stored values."""

    @property
    def checksum(self) -> int:
        """Over all rows so far."""
        return self._hash.intdigest()

    def add(self, rows: Iterator[tuple[bytes, bytes]], rows_max: int, bytes_max: int) -> bool:
        """Take rows until one of the bounds is reached; False once there are no more."""
        update = self._hash.update
        size = 0
        for count, (key, value) in enumerate(rows, start=1):
            update(_LENGTHS.pack(len(key), len(value)))
            update(key[_SHARD_PREFIX_BYTES:])
            update(value)
            if key.startswith(self._data_prefix):
                self.keys += 1
                self.bytes += len(key) - len(self._data_prefix) + len(value)
            size += len(key) + len(value)
            if count >= rows_max or size >= bytes_max:
                return True
        return False
