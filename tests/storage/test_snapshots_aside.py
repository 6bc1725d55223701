"""A snapshot that a real engine prepares while it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engine_support import SMALL, put, rows_of
from snapshot_support import GROUP, META, NEW, SHARD, pieces_of, stage

from kvstore.errors import CorruptionError, DiskFull
from kvstore.ids import GroupId
from kvstore.kv.engine import shard_range
from kvstore.storage import rocks_tables
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = {b"\x00\x03\x00applied": b"10", b"\x00\x03\x03gone": b"x"}
NEIGHBOURS = {b"\x00\x02\x03a": b"2", b"\x00\x04\x03a": b"4"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    engine = RocksEngine(tmp_path / "engine", SMALL)
    put(engine, NEIGHBOURS)
    yield engine
    engine.close()


def tables_aside(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "engine" / "replacing").rglob("*.sst"))


@pytest.mark.parametrize("before", [{}, OLD])
def test_what_is_there_stays_until_the_new_takes_its_place_at_once(
    engine: RocksEngine, tmp_path: Path, before: dict[bytes, bytes]
) -> None:
    put(engine, before)
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    stage(storage)
    assert rows_of(engine) == NEIGHBOURS | before
    assert tables_aside(tmp_path)
    assert list(storage.installation(GROUP, SHARD)) == [], "no step but the last"
    assert rows_of(engine) == NEIGHBOURS | NEW
    assert not tables_aside(tmp_path)


def test_what_was_there_in_several_layers_is_gone(engine: RocksEngine, tmp_path: Path) -> None:
    for _ in range(3):
        put(engine, OLD)
        engine.flush()
    for _ in range(2):  # the second one replaces tables that were taken in
        storage = SnapshotStorage(engine, tmp_path / "snapshots")
        stage(storage)
        put(engine, {b"\x00\x03\x03k3": b"of before"})
        storage.install(GROUP, SHARD)
        assert rows_of(engine) == NEIGHBOURS | NEW
        put(engine, {b"\x00\x03\x03k3": b"later"})
        assert engine.get(b"\x00\x03\x03k3") == b"later"


def test_many_tables_are_in_force_in_the_end(
    engine: RocksEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocks_tables, "TABLE_BYTES", 40)
    replacement = engine.replacing(*shard_range(SHARD))
    for key, value in sorted(NEW.items()):
        replacement.add([(key, value)])
        assert rows_of(engine) == NEIGHBOURS
    tables = len(tables_aside(tmp_path))
    assert tables > rocks_tables.TABLES_OF_A_SIZE
    assert tables < len(NEW), "later ones are larger"
    replacement.finish()
    assert rows_of(engine) == NEIGHBOURS | NEW


def test_no_rows_leave_an_empty_range(engine: RocksEngine) -> None:
    put(engine, OLD)
    engine.replacing(*shard_range(SHARD)).finish()
    assert rows_of(engine) == NEIGHBOURS


def test_a_start_does_again_what_was_promised_and_keeps_nothing_aside(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path / "engine", SMALL)
    put(engine, OLD)
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    stage(storage)
    storage._promise(GROUP)
    engine.close()  # as a crash leaves it: tables aside, a manifest, the old rows
    assert tables_aside(tmp_path)
    engine = RocksEngine(tmp_path / "engine", SMALL)
    assert not tables_aside(tmp_path)
    assert rows_of(engine) == OLD
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    assert storage.finish_pending() == [(GROUP, META)]
    assert rows_of(engine) == NEW
    engine.close()


def test_what_is_in_force_survives_a_crash(engine: RocksEngine, tmp_path: Path) -> None:
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    stage(storage)
    storage.install(GROUP, SHARD)
    put(engine, {b"\x00\x03\x03later": b"not flushed"})
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (tmp_path / "engine").iterdir():
        if path.is_file() and path.name != "LOCK":
            (copy / path.name).write_bytes(path.read_bytes())
    again = RocksEngine(copy, SMALL)
    assert rows_of(again) == NEIGHBOURS | NEW
    again.close()


def test_damage_is_told_and_nothing_is_kept(engine: RocksEngine, tmp_path: Path) -> None:
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    *pieces, last = pieces_of(NEW)
    pieces[1] = bytes([pieces[1][0] ^ 1]) + pieces[1][1:]
    for number, piece in enumerate(pieces):
        storage.stage(GROUP, META, 100 * number, piece, False)
    with pytest.raises(CorruptionError):
        storage.stage(GROUP, META, 100 * len(pieces), last, True)
    assert not tables_aside(tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert rows_of(engine) == NEIGHBOURS
    stage(storage)
    storage.install(GROUP, SHARD)
    assert rows_of(engine) == NEIGHBOURS | NEW


def test_a_disk_that_is_full_is_noticed_before_anything_is_promised(
    engine: RocksEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise Exception("IO error: No space left on device: While appending to file")

    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    with monkeypatch.context() as patched:
        patched.setattr(rocks_tables.ReplacementByTables, "_end", full)
        with pytest.raises(DiskFull):
            stage(storage)
    assert not tables_aside(tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert rows_of(engine) == NEIGHBOURS


def test_what_others_wrote_is_flushed_before_anything_is_promised(
    engine: RocksEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise DiskFull("no room for it")

    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    with monkeypatch.context() as patched:
        patched.setattr(engine, "flush", full)
        with pytest.raises(DiskFull):
            stage(storage)
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert rows_of(engine) == NEIGHBOURS


@pytest.mark.parametrize("again", [False, True])
def test_what_is_given_up_or_begun_afresh_leaves_nothing(
    engine: RocksEngine, tmp_path: Path, again: bool
) -> None:
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    stage(storage)
    if again:
        stage(storage)
        storage.install(GROUP, SHARD)
        assert rows_of(engine) == NEIGHBOURS | NEW
    else:
        storage.forget(GROUP)
        assert rows_of(engine) == NEIGHBOURS
    assert not tables_aside(tmp_path)


def test_two_that_arrive_at_once_do_not_mix(engine: RocksEngine, tmp_path: Path) -> None:
    storage = SnapshotStorage(engine, tmp_path / "snapshots")
    other, pieces = GroupId(GROUP + 1), pieces_of(NEW)
    for number, piece in enumerate(pieces, start=1):
        for group in (GROUP, other):
            storage.stage(group, META, 100 * (number - 1), piece, number == len(pieces))
    storage.install(GROUP, SHARD)
    assert rows_of(engine) == NEIGHBOURS | NEW
    storage.forget(other)
    assert not tables_aside(tmp_path)
