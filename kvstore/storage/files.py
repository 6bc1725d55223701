"""What the log and the snapshots do to files: a seam, so that tests can make disks fail."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from kvstore.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PIECES_MAX = 1024
"""How many buffers one ``pwritev`` takes (IOV_MAX)."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOSSES = (errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR)
"""The disk failed, or the file system is broken, or there is a directory in a file's place.
Any other error (a missing permission, too many open files) says nothing about the data."""


class Files(Protocol):
    """File operations that may fail; each blocks, each raises ``OSError``."""

    def create(self, path: Path) -> int:
        """A new, empty file, open for writing; an existing one is emptied."""
        ...

    def open(self, path: Path) -> int:
        """An existing file, open for reading and writing."""
        ...

    def allocate(self, fd: int, size: int) -> None:
        """Reserve ``size`` bytes, which read as zeros."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        ...

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        """Write all of ``pieces``, one after the other, from ``offset`` on."""
        ...

    def sync_data(self, fd: int) -> None:
        """Make what was written durable (``fdatasync``)."""
        ...

    def sync(self, fd: int) -> None:
        """Make data and size durable (``fsync``)."""
        ...

    def close(self, fd: int) -> None:
        """Close the file."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Atomically give ``old`` the name ``new``."""
        ...

    def remove(self, path: Path) -> None:
        """Remove the file's name."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and removals in the directory durable."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Room for more on the file system that holds ``path``."""
        ...


class OsFiles:
    """The real thing."""

    def create(self, path: Path) -> int:
        """See :class:`Files`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """See :class:`Files`."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, fd: int, size: int) -> None:
        """See :class:`Files`."""
        os.posix_fallocate(fd, 0, size)

    def truncate(self, fd: int, size: int) -> None:
        """See :class:`Files`."""
        os.ftruncate(fd, size)

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        """See :class:`Files`."""
        remaining = iter(pieces)
        while some := list(islice(remaining, PIECES_MAX)):
            size = sum(map(len, some))
            written = os.pwritev(fd, some, offset)
            if written < size:
                _write_rest(fd, memoryview(b"".join(some))[written:], offset + written)
            offset += size

    def sync_data(self, fd: int) -> None:
        """See :class:`Files`."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """See :class:`Files`."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """See :class:`Files`."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """See :class:`Files`."""
        old.rename(new)

    def remove(self, path: Path) -> None:
        """See :class:`Files`."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """See :class:`Files`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """See :class:`Files`."""
        space = os.statvfs(path)
        return space.f_bavail * space.f_frsize


def _write_rest(fd: int, data: memoryview, offset: int) -> None:
    """Finish a short write; the next attempt says why it was short, if there is a reason."""
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def is_full(error: OSError) -> bool:
    """Whether there was no room: it may be tried again later."""
    return error.errno in _FULL


def is_loss(error: OSError) -> bool:
    """Whether what could not be read is as good as gone."""
    return error.errno in _LOSSES


def sync_data(files: Files, fd: int, path: Path) -> None:
    """``fdatasync``; see :func:`_failed`."""
    try:
        files.sync_data(fd)
    except OSError as error:
        raise _failed("fdatasync", path, error) from error


def sync(files: Files, fd: int, path: Path) -> None:
    """``fsync``; see :func:`_failed`."""
    try:
        files.sync(fd)
    except OSError as error:
        raise _failed("fsync", path, error) from error


def sync_directory(files: Files, path: Path) -> None:
    """``fsync`` of a directory; see :func:`_failed`."""
    try:
        files.sync_directory(path)
    except OSError as error:
        raise _failed("fsync", path, error) from error


def _failed(what: str, path: Path, error: OSError) -> Internal:
    """The error that ends the process, whatever the reason was, a full disk too.

    After a failed ``fsync`` the kernel may have dropped the pages and report success the
    next time (fsyncgate; Rebello et al., USENIX ATC 2020), so it is never retried.
    """
    return Internal(f"{what} of {path} failed: {error}; nothing after it can be trusted")


def make_directory(files: Files, path: Path) -> None:
    """Make ``path`` a directory whose name is durable, and so what is synced in it.

    One that is there already is synced as well: its maker may have died before. If the
    directory above is missing it is made in the same way.

    Raises:
        OSError: it cannot be made or synced.
    """
    try:
        path.mkdir(exist_ok=True)
    except FileNotFoundError:
        make_directory(files, path.parent)
        path.mkdir(exist_ok=True)
    # Where one may not read one has, as a rule, not made anything either.
    with suppress(PermissionError):
        files.sync_directory(path.parent)


def write_file_atomically(files: Files, path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: after a crash the old or the new content is there, durable.

    Raises:
        OSError: the old content is still there, or, if it was the last sync that failed, one
            of the two. Unlike a log it is written anew as a whole, so it may be tried again.
    """
    new = path.with_name(path.name + ".new")
    fd = files.create(new)
    try:
        files.write(fd, [data], 0)
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(new, path)
    files.sync_directory(path.parent)
