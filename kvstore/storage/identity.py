"""Whose data directory this is: the lock on it and the file that names its node.

A data directory belongs to one process at a time, and for life to one node of one cluster
(:mod:`kvstore.storage.identity_file`). A node that comes back with another one has lost what
it vouched for (see :mod:`kvstore.server.handshake`). The directories of the peers that were
met are kept here as *pins*; a pin gives way only to one of a later life.

Everything in this module blocks; run it in a thread.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvstore.errors import CorruptionError, DataDirectoryError, Refused, of_file
from kvstore.storage import identity_file
from kvstore.storage.files import OsFiles, make_directory
from kvstore.storage.identity_file import IDENTITY_FILE, Content, Owner, Pin
from kvstore.storage.segment_files import segment_name, segment_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvstore.ids import NodeId

__all__ = ["IDENTITY_FILE", "Identity", "Owner", "Pin", "lock", "open_identity"]

LOCK_FILE = "lock"
LOG_DIRECTORY = "wal"
"""In a data directory; where a node's log is."""


class Identity:
    """A locked data directory. Invariant: ``pins`` holds only what is on the disk."""

    def __init__(self, data_dir: Path, lock_fd: int, content: Content) -> None:
        self.data_id: Final = content.own.data_id
        """Random, 64 bits, never 0; made with the directory."""
        self.life: Final = content.own.life
        """0 for a directory that was founded with the cluster; higher for each repaired one."""
        self._data_dir = data_dir
        self._lock_fd: int | None = lock_fd
        self._content = content
        self._changing = threading.Lock()

    @property
    def pins(self) -> Mapping[NodeId, Pin]:
        """The directories of the peers that were met; replaced, never changed in place."""
        return self._content.pins

    def pin(self, node: NodeId, data_id: int, life: int = 0) -> None:
        """Remember durably which data directory ``node`` has.

        Raises:
            Refused: another one is remembered, of the same or a later life.
            OSError: the disk fails or is full; it may be tried again.
        """
        pin = Pin(data_id, life)
        with self._changing:
            known = self.pins.get(node)
            if known == pin:
                return
            if known is not None and pin.life <= known.life:
                raise Refused(f"node {node} has another data directory than before")
            self._save(replace(self._content, pins={**self.pins, node: pin}))

    def count_start(self) -> int:
        """One more process uses the directory; how many that makes.

        Raises:
            OSError: the disk fails or is full: the next one may be given the same number.
        """
        with self._changing:
            self._save(replace(self._content, starts=self._content.starts + 1))
            return self._content.starts

    @property
    def starts(self) -> int:
        """How many processes have begun to use the directory, as the disk has it."""
        return self._content.starts

    def begin_log(self) -> None:
        """From now on there is a log: a start that does not find it is refused.

        Raises:
            OSError: the disk fails or is full; it may be tried again.
        """
        with self._changing:
            if not self._content.log_begun:
                self._save(replace(self._content, log_begun=True))

    @property
    def has_map(self) -> bool:
        """Whether a shard map was written down here."""
        return self._content.has_map

    def note_map(self) -> None:
        """From now on there is a shard map: a start that does not find it is refused.

        Raises:
            OSError: the disk fails or is full; it may be tried again.
        """
        with self._changing:
            if not self._content.has_map:
                self._save(replace(self._content, has_map=True))

    def check_log(self) -> None:
        """See whether the log is where it was begun.

        Raises:
            CorruptionError: it is gone. What was promised with it is not known any more.
            DataDirectoryError: its directory cannot be looked into.
        """
        directory = self._data_dir / LOG_DIRECTORY
        try:
            is_there = bool(segment_paths(directory))
        except OSError as error:
            raise DataDirectoryError(f"{directory} cannot be read: {error}") from error
        if self._content.log_begun and not is_there:
            raise CorruptionError(
                "the log is gone, and with it votes and entries",
                file=str(directory / segment_name(1)),
                offset=0,
            )

    def release(self) -> None:
        """Let another process have the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _save(self, content: Content) -> None:
        identity_file.save(OsFiles(), self._data_dir, content)
        self._content = content


def open_identity(
    data_dir: Path,
    *,
    cluster_id: str,
    node_id: NodeId,
    facts: Mapping[str, str] | None = None,
) -> Identity:
    """Lock ``data_dir`` for this process and check whose it is; a new one becomes this node's.

    Args:
        data_dir: made if it is not there.
        cluster_id: of the configuration; must be what it was at the first start.
        node_id: likewise.
        facts: settings by name that must stay what they were at the first start.

    Raises:
        DataDirectoryError: in use by another process, someone else's, of a newer format or
            unreadable; one line that says what to do.
    """
    owner = Owner(cluster_id, node_id, facts or {})
    lock_fd = lock(data_dir)
    try:
        content = _load_or_found(data_dir, owner)
        identity_file.check_owner(data_dir, content.owner, owner)
        if content.setting_aside:
            raise DataDirectoryError(
                f"a repair of data directory {data_dir} was interrupted; finish it",
                is_repairable=True,
            )
    except BaseException:
        os.close(lock_fd)
        raise
    return Identity(data_dir, lock_fd, content)


def lock(data_dir: Path) -> int:
    """Take the lock of ``data_dir``, which is made if it is not there.

    The kernel drops it when the process ends, however it ends.

    Returns:
        The file descriptor; closing it lets another process have the directory.

    Raises:
        DataDirectoryError: another process has it, or it cannot be made.
    """
    try:
        make_directory(OsFiles(), data_dir)
        return _lock(data_dir)
    except FileExistsError as error:
        raise DataDirectoryError(f"data directory {data_dir} is not a directory") from error
    except OSError as error:
        where = of_file(error, data_dir)
        raise DataDirectoryError(f"the data directory cannot be used: {where}") from error


def _lock(data_dir: Path) -> int:
    fd = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    except BlockingIOError as error:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise DataDirectoryError(
            f"data directory {data_dir} is in use by another process (pid {holder or 'unknown'}); "
            "stop it first, or give this node a directory of its own"
        ) from error
    except OSError:
        os.close(fd)
        raise
    return fd


def _load_or_found(data_dir: Path, owner: Owner) -> Content:
    content = identity_file.load(data_dir)
    if content is not None:
        return content
    try:
        _check_is_empty(data_dir)
        content = Content(owner, Pin(new_data_id()))
        identity_file.save(OsFiles(), data_dir, content)
    except OSError as error:
        where = of_file(error, data_dir / IDENTITY_FILE)
        raise DataDirectoryError(f"the identity cannot be read or written: {where}") from error
    return content


def new_data_id() -> int:
    """An id that no other data directory has."""
    return secrets.randbits(64) or 1


def _check_is_empty(data_dir: Path) -> None:
    ours = {LOCK_FILE, IDENTITY_FILE + ".new"}
    others = sorted(entry.name for entry in data_dir.iterdir() if entry.name not in ours)
    if others:
        raise DataDirectoryError(
            f"data directory {data_dir} holds {others[0]} but no {IDENTITY_FILE}; "
            "give the node an empty directory, restore the file, or repair the node",
            is_repairable=True,
        )
