"""A small RocksDB, and short ways to fill and read one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.config import EngineConfig

if TYPE_CHECKING:
    from kvstore.storage.rocks import RocksEngine

SMALL = EngineConfig(memtable_bytes=1 << 20, block_cache_bytes=1 << 20, background_jobs=2)


def put(engine: RocksEngine, rows: dict[bytes, bytes]) -> None:
    batch = engine.batch()
    for key, value in rows.items():
        batch.put(key, value)
    engine.write(batch)


def rows_of(engine: RocksEngine) -> dict[bytes, bytes]:
    return dict(engine.stream_rows(b"", b"\xff" * 9))
