"""A disk in memory that forgets like a real one.

What was written shows at once to whoever reads, as from a page cache. Until it is synced it
is remembered how to undo it, and :meth:`SimDisk.lose_power` undoes some, all or none of it, in
sectors of 512 bytes; changes to names since the directory was synced are undone from the
last one back. A killed process loses nothing of that by itself.

After a *failed* sync the pages count as clean although the disk never got them (Rebello et
al., USENIX ATC 2020): later syncs do not help, only writing to the same page again does.

Any operation may fail, be the one at which the process dies, or the one at which the power
goes: so a write may be caught before its sync.
"""

from __future__ import annotations

import errno
import io
import itertools
import re
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SECTOR_BYTES = 512
PAGE_BYTES = 4096
FREE_BYTES = 1 << 40


class DiskCrash(BaseException):
    """The process dies in the middle of an operation."""

    def __init__(self, *, is_power_lost: bool) -> None:
        super().__init__()
        self.is_power_lost = is_power_lost


class Fault(Enum):
    """What the next operation of its kind may fail with ``EIO``."""

    SYNC = "sync"
    DIRECTORY_SYNC = "sync a directory"
    WRITE = "write"
    METADATA = "create, rename or remove"


@dataclass(eq=False)
class Inode:
    """A file's content, and how to take back what no sync has covered."""

    data: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)
    """Offset and what stood there, oldest first."""
    sizes: list[bytes] = field(default_factory=list)
    """The whole content before each change of the size."""
    lost: list[tuple[int, bytes]] = field(default_factory=list)
    """Like ``unsynced``, of a sync that failed."""

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.data):
            self.resize(end)
        self._dirty_again(offset - offset % PAGE_BYTES, end + -end % PAGE_BYTES)
        self.unsynced.append((offset, bytes(self.data[offset:end])))
        self.data[offset:end] = data

    def _dirty_again(self, start: int, end: int) -> None:
        """What a failed sync lost of these pages is on its way to the disk once more."""
        lost, self.lost = self.lost, []
        for at, before in lost:
            cuts = sorted(
                {0, len(before), *(c - at for c in (start, end) if 0 < c - at < len(before))}
            )
            for low, high in itertools.pairwise(cuts):
                again = start <= at + low and at + high <= end
                (self.unsynced if again else self.lost).append((at + low, before[low:high]))

    def resize(self, size: int) -> None:
        self.sizes.append(bytes(self.data))
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def synced(self) -> None:
        self.unsynced.clear()
        self.sizes.clear()

    def sync_failed(self) -> None:
        self.lost += self.unsynced
        self.unsynced.clear()

    def lose_power(self, rng: random.Random) -> int:
        """Undo some, all or none of what was not synced; how many writes that hit."""
        share = rng.choice((0.0, 0.5, 1.0))
        if self.sizes and rng.random() < share:
            self.data = bytearray(self.sizes[0])
        undone = [
            self._tear(offset, before, share, rng)
            for offset, before in reversed(self.lost + self.unsynced)
        ]
        self.synced()
        self.lost.clear()
        return sum(undone)

    def _tear(self, offset: int, before: bytes, share: float, rng: random.Random) -> bool:
        """Undo a write sector by sector; what lies beyond the file's end is gone anyway."""
        start, end = offset, min(offset + len(before), len(self.data))
        is_torn = False
        while start < end:
            stop = min(start - start % SECTOR_BYTES + SECTOR_BYTES, end)
            if rng.random() < share:
                self.data[start:stop] = before[start - offset : stop - offset]
                is_torn = True
            start = stop
        return is_torn


class SimDisk:
    """One node's files: :class:`kvstore.storage.files.Files` in memory."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names: dict[str, Inode] = {}
        self._renamed: dict[str, list[dict[str, Inode | None]]] = {}
        """By directory: what each name stood for before each change that no sync covers."""
        self._fds: dict[int, Inode] = {}
        self._next_fd = 3
        self.crash_in: int | None = None
        """The process dies after so many more operations, of files or of the network."""
        self.crash_takes_power = False
        """That takes along what was not synced."""
        self.is_full = False
        self.fault: Fault | None = None
        """What fails next, once."""
        self.has_failed = False
        """An operation failed with EIO since the process started."""
        self.has_refused = False
        """An operation found no room since the process started."""
        self.refusals = 0
        """Operations that found no room, ever."""
        self.writes_lost = 0
        """Unsynced ones that a power cut undid, at least in part."""

    def path(self, text: str) -> Path:
        """A path on this disk. Not a ``Path``, but all of one that the storage code uses."""
        return cast("Path", SimPath(text, self))

    # -- Files ------------------------------------------------------------------------------

    def create(self, path: Path) -> int:
        self._step(Fault.METADATA)
        inode = Inode()
        self._change(str(path.parent), {str(path): inode})
        return self._opened(inode)

    def open(self, path: Path) -> int:
        return self._opened(self.inode(str(path)))

    def allocate(self, fd: int, size: int) -> None:
        self._step(Fault.WRITE)
        if self.is_full:
            raise self.no_room()
        inode = self._fds[fd]
        inode.resize(max(size, len(inode.data)))

    def truncate(self, fd: int, size: int) -> None:
        self.step()
        self._fds[fd].resize(size)

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        data = b"".join(pieces)
        inode = self._fds[fd]
        if self.is_full and offset + len(data) > len(inode.data):
            raise self.no_room()
        if self.crash_in == 0 or self.fault is Fault.WRITE:
            inode.write(offset, data[: self._rng.randint(0, len(data))])
        self._step(Fault.WRITE)
        inode.write(offset, data)

    def sync_data(self, fd: int) -> None:
        self.sync(fd)

    def sync(self, fd: int) -> None:
        if self.fault is Fault.SYNC:
            self._fds[fd].sync_failed()
        self._step(Fault.SYNC)
        self._fds[fd].synced()

    def close(self, fd: int) -> None:
        del self._fds[fd]

    def rename(self, old: Path, new: Path) -> None:
        self._step(Fault.METADATA)
        inode = self.inode(str(old))
        self._change(str(old.parent), {str(old): None, str(new): inode})

    def remove(self, path: Path) -> None:
        self._step(Fault.METADATA)
        self.inode(str(path))
        self._change(str(path.parent), {str(path): None})

    def sync_directory(self, path: Path) -> None:
        self._step(Fault.DIRECTORY_SYNC)
        self._renamed.pop(str(path), None)

    def free_bytes(self, path: Path) -> int:
        return 0 if self.is_full else FREE_BYTES

    # -- what befalls it --------------------------------------------------------------------

    def step(self) -> None:
        """One more operation; the one at which the process dies does not take place."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise DiskCrash(is_power_lost=self.crash_takes_power)

    def _step(self, kind: Fault) -> None:
        """One more operation, of a kind that may fail."""
        self.step()
        if self.fault is kind:
            self.fault = None
            self.has_failed = True
            raise OSError(errno.EIO, f"the simulated disk failed to {kind.value}")

    def no_room(self) -> OSError:
        self.has_refused = True
        self.refusals += 1
        return OSError(errno.ENOSPC, "no space left on the simulated disk")

    def process_died(self) -> None:
        """Its files are closed; the page cache keeps what it holds."""
        self._fds.clear()
        self.crash_in = None
        self.has_failed = self.has_refused = False

    def lose_power(self) -> None:
        for changes in self._renamed.values():
            for _ in range(self._rng.randint(0, len(changes))):
                self._put_back(changes.pop())
        self._renamed.clear()
        for inode in self._names.values():
            self.writes_lost += inode.lose_power(self._rng)

    def flip_a_bit(self, path: Path, offset: int, bit: int) -> None:
        self.inode(str(path)).data[offset] ^= 1 << bit

    # -- names ------------------------------------------------------------------------------

    def inode(self, name: str) -> Inode:
        found = self._names.get(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return found

    def has(self, name: str) -> bool:
        return name in self._names

    def names_in(self, directory: str) -> list[str]:
        return sorted(name for name in self._names if name.startswith(directory + "/"))

    def _change(self, directory: str, change: dict[str, Inode | None]) -> None:
        before = {name: self._names.get(name) for name in change}
        self._renamed.setdefault(directory, []).append(before)
        self._put_back(change)

    def _put_back(self, change: dict[str, Inode | None]) -> None:
        for name, inode in change.items():
            if inode is None:
                self._names.pop(name, None)
            else:
                self._names[name] = inode

    def _opened(self, inode: Inode) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = inode
        return self._next_fd


@dataclass(frozen=True, order=True)
class SimPath:
    """The part of ``pathlib.Path`` that the storage code uses; see :meth:`SimDisk.path`."""

    text: str
    disk: SimDisk = field(compare=False, repr=False)

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(f"{self.text}/{name}", self.disk)

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> SimPath:
        return SimPath(self.text.rpartition("/")[0], self.disk)

    def with_name(self, name: str) -> SimPath:
        return self.parent / name

    def exists(self) -> bool:
        return self.disk.has(self.text)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Directories are only prefixes of names here."""

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.disk.inode(self.text).data))

    def unlink(self, *, missing_ok: bool = False) -> None:
        if self.exists() or not missing_ok:
            self.disk.remove(self.disk.path(self.text))

    def iterdir(self) -> Iterator[SimPath]:
        return (SimPath(name, self.disk) for name in self.disk.names_in(self.text))

    def glob(self, pattern: str) -> Iterator[SimPath]:
        wanted = re.compile(re.escape(pattern).replace(r"\*", "[^/]*"))
        return (path for path in self.iterdir() if wanted.fullmatch(path.name))

    def read_bytes(self) -> bytes:
        return bytes(self.disk.inode(self.text).data)

    def open(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())
