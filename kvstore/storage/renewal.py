"""Gives a node whose stored bytes are lost or damaged an empty data directory, in a new life.

The old life's votes and entries must never count again, so nothing of it is kept but what
names the node and its peers; the rest is moved to ``damaged-<life>`` within the directory,
where ``<life>`` is the *new* life. A life must never be used twice: it is the upper half of
the node's replica ids. It is the wall clock's second, or one more than any life that can
still be read here. Should both fail (the disk is wiped and the clock goes back), then peers
that know a later life, or another directory of the same one, turn the node away.

Three steps, each durable before the next. A crash in between leaves the state before it::

    step                                         what a start does until the next step
    -----------------------------------------   --------------------------------------------
    0  (nothing yet)                             refuses the damage, as before
    1  identity.json: new life, and that the     refuses: a repair was interrupted. The next
       old data is being set aside               repair goes on here, with the same new life
    2  all PARTS are moved                       (the same)
    3  identity.json: nothing is left to do      starts empty, as a member of no group

So there is no moment at which old data could be taken for that of the new life, or the other
way round. Everything in this module blocks.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvstore.errors import CorruptionError, DataDirectoryError, StartupError
from kvstore.ids import LIFE_MAX
from kvstore.storage import identity_file
from kvstore.storage.files import Files, OsFiles, write_file_atomically
from kvstore.storage.identity import LOCK_FILE, Identity, lock, new_data_id
from kvstore.storage.identity_file import IDENTITY_FILE, Content, Owner, Pin
from kvstore.storage.map_file import MAP_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS: Final = ("wal", "engine", "snapshots", MAP_FILE)
"""All that a node keeps of the store in its data directory: directories, and a file.

The map says as which replicas the old data was here. The new life has none of them: it begins
from the configuration's map and pulls a later one, as a new node does.
"""

_SET_ASIDE = re.compile(r"damaged-(\d+)")


@dataclass(frozen=True, slots=True)
class Renewed:
    """A data directory that is empty and ready for a new life."""

    life: int
    set_aside: Path | None
    """Where the old data is now; None if there was none."""


class Renewal:
    """A data directory, locked if it exists, whose node may begin a new life in it."""

    def __init__(self, data_dir: Path, owner: Owner, files: Files) -> None:
        self._data_dir = data_dir
        self._lock_fd: int | None = None
        self._owner = owner
        self._files = files
        self._content: Content | None = None
        self.damage: StartupError | None = None
        """What is wrong with the directory as far as can be told without reading the data."""

    @property
    def life(self) -> int | None:
        """The life of the directory as it is, None if that cannot be read."""
        return None if self._content is None else self._content.own.life

    @property
    def has_map(self) -> bool:
        """Whether a shard map was written down in the directory as it is."""
        return self._content is not None and self._content.has_map

    def hold(self) -> None:
        """Lock the directory, which is made if it is not there.

        Raises:
            DataDirectoryError: in use by another process, or it cannot be made.
        """
        self._lock_fd = lock(self._data_dir)

    def look(self) -> None:
        """Read the identity and see whose it is.

        Raises:
            DataDirectoryError: somebody else's, a newer version's, or it cannot be read at all.
        """
        try:
            self._content = identity_file.load(self._data_dir)
        except DataDirectoryError as error:
            if not error.is_repairable:
                raise
            self.damage = error
            return
        if self._content is None:
            self.damage = self._without_identity()
            return
        identity_file.check_owner(self._data_dir, self._content.owner, self._owner)
        if self._content.setting_aside:
            self.damage = DataDirectoryError(f"a repair of {self._data_dir} was interrupted")
            return
        try:
            Identity(self._data_dir, -1, self._content).check_log()
        except CorruptionError as error:
            self.damage = error

    def _without_identity(self) -> DataDirectoryError:
        if self._lock_fd is None:
            return DataDirectoryError(
                f"data directory {self._data_dir} is not there: what it held is lost"
            )
        parts = self._parts()
        if parts:
            return DataDirectoryError(
                f"data directory {self._data_dir} holds {parts[0]} but no {IDENTITY_FILE}"
            )
        strangers = sorted(entry.name for entry in self._data_dir.iterdir() if _is_strange(entry))
        state = f"holds {strangers[0]} but nothing of a node" if strangers else "is empty"
        return DataDirectoryError(f"data directory {self._data_dir} {state}: what it held is lost")

    def _check_movable(self) -> None:
        for path in (self._data_dir / part for part in self._parts()):
            if os.path.ismount(path):
                raise DataDirectoryError(
                    f"{path} is a mount point and cannot be moved aside: unmount it, repair, and "
                    "give the node an empty file system there"
                )

    def _parts(self) -> list[str]:
        return [part for part in PARTS if os.path.lexists(self._data_dir / part)]

    def renew(self, wall_s: int) -> Renewed:
        """Set the old data aside and begin a new life, or finish what a crash interrupted.

        Args:
            wall_s: the wall clock, whole seconds since the Unix epoch.

        Raises:
            StartupError: the clock cannot be right, the directory was not there and is now, or
                the data cannot be moved; nothing was changed.
            OSError: the disk fails; repair again.
        """
        if self._lock_fd is None:
            self._hold_new()
        content = self._content
        if content is None or not content.setting_aside:
            content = self._begin(wall_s)
        aside = self._data_dir / content.setting_aside if content.setting_aside else None
        if aside is not None:
            self._set_aside(aside)
            content = replace(content, setting_aside="")
            identity_file.save(self._files, self._data_dir, content)
        self._content, self.damage = content, None
        return Renewed(content.own.life, aside)

    def _hold_new(self) -> None:
        """Hold what was not there when it was looked at; somebody may have been quicker."""
        self.hold()
        if any(entry.name != LOCK_FILE for entry in self._data_dir.iterdir()):
            self.release()
            raise DataDirectoryError(
                f"data directory {self._data_dir} was made meanwhile; repair again if it must be"
            )

    def _begin(self, wall_s: int) -> Content:
        """Step 1; the only one, if there is nothing to set aside."""
        life = max([wall_s, *(life + 1 for life in self._lives())])
        if life > LIFE_MAX:
            raise StartupError(f"the clock says {wall_s} s since 1970; set it, then repair again")
        self._check_movable()
        path = self._data_dir / IDENTITY_FILE
        aside = ""
        if self._parts() or path.exists():
            aside = f"damaged-{life}"
            self._keep_identity(path, self._data_dir / aside)
        content = Content(
            self._owner,
            Pin(new_data_id(), life),
            {} if self._content is None else self._content.pins,
            setting_aside=aside,
        )
        identity_file.save(self._files, self._data_dir, content)
        self._content = content
        return content

    def _lives(self) -> Iterator[int]:
        """Every life that this directory can tell of."""
        if self._content is not None:
            yield self._content.own.life
        for entry in self._data_dir.iterdir():
            name = _SET_ASIDE.fullmatch(entry.name)
            if name:
                yield int(name[1])

    def _keep_identity(self, path: Path, aside: Path) -> None:
        aside.mkdir(exist_ok=True)
        if path.exists():
            write_file_atomically(self._files, aside / IDENTITY_FILE, path.read_bytes())

    def _set_aside(self, aside: Path) -> None:
        """Step 2. Both directories are synced, else a crash could undo it after step 3."""
        aside.mkdir(exist_ok=True)
        for part in self._parts():
            self._files.rename(self._data_dir / part, aside / part)
        self._files.sync_directory(aside)
        self._files.sync_directory(self._data_dir)

    def release(self) -> None:
        """Let another process have the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def open_renewal(data_dir: Path, owner: Owner, files: Files | None = None) -> Renewal:
    """Lock ``data_dir`` and look at it; one that is not there is made when it is renewed.

    Raises:
        DataDirectoryError: in use by another process, somebody else's, or unreadable.
    """
    _check_user(data_dir)
    renewal = Renewal(data_dir, owner, files or OsFiles())
    if os.path.lexists(data_dir):
        renewal.hold()
    try:
        renewal.look()
    except BaseException:
        renewal.release()
        raise
    return renewal


def _check_user(data_dir: Path) -> None:
    """What root makes here the node of another user could not open at its next start."""
    for path in (data_dir / name for name in (IDENTITY_FILE, *PARTS)):
        with contextlib.suppress(OSError):
            uid = path.stat().st_uid
            if uid != os.geteuid():
                raise DataDirectoryError(
                    f"{path} belongs to user {_user_name(uid)}: repair as that user, else the "
                    "node cannot open what the repair makes"
                )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _is_strange(entry: Path) -> bool:
    ours = entry.name in (LOCK_FILE, IDENTITY_FILE + ".new")
    return not (ours or _SET_ASIDE.fullmatch(entry.name))


def discard(renewed: Renewed) -> None:
    """Remove what was set aside, for good."""
    if renewed.set_aside is not None:
        shutil.rmtree(renewed.set_aside)
