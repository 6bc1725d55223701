"""A crash between any two steps of taking in prepared tables leaves the old state or the new."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from engine_support import SMALL, put, rows_of
from snapshot_support import GROUP, META, NEW, SHARD, CrashError, Fuse, FusedFiles, stage

from kvstore.errors import Internal
from kvstore.storage import rocks_tables
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD = {b"\x00\x03\x00applied": b"10", b"\x00\x03\x03gone": b"x"}
NEIGHBOURS = {b"\x00\x02\x03a": b"2", b"\x00\x04\x03a": b"4"}
CRASHES = range(1, 90)


def burning(fuse: Fuse, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work``, before and after which the fuse may blow."""

    def burn(*arguments: Any) -> Any:
        fuse.burn()
        result = work(*arguments)
        fuse.burn()
        return result

    return burn


def as_a_crash_leaves(directory: Path, copy: Path) -> None:
    """What is in files, without what only a memtable holds."""
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("LOCK"))


@pytest.mark.parametrize("at", CRASHES)
def test_old_or_new_after_a_crash_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(rocks_tables, "TABLE_BYTES", 100)
    fuse, live, copy = Fuse(0), tmp_path / "live", tmp_path / "copy"
    engine = RocksEngine(live / "engine", SMALL)
    put(engine, OLD | NEIGHBOURS)
    engine.flush()
    for name in ("write", "flush"):
        monkeypatch.setattr(engine, name, burning(fuse, getattr(engine, name)))
    for name in ("_begin", "_end", "_take_in", "finish", "abandon"):
        work = burning(fuse, getattr(rocks_tables.ReplacementByTables, name))
        monkeypatch.setattr(
            rocks_tables.ReplacementByTables, name, lambda *all_, work=work: work(*all_)
        )
    storage = SnapshotStorage(engine, live / "snapshots", FusedFiles(fuse))
    fuse.left, is_staged, is_over = at, False, False
    try:
        stage(storage)
        is_staged = True
        storage.install(GROUP, SHARD)
        is_over = True
    except (CrashError, Internal):  # the latter for what happened while rows were written
        assert fuse.left <= 0
    as_a_crash_leaves(live, copy)
    monkeypatch.undo()
    engine.close()
    again = RocksEngine(copy / "engine", SMALL)
    storage = SnapshotStorage(again, copy / "snapshots")
    pending = storage.finish_pending()
    is_new = bool(pending) or storage.installed_index(GROUP) == META.index
    assert rows_of(again) == NEIGHBOURS | (NEW if is_new else OLD)
    assert is_new or not is_over
    assert is_over or fuse.left <= 0
    assert is_staged or not is_new
    assert not list((copy / "engine").rglob("replacing/*"))
    again.close()
