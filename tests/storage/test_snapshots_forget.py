"""A group leaves, or comes as another replica: no snapshot of before is ever installed again."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from snapshot_support import (
    GROUP,
    META,
    NEW,
    SHARD,
    CrashError,
    Fuse,
    FusedFiles,
    pieces_of,
    stage,
)

from kvstore.errors import DiskFull, Internal
from kvstore.ids import GroupId
from kvstore.kv.engine import shard_range
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHER = GroupId(40)


def arriving(storage: SnapshotStorage) -> None:
    storage.stage(GROUP, META, 0, pieces_of(NEW)[0], False)


def promised(storage: SnapshotStorage) -> None:
    stage(storage)
    storage._promise(GROUP)


def installed(storage: SnapshotStorage) -> None:
    stage(storage)
    storage.install(GROUP, SHARD)


def promised_again(storage: SnapshotStorage) -> None:
    installed(storage)
    storage.discard(GROUP)
    promised(storage)


STATES = [arriving, stage, promised, installed, promised_again]


def forgotten_until_crash(
    directory: Path, state: Callable[[SnapshotStorage], None], at: int
) -> tuple[FusedFiles, bool]:
    """One group is in ``state`` and another one's snapshot is promised; whether it was over."""
    files = FusedFiles(Fuse(0))
    storage = SnapshotStorage(MemoryEngine(), directory, files)
    state(storage)
    for number, piece in enumerate(pieces := pieces_of(NEW), start=1):
        storage.stage(OTHER, META, (number - 1) * 100, piece, number == len(pieces))
    storage._promise(OTHER)
    files.fuse = Fuse(at)
    try:
        storage.forget(GROUP)
    except CrashError:
        return files, False
    return files, True


def losses_of(files: FusedFiles) -> Iterator[dict[str, bytes]]:
    """What a loss of power may bring back: any of what was removed since the last sync."""
    removed = [path for path in files.synced if not path.exists()]
    for mask in range(1 << len(removed)):
        back = [path for number, path in enumerate(removed) if mask >> number & 1]
        yield {path.name: files.synced[path] for path in back}


def started(directory: Path, brought_back: dict[str, bytes]) -> tuple[bool, MemoryEngine]:
    """Whether a start after the crash still installs what the group was promised."""
    for name, content in brought_back.items():
        (directory / name).write_bytes(content)
    engine = MemoryEngine()
    pending = SnapshotStorage(engine, directory).finish_pending()
    assert (OTHER, META) in pending
    return (GROUP, META) in pending, engine


@pytest.mark.parametrize("state", STATES)
def test_a_crash_at_any_step_of_forgetting_leaves_a_start_that_can_forget(
    tmp_path: Path, state: Callable[[SnapshotStorage], None]
) -> None:
    for at in range(1, 20):
        crashed = tmp_path / str(at)
        files, is_over = forgotten_until_crash(crashed, state, at)
        for number, brought_back in enumerate(losses_of(files)):
            directory = Path(shutil.copytree(crashed, tmp_path / f"{at}-{number}"))
            was_installed, engine = started(directory, brought_back)
            assert not (is_over and was_installed)
            assert bool(list(engine.snapshot_rows(*shard_range(SHARD)))) == was_installed
            SnapshotStorage(engine, directory).forget(GROUP)
            assert [path.name for path in directory.iterdir()] == [f"g{OTHER}.installed"]
            assert started_without(directory)
        if is_over:
            break
    assert 3 < at < 10


def started_without(directory: Path) -> bool:
    """Whether a start finds nothing at all of the group."""
    storage = SnapshotStorage(MemoryEngine(), directory)
    return storage.finish_pending() == [] and storage.installed_index(GROUP) == 0


def test_what_was_forgotten_stays_so_without_power(tmp_path: Path) -> None:
    for state in STATES:
        directory = tmp_path / state.__name__
        files, is_over = forgotten_until_crash(directory, state, 0)
        assert is_over
        files.lose_what_is_not_synced()
        assert not started(directory, {})[0]
        assert not list(directory.glob(f"g{GROUP}.*"))


def test_what_is_forgotten_twice_is_synced_twice(tmp_path: Path) -> None:
    """A crash before the sync may have left the names gone in the cache alone."""
    files, _ = forgotten_until_crash(tmp_path, promised, 3)
    assert not (tmp_path / f"g{GROUP}.manifest").exists()
    assert tmp_path / f"g{GROUP}.manifest" in files.synced
    files.fuse = Fuse(0)
    SnapshotStorage(MemoryEngine(), tmp_path, files).forget(GROUP)
    files.lose_what_is_not_synced()
    assert not list(tmp_path.glob(f"g{GROUP}.*"))


def test_a_group_of_which_there_is_nothing_can_be_forgotten(tmp_path: Path) -> None:
    engine = MemoryEngine()
    storage = SnapshotStorage(engine, tmp_path / "not there yet")
    storage.forget(GROUP)
    storage.forget(GROUP)
    stage(storage)
    storage.install(GROUP, SHARD)
    assert dict(engine.snapshot_rows(*shard_range(SHARD))) == NEW


def test_what_was_arriving_is_not_continued(tmp_path: Path) -> None:
    storage = SnapshotStorage(MemoryEngine(), tmp_path)
    first, second, *_ = pieces_of(NEW)
    storage.stage(GROUP, META, 0, first, False)
    storage.forget(GROUP)
    with pytest.raises(Internal, match="does not follow"):
        storage.stage(GROUP, META, len(first), second, False)
    stage(storage)
    storage.forget(GROUP)
    with pytest.raises(Internal, match="no complete snapshot is staged"):
        storage.install(GROUP, SHARD)


@pytest.mark.parametrize(("failure", "expected"), [(errno.ENOSPC, DiskFull), (errno.EIO, Internal)])
def test_a_disk_that_fails_while_forgetting_is_told(
    tmp_path: Path, failure: int, expected: type[Exception]
) -> None:
    files, _ = forgotten_until_crash(tmp_path, promised, 1)
    storage = SnapshotStorage(MemoryEngine(), tmp_path, files)
    for at in range(1, 5):
        files.fuse = Fuse(at, lambda: OSError(failure, "injected"))
        with pytest.raises(expected, match=f"group {GROUP}: "):
            storage.forget(GROUP)
    files.fuse = Fuse(0)
    storage.forget(GROUP)
    assert not list(tmp_path.glob(f"g{GROUP}.*"))
