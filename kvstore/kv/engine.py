"""The seam to the storage engine: ordered bytes, written in atomic batches.

A key of the engine is ``shard u16 BE | space u8 | key``, so that a shard is one range to
stream, move or delete, and its data is in key order within that range (DESIGN section 7).
Whatever applying one entry changes (data, sessions, applied index) goes into one batch.

The meta group's rows stand where no shard's can, and so do those that are the node's own: they
are in no range that is streamed to another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.ids import GroupId, ShardId

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvstore.kv.row_cache import RowCache

_PAGE_ROWS: Final = 1024
_PAGE_BYTES_MAX: Final = 1 << 20

_HEAD_BYTES = 2
_HEADS = 1 << 8 * _HEAD_BYTES
_LOCAL = (_HEADS - 2).to_bytes(_HEAD_BYTES, "big")
"""Before the node's own rows; the highest head is the meta group's, whose shard is -1."""
KEYS_END = b"\xff" * (_HEAD_BYTES + 1)
"""A bound above every key."""


class Space(IntEnum):
    """What a key of the engine holds. The numbers are stored: never reuse one."""

    SYSTEM = 0
    SESSIONS = 1
    LEASES = 2
    """Kept free."""
    DATA = 3
    HISTORY = 4
    """Kept free."""


_STAMPS = _LOCAL + bytes((Space.SYSTEM,))


def space_prefix(shard: ShardId, space: Space) -> bytes:
    """The bytes that all keys of one space of one shard begin with."""
    return _head(shard) + bytes((space,))


def space_range(shard: ShardId, space: Space) -> tuple[bytes, bytes]:
    """``[start, end)`` of all keys of one space of one shard."""
    head = _head(shard)
    return head + bytes((space,)), head + bytes((space + 1,))


def shard_range(shard: ShardId) -> tuple[bytes, bytes]:
    """``[start, end)`` of everything that the engine holds of one shard."""
    return _head(shard) + b"\x00", _head(shard) + b"\xff"


def shard_of_key(key: bytes) -> ShardId | None:
    """Whose row it is; None if it is the node's own."""
    head = key[:_HEAD_BYTES]
    if head == _LOCAL:
        return None
    number = int.from_bytes(head, "big")
    return ShardId(number - _HEADS if head > _LOCAL else number)


def behind_shard(key: bytes) -> bytes:
    """A bound above all rows of whoever has ``key``, and below those of the next."""
    return key[:_HEAD_BYTES] + b"\xff"


def stamp_key(group: GroupId) -> bytes:
    """Where the node notes as which replica it holds the rows of ``group``."""
    return _STAMPS + group.to_bytes(4, "big")


def stamps_range() -> tuple[bytes, bytes]:
    """``[start, end)`` of what it notes of all groups."""
    return _STAMPS, _LOCAL + bytes((Space.SYSTEM + 1,))


def group_of_stamp(key: bytes) -> GroupId:
    """The inverse of :func:`stamp_key`."""
    return GroupId(int.from_bytes(key[len(_STAMPS) :], "big"))


def _head(shard: ShardId) -> bytes:
    return (shard % _HEADS).to_bytes(_HEAD_BYTES, "big")


class WriteBatch(Protocol):
    """Changes that take effect together, in the order in which they were added."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key`` to ``value``."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove ``key`` if it is there."""
        ...

    def update(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Set each of ``rows``, or remove those where there is None."""
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove every key of ``[start, end)``."""
        ...


class Engine(Protocol):
    """An ordered map of bytes. Reads see every finished :meth:`write`, and no other."""

    row_cache: RowCache
    """Kept by those who read and write rows by this seam, in the thread of the event loop; whoever
    has put other rows in a shard's place empties it, in any thread."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""
        ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of ``keys``, in their order."""
        ...

    def scan(
        self, start: bytes, end: bytes, limit: int, bytes_max: int
    ) -> list[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` in key order, at least one if there is any.

        Stops after ``limit`` rows, or before keys and values pass ``bytes_max``.
        """
        ...

    def batch(self) -> WriteBatch:
        """A new, empty batch."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Apply ``batch`` as a whole or not at all.

        Raises:
            DiskFull: nothing was changed; the same batch may be written later.
        """
        ...


def rows_of(engine: Engine, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All rows of ``[start, end)`` in key order, read in pages: nothing may change meanwhile."""
    while rows := engine.scan(start, end, _PAGE_ROWS, _PAGE_BYTES_MAX):
        yield from rows
        start = rows[-1][0] + b"\x00"
