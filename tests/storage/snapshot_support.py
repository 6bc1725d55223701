"""A disk that dies at a given step, and a snapshot to be stored on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import GroupId, LogIndex, ReplicaId, ShardId, Term
from kvstore.raft.messages import GroupConfig, SnapshotMeta
from kvstore.storage import snapshot_stream
from kvstore.storage.files import OsFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kvstore.storage.snapshots import SnapshotStorage

SHARD, GROUP = ShardId(3), GroupId(4)
META = SnapshotMeta(LogIndex(70), Term(5), GroupConfig((ReplicaId(1),)))
NEW = {b"\x00\x03\x00applied": b"70"} | {b"\x00\x03\x03k%d" % n: b"v" * 40 for n in range(8)}


class CrashError(Exception):
    """The process ends here."""


class Fuse:
    """Blows at the ``at``-th step that may fail."""

    def __init__(self, at: int, error: Callable[[], Exception] = CrashError) -> None:
        self.left = at
        self.error = error

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error()


class FusedFiles(OsFiles):
    """Real files. Every change is a step: the fuse blows before it is made."""

    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse
        self.paths: dict[int, Path] = {}
        self.synced: dict[Path, bytes] = {}
        """The durable content by name, as if each name were durable with its file."""

    def create(self, path: Path) -> int:
        self.fuse.burn()
        fd = super().create(path)
        self.paths[fd] = path
        self.synced[path] = b""
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self.paths[fd] = path
        return fd

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        self.fuse.burn()
        super().write(fd, pieces, offset)

    def sync(self, fd: int) -> None:
        self.fuse.burn()
        super().sync(fd)
        self.synced[self.paths[fd]] = self.paths[fd].read_bytes()

    def rename(self, old: Path, new: Path) -> None:
        self.fuse.burn()
        super().rename(old, new)
        self.synced[new] = self.synced.pop(old) if old in self.synced else new.read_bytes()

    def remove(self, path: Path) -> None:
        self.fuse.burn()
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self.fuse.burn()
        super().sync_directory(path)
        for gone in [name for name in self.synced if name.parent == path and not name.exists()]:
            del self.synced[gone]

    def lose_what_is_not_synced(self) -> None:
        for path, content in self.synced.items():
            path.write_bytes(content)


def pieces_of(rows: dict[bytes, bytes]) -> list[bytes]:
    stream = b"".join(snapshot_stream.encode((key[2:], value) for key, value in rows.items()))
    return [stream[at : at + 100] for at in range(0, len(stream), 100)]


def stage(storage: SnapshotStorage) -> None:
    pieces, offset = pieces_of(NEW), 0
    for number, piece in enumerate(pieces, start=1):
        storage.stage(GROUP, META, offset, piece, number == len(pieces))
        offset += len(piece)
