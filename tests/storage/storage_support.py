"""Disks that fail in known ways, and short ways to open a log."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.config import WalConfig
from kvstore.storage.files import Files, OsFiles
from kvstore.storage.wal import RecoveredLog, Wal, open_wal

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

SMALL = WalConfig(segment_bytes=8192, live_bytes_max=1 << 20, reserve_bytes=2048)


@dataclass
class Owner:
    """Who opened a log: what it was told."""

    fatal: list[BaseException] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_fatal(self, error: BaseException) -> None:
        self.fatal.append(error)
        self.changed.set()

    def on_disk_full(self, full: bool) -> None:
        self.full.append(full)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def open_log(
    directory: Path,
    owner: Owner | None = None,
    *,
    files: Files | None = None,
    config: WalConfig = SMALL,
    applied: dict[int, int] | None = None,
    held: dict[int, int] | None = None,
) -> tuple[Wal, dict[int, RecoveredLog]]:
    owner = owner or Owner()
    wal, logs = await open_wal(
        directory,
        cluster_id="c",
        node_id="n1",
        config=config,
        on_fatal=owner.on_fatal,
        on_disk_full=owner.on_disk_full,
        applied=applied,
        held=held,
        files=files,
    )
    return wal, logs


async def durable(wal: Wal, records: Sequence[bytes]) -> None:
    """Append and wait until it is durable."""
    done = asyncio.Event()
    wal.append(records, done.set)
    async with asyncio.timeout(10):
        await done.wait()


class FaultyFiles(OsFiles):
    """The real disk, but ``fault(operation, path or fd)`` may raise before each operation."""

    def __init__(self) -> None:
        self.fault: Callable[[str, object], None] = lambda operation, target: None
        self.operations: list[str] = []

    def _step(self, operation: str, target: object) -> None:
        self.operations.append(operation)
        self.fault(operation, target)

    def create(self, path: Path) -> int:
        self._step("create", path)
        return super().create(path)

    def open(self, path: Path) -> int:
        self._step("open", path)
        return super().open(path)

    def allocate(self, fd: int, size: int) -> None:
        self._step("allocate", size)
        super().allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate", fd)
        super().truncate(fd, size)

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        self._step("write", fd)
        super().write(fd, pieces, offset)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data", fd)
        super().sync_data(fd)

    def sync(self, fd: int) -> None:
        self._step("sync", fd)
        super().sync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename", new)
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step("remove", path)
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._step("sync_directory", path)
        super().sync_directory(path)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


class Crash(BaseException):
    """The machine went down in the middle of an operation."""


@dataclass
class _Inode:
    """A file: what the disk has, what the page cache shows, and the changes in between."""

    synced: bytearray = field(default_factory=bytearray)
    cache: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


_NameChange = dict[str, _Inode | None]


class CrashingDisk:
    """Files in memory over a real directory, which shows what is read after the next start.

    After ``crash_after`` operations the process dies. Then either :meth:`kill` (the machine
    goes on: what was written is still in the page cache) or :meth:`lose_power`: of writes
    that were not synced each sector is kept or lost by itself, of changes to names some are
    kept, a new size is kept or lost. A write in which the process dies ends at any byte. A
    file's unwritten bytes are zeros.
    """

    PAGE = 4096
    SECTOR = 512

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self._left = 0
        self._sync_fails = False
        self._fds: dict[int, _Inode] = {}
        self._next_fd = 100
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: list[_NameChange] = []

    def start(self, crash_after: int, *, by_failed_sync: bool = False) -> None:
        """A process starts; it dies at that operation, or at the next sync after it."""
        self._left = crash_after
        self._sync_fails = by_failed_sync
        self._fds.clear()
        shown = {path.name for path in self._directory.iterdir()}
        for name in self._names.keys() - shown:  # The log removes a spare file by itself.
            self._change({name: None})

    # -- Files --------------------------------------------------------------------------------

    def create(self, path: Path) -> int:
        self._step()
        inode = _Inode()
        self._change({path.name: inode})
        return self._open(inode)

    def open(self, path: Path) -> int:
        return self._open(self._names[path.name])

    def allocate(self, fd: int, size: int) -> None:
        inode = self._fds[fd]
        self.truncate(fd, max(size, len(inode.cache)))

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        inode = self._fds[fd]
        inode.sizes.append(size)
        _resize(inode.cache, size)

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        data = b"".join(pieces)
        if self._is_last_step():
            data = data[: self._rng.randint(0, len(data))]
        inode = self._fds[fd]
        if offset + len(data) > len(inode.cache):
            _resize(inode.cache, offset + len(data))
            inode.sizes.append(len(inode.cache))
        inode.cache[offset : offset + len(data)] = data
        # Whole pages get dirty, and what is written to the disk is what the cache shows.
        start = offset - offset % self.PAGE
        end = -(-(offset + len(data)) // self.PAGE) * self.PAGE
        inode.pending.append((start, bytes(inode.cache[start:end])))
        self._step()

    def sync_data(self, fd: int) -> None:
        self.sync(fd)

    def sync(self, fd: int) -> None:
        inode = self._fds[fd]
        if self._left <= 0 and self._sync_fails:
            # The pages count as clean from now on, but the disk has only some of them.
            inode.synced = self._survivor(inode)
            inode.pending.clear()
            inode.sizes.clear()
            raise Crash
        self._step()
        _resize(inode.synced, len(inode.cache))
        for offset, data in inode.pending:
            inode.synced[offset : offset + len(data)] = data
        _resize(inode.synced, len(inode.cache))
        inode.pending.clear()
        inode.sizes.clear()
        self._step()

    def close(self, fd: int) -> None:
        del self._fds[fd]

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        self._change({old.name: None, new.name: self._names[old.name]})

    def remove(self, path: Path) -> None:
        self._step()
        self._change({path.name: None})

    def sync_directory(self, path: Path) -> None:
        self._step()
        if path != self._directory:
            return
        self._durable_names = dict(self._names)
        self._name_changes.clear()

    # -- the end ------------------------------------------------------------------------------

    def kill(self) -> None:
        """Only the process died."""
        self._show({name: inode.cache for name, inode in self._names.items()})

    def lose_power(self) -> None:
        """What was not synced may be lost."""
        names = dict(self._durable_names)
        some = self._rng.random() < 0.5
        kept = self._rng.randint(0, len(self._name_changes))
        for number, change in enumerate(self._name_changes):
            if self._rng.random() < 0.5 if some else number < kept:
                _apply(names, change)
        self._names = {
            name: _Inode(survivor, bytearray(survivor))
            for name, inode in names.items()
            for survivor in [self._survivor(inode)]
        }
        self._durable_names = dict(self._names)
        self._name_changes.clear()
        self.kill()

    def _show(self, files: dict[str, bytearray]) -> None:
        for path in self._directory.iterdir():
            path.unlink()
        for name, data in files.items():
            (self._directory / name).write_bytes(data)

    def _survivor(self, inode: _Inode) -> bytearray:
        found = bytearray(inode.synced)
        _resize(found, self._rng.choice([len(found), *inode.sizes]))
        for offset, data in inode.pending:
            self._tear(found, offset, data)
        return found

    def _tear(self, into: bytearray, offset: int, data: bytes) -> None:
        """Keep some sectors of a write, or all, or none. A sector is written whole."""
        share = self._rng.choice((0.0, 0.5, 1.0))
        for start in range(offset, min(offset + len(data), len(into)), self.SECTOR):
            end = min(start + self.SECTOR, offset + len(data), len(into))
            if self._rng.random() < share:
                into[start:end] = data[start - offset : end - offset]

    def _is_last_step(self) -> bool:
        return self._left <= 0 and not self._sync_fails

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0 and not self._sync_fails:
            raise Crash

    def _open(self, inode: _Inode) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = inode
        return self._next_fd

    def _change(self, change: _NameChange) -> None:
        self._name_changes.append(change)
        _apply(self._names, change)


def _apply(names: dict[str, _Inode], change: _NameChange) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))
