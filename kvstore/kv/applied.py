"""How far a shard's log is applied, and the row of the engine that says so.

``format u8 | index u64 | term u64 | last_revision u64 | horizon u64 | keys u64 |
size_bytes u64``, big endian; format 1 ended before ``keys``.

Replicas are compared by all of their rows (:mod:`kvstore.storage.digest`), so one state must
have one form: whoever takes up rows in format 1 counts them and writes theirs anew at once, not
with the next entry, for which an idle shard may wait for days. Nothing else of the state
changes, and after a crash before the engine's next flush it is done again.

Format 1 is met once after an upgrade, and in the snapshots of leaders that are yet to be
upgraded. Those in turn refuse a snapshot in format 2, as whatever is newer than they know: such
a node stops, and takes it up once it is upgraded too.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvstore.errors import DataDirectoryError
from kvstore.kv import values
from kvstore.kv.engine import Space, rows_of, space_prefix, space_range

if TYPE_CHECKING:
    from kvstore.ids import ShardId
    from kvstore.kv.engine import Engine

FORMAT: Final = 2

_ROW = Struct(">BQQQQQQ")
_ROW_1 = Struct(">BQQQQ")


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the log is applied, and what that comes to."""

    index: int
    term: int
    last_revision: int
    config_bytes: bytes
    """The replica configuration in force, encoded; empty before the log's first."""
    keys: int
    size_bytes: int
    """Of keys and values, as clients gave them."""


def applied_key(shard: ShardId) -> bytes:
    """Where in the engine the row is."""
    return space_prefix(shard, Space.SYSTEM) + b"applied"


def config_key(shard: ShardId) -> bytes:
    """Where the configuration is: it is large, and seldom changes."""
    return space_prefix(shard, Space.SYSTEM) + b"config"


def encode(applied: Applied, horizon: int) -> bytes:
    """The row; ``horizon`` is that of the sessions."""
    return _ROW.pack(
        FORMAT,
        applied.index,
        applied.term,
        applied.last_revision,
        horizon,
        applied.keys,
        applied.size_bytes,
    )


def load(shard: ShardId, engine: Engine) -> tuple[Applied, int]:
    """What the engine holds, and the horizon; zeros for a new shard.

    Raises:
        DataDirectoryError: a newer version wrote it.
        DiskFull: there is no room to write it anew.
    """
    upgrade(shard, engine)
    stored = engine.get(applied_key(shard)) or _ROW.pack(FORMAT, 0, 0, 0, 0, 0, 0)
    if stored[0] != FORMAT:
        raise DataDirectoryError(
            f"shard {shard} is stored in format {stored[0]}, this version knows up to {FORMAT}"
        )
    _, index, term, last_revision, horizon, keys, size_bytes = _ROW.unpack(stored)
    config_bytes = engine.get(config_key(shard)) or b""
    return Applied(index, term, last_revision, config_bytes, keys, size_bytes), horizon


def upgrade(shard: ShardId, engine: Engine) -> None:
    """If the row is in format 1 count the keys and write it anew, else do nothing.

    Raises:
        DiskFull: there is no room; nothing was changed.
    """
    stored = engine.get(applied_key(shard))
    if stored is None or stored[0] != 1:
        return
    keys, size_bytes = _count(shard, engine)
    _, index, term, last_revision, horizon = _ROW_1.unpack(stored)
    batch = engine.batch()
    batch.put(
        applied_key(shard),
        _ROW.pack(FORMAT, index, term, last_revision, horizon, keys, size_bytes),
    )
    engine.write(batch)


def _count(shard: ShardId, engine: Engine) -> tuple[int, int]:
    start, end = space_range(shard, Space.DATA)
    keys = size_bytes = 0
    for key, stored in rows_of(engine, start, end):
        keys += 1
        size_bytes += len(key) - len(start) + len(stored) - values.HEADER_BYTES
    return keys, size_bytes
