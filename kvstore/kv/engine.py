"""What the state machine asks of its store: an ordered map of bytes with atomic writes.

Keys of the engine are ``shard u16 BE | space u8 | key`` (DESIGN section 7).
"""

from __future__ import annotations

from typing import Protocol


class WriteBatch(Protocol):
    """Operations that take effect together, in the order given."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key``."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove ``key`` if it is there."""
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove every key in ``[start, end)``."""
        ...


class Engine(Protocol):
    """An ordered map; a write batch is applied whole or not at all."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None."""
        ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key, or None, in the order asked."""
        ...

    def scan(
        self, start: bytes, end: bytes, limit: int, bytes_max: int
    ) -> list[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` in key order, at least one if there is any."""
        ...

    def batch(self) -> WriteBatch:
        """An empty batch."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Apply ``batch``.

        Raises:
            DiskFull: no room; nothing was changed, and the same batch may be written again.
        """
        ...
