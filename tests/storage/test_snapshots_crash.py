"""A crash at every single step of staging and installing leaves the old state or the new."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
from snapshot_support import GROUP, META, NEW, SHARD, CrashError, Fuse, FusedFiles, stage

from kvstore.errors import CorruptionError, DiskFull, Internal
from kvstore.storage import snapshots
from kvstore.storage.memory import MemoryBatch, MemoryEngine
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kvstore.kv.engine import WriteBatch

OLD = {b"\x00\x03\x00applied": b"10", b"\x00\x03\x03gone": b"x"}
NEIGHBOURS = {b"\x00\x02\x03a": b"2", b"\x00\x04\x03a": b"4"}


class FusedEngine(MemoryEngine):
    """Every write is a step; ``durable`` is what the last flush made so."""

    def __init__(self, fuse: Fuse, rows: dict[bytes, bytes]) -> None:
        super().__init__()
        self.fuse = Fuse(0)
        batch = self.batch()
        for key, value in rows.items():
            batch.put(key, value)
        self.write(batch)
        self.durable = dict(rows)
        self.fuse = fuse

    def write(self, batch: WriteBatch) -> None:
        self.fuse.burn()
        super().write(batch)

    def flush(self) -> None:
        self.fuse.burn()
        self.durable = self.rows()

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.snapshot_rows(b"", b"\xff" * 9))


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "INSTALL_BATCH_BYTES", 100)
    monkeypatch.setattr(snapshots, "SYNC_BYTES", 150)


def run_until_crash(directory: Path, at: int) -> tuple[FusedFiles, FusedEngine, list[str]]:
    fuse = Fuse(at)
    files, engine = FusedFiles(fuse), FusedEngine(fuse, OLD | NEIGHBOURS)
    storage = SnapshotStorage(engine, directory, files)
    done: list[str] = []
    try:
        stage(storage)
        done.append("stage")
        storage.install(GROUP, SHARD)
        done.append("install")
        storage.discard(GROUP)
        done.append("discard")
    except CrashError:
        pass
    return files, engine, done


def crash_points() -> Iterator[int]:
    return iter(range(1, 60))


@pytest.mark.parametrize("files_lose", [False, True])
@pytest.mark.parametrize("engine_loses", [False, True])
def test_old_or_new_after_a_crash_at_any_step(
    tmp_path: Path, files_lose: bool, engine_loses: bool
) -> None:
    outcomes: list[str] = []
    for at in crash_points():
        directory = tmp_path / str(at)
        files, engine, done = run_until_crash(directory, at)
        if files_lose:
            files.lose_what_is_not_synced()
        kept = engine.durable if engine_loses else engine.rows()
        outcomes.append(restart(directory, kept, must_be_new="install" in done))
        if "discard" in done:
            break
    else:
        pytest.fail("the last step was never reached")
    assert outcomes == sorted(outcomes, key=["old", "new"].index)
    assert set(outcomes) == {"old", "new"}


def restart(directory: Path, kept: dict[bytes, bytes], *, must_be_new: bool) -> str:
    """Start again, crashing once more at every step of that, and say whose state it is."""
    for at in crash_points():
        fuse = Fuse(at)
        engine = FusedEngine(fuse, kept)
        storage = SnapshotStorage(engine, directory, FusedFiles(fuse))
        try:
            storage.finish_pending()
        except CrashError:
            kept = engine.rows()
            continue
        break
    rows = engine.rows()
    assert {key: rows.pop(key) for key in NEIGHBOURS} == NEIGHBOURS
    assert rows == NEW or (rows == OLD and not must_be_new)
    outcome = "new" if rows == NEW else "old"
    left = {"new": [f"g{GROUP}.installed"], "old": []}
    assert [path.name for path in directory.iterdir()] == left[outcome]
    assert storage.installed_index(GROUP) == (META.index if outcome == "new" else 0)
    return outcome


def test_what_was_applied_after_an_installation_is_never_taken_back(tmp_path: Path) -> None:
    fuse = Fuse(0)
    files, engine = FusedFiles(fuse), FusedEngine(fuse, OLD)
    storage = SnapshotStorage(engine, tmp_path, files)
    stage(storage)
    storage.install(GROUP, SHARD)
    later = engine.batch()
    later.put(b"\x00\x03\x00applied", b"71")
    engine.write(later)
    engine.flush()
    files.lose_what_is_not_synced()
    SnapshotStorage(engine, tmp_path).finish_pending()
    assert engine.get(b"\x00\x03\x00applied") == b"71"


@pytest.mark.parametrize(("failure", "expected"), [(errno.ENOSPC, DiskFull), (errno.EIO, Internal)])
def test_a_disk_that_fails_while_staging_leaves_nothing(
    tmp_path: Path, failure: int, expected: type[Exception]
) -> None:
    for at in crash_points():
        directory = tmp_path / str(at)
        fuse = Fuse(at, lambda: OSError(failure, "injected"))
        files = FusedFiles(fuse)
        engine = MemoryEngine()
        storage = SnapshotStorage(engine, directory, files)
        try:
            stage(storage)
        except expected:
            assert list(directory.iterdir()) == []
            stage(storage)  # there is room again
            storage.install(GROUP, SHARD)
            assert dict(engine.snapshot_rows(b"", b"\xff")) == NEW
            storage.discard(GROUP)
            continue
        break
    assert at > 5


def test_a_snapshot_that_would_fill_the_disk_is_not_taken_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "FREE_BYTES_KEPT", 1 << 60)
    storage = SnapshotStorage(MemoryEngine(), tmp_path / "s")
    with pytest.raises(DiskFull, match="no room to install"):
        stage(storage)
    assert list((tmp_path / "s").iterdir()) == []


def crashed_while_installing(directory: Path) -> Path:
    """A directory with a promise in it: the manifest and the staged file."""

    class Dying(MemoryEngine):
        def write(self, batch: WriteBatch) -> None:
            raise CrashError

    storage = SnapshotStorage(Dying(), directory)
    stage(storage)
    with pytest.raises(CrashError):
        storage.install(GROUP, SHARD)
    return directory / f"g{GROUP}.staging"


def test_the_start_tells_what_it_will_install(tmp_path: Path) -> None:
    crashed_while_installing(tmp_path)
    storage = SnapshotStorage(MemoryEngine(), tmp_path)
    assert storage.pending_installs() == [(GROUP, META)]
    assert storage.pending_installs() == [(GROUP, META)]
    assert storage.finish_pending() == [(GROUP, META)]
    assert storage.finish_pending() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
    ],
    ids=["lost", "cut", "flipped"],
)
def test_a_promise_that_cannot_be_kept_stops_the_start(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    damage(crashed_while_installing(tmp_path))
    with pytest.raises(CorruptionError, match=f"g{GROUP}.staging"):
        SnapshotStorage(MemoryEngine(), tmp_path).finish_pending()


def test_rows_are_installed_in_bounded_batches(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counting(MemoryEngine):
        def write(self, batch: WriteBatch) -> None:
            assert isinstance(batch, MemoryBatch)
            sizes.append(len(batch.operations))
            super().write(batch)

    storage = SnapshotStorage(Counting(), tmp_path)
    stage(storage)
    storage.install(GROUP, SHARD)
    assert sum(sizes) == len(NEW) + 1
    assert max(sizes) <= 5
