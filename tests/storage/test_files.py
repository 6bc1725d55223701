"""What is made on the disk has a name that outlives a power cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from snapshot_support import GROUP, META
from storage_support import SMALL

from kvstore.config import EngineConfig
from kvstore.ids import NodeId
from kvstore.storage.files import OsFiles, make_directory
from kvstore.storage.identity import open_identity
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.recovery import Recovery
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that were synced, in order."""
    made: list[Path] = []
    monkeypatch.setattr(OsFiles, "sync_directory", lambda _, path: made.append(path))
    return made


def test_every_directory_that_is_made_is_synced_in_the_one_above(
    tmp_path: Path, synced: list[Path]
) -> None:
    make_directory(OsFiles(), tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_one_whose_maker_may_have_died_before_the_sync_is_synced(
    tmp_path: Path, synced: list[Path]
) -> None:
    (tmp_path / "a").mkdir()
    make_directory(OsFiles(), tmp_path / "a")
    assert synced == [tmp_path]


def test_one_may_live_where_nobody_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: OsFiles, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(OsFiles, "sync_directory", refuse)
    make_directory(OsFiles(), tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        make_directory(OsFiles(), tmp_path / "a")
    with pytest.raises(NotADirectoryError):
        make_directory(OsFiles(), tmp_path / "a" / "b")


def identity(path: Path) -> None:
    open_identity(path, cluster_id="c", node_id=NodeId("n1")).release()


def engine(path: Path) -> None:
    RocksEngine(path, EngineConfig()).close()


def log(path: Path) -> None:
    Recovery(path, OsFiles(), SMALL, cluster_id="c", node_id="n1", applied={}).look()


def snapshots(path: Path) -> SnapshotStorage:
    return SnapshotStorage(MemoryEngine(), path)


@pytest.mark.parametrize(
    "make",
    [
        *(identity, engine, log),
        lambda path: snapshots(path).pending_installs(),
        lambda path: snapshots(path).stage(GROUP, META, 0, b"", is_last=False),
        lambda path: snapshots(path).forget(GROUP),
    ],
    ids=[
        *("the data directory", "the engine's", "the log's"),
        *("snapshots' at the start", "snapshots' for the first", "snapshots' to forget one"),
    ],
)
def test_what_a_node_makes_first_is_synced_before_anything_in_it(
    tmp_path: Path, synced: list[Path], make: Callable[[Path], object]
) -> None:
    make(tmp_path / "made")
    assert synced[0] == tmp_path
