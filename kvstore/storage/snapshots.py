"""Snapshots of shards: read one to send it, stage one that arrives, put it in force (Raft §7).

What arrives is gathered in ``g<group>.staging``; at its end it is checked as a whole. Meanwhile
an engine that can prepares its own form of it, aside of what is in force; a crash undoes that.
To install it is first to give it a manifest, ``g<group>.manifest``: from then on it *will* be in
force. Whatever interrupts the installation, the next start does it again from its beginning.
When the engine holds all of it durably the manifest is renamed to ``g<group>.installed``,
which says why an engine may be ahead of the log. So a crash leaves one of these:

=================  =====================  ===============================================
staging            manifest               state of the shard; what the next start does
=================  =====================  ===============================================
any part or none   none                   the old one; removes the part
complete           there                  old, half or new; installs again
complete or none   renamed                the new one; removes the rest
=================  =====================  ===============================================

Nothing is applied to a shard while its manifest is there (``ShardHost.installing``; if the
installation fails the node stops), hence installing again never takes anything back.

When the group leaves the node, or comes to it as another replica, all that is here of it is of
no use: :meth:`SnapshotStorage.forget`. A crash before that is over may leave a manifest, and
so install the earlier replica's state once more. Hence forget first, and only then say in the
engine whose rows it holds (:func:`kvstore.storage.stays.begin`), which removes them.

:meth:`SnapshotStorage.open` is cheap and belongs on the loop, between two engine writes. All
else blocks and belongs in one thread, the same for all.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Protocol

from kvstore.errors import DiskFull, Internal
from kvstore.ids import GroupId, LogIndex, ShardId, shard_of_group
from kvstore.kv.engine import Engine, shard_range
from kvstore.storage import snapshot_stream
from kvstore.storage.files import Files, OsFiles, is_full, make_directory, write_file_atomically
from kvstore.storage.snapshot_arrival import SHARD_PREFIX_BYTES, Arriving, Preparing, prefix_of
from kvstore.storage.snapshot_manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvstore.raft.messages import SnapshotMeta
    from kvstore.storage.replacement import Replacement, Row


INSTALL_BATCH_BYTES = 64 * 1024
"""Rows of one step while installing: a millisecond's work, after which others have a
turn."""

SYNC_BYTES = 2 * 1024 * 1024
"""Staged bytes are synced that often, so that no sync has much to do and delays the log's."""

FREE_BYTES_KEPT = 16 * 1024 * 1024
"""Room that must be left beside the engine's copy for a staged snapshot to be taken on."""

_OURS = re.compile(r"g(\d+)\.(staging|manifest|manifest\.new)")


class SnapshotEngine(Engine, Protocol):
    """An engine whose state can be held still, and made durable."""

    def stream_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` as they are at this call, whatever is written later."""
        ...

    def replacing(self, start: bytes, end: bytes) -> Replacement:
        """Begin to put other rows in the place of all in ``[start, end)``."""
        ...

    def flush(self) -> None:
        """Make everything written so far durable; blocks."""
        ...


class SnapshotReader:
    """A shard as it was when this was opened, as one stream read from front to back."""

    def __init__(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._pieces: Iterator[bytes] | None = snapshot_stream.encode(
            (key[SHARD_PREFIX_BYTES:], value) for key, value in rows
        )
        self._buffer = bytearray()
        self._offset = 0

    def read(self, offset: int, bytes_max: int) -> tuple[bytes, bool]:
        """The next ``bytes_max`` bytes, fewer only at the end, and whether that is the end.

        Args:
            offset: what was read so far.
            bytes_max: at least 1.

        Raises:
            CorruptionError: the engine came upon damaged data.
            Internal: closed, or ``offset`` is not where the last read ended.
        """
        if self._pieces is None or offset != self._offset:
            raise Internal(f"a snapshot is at {self._offset} or closed, not at {offset}")
        is_last = False
        while len(self._buffer) <= bytes_max and not is_last:
            piece = next(self._pieces, None)
            is_last = piece is None
            self._buffer += piece or b""
        data = bytes(self._buffer[:bytes_max])
        del self._buffer[:bytes_max]
        self._offset += len(data)
        return data, is_last

    def close(self) -> None:
        """Let the engine forget the state that it held still for this."""
        self._pieces = None
        self._buffer.clear()


class SnapshotStorage:
    """All snapshots of one node, in a directory of their own."""

    def __init__(self, engine: SnapshotEngine, directory: Path, files: Files | None = None) -> None:
        self._engine = engine
        self._directory = directory
        self._files = files or OsFiles()
        self._arriving: dict[GroupId, Arriving] = {}

    # -- sending side -----------------------------------------------------------------------

    def open(self, shard: ShardId) -> SnapshotReader:
        """The state of ``shard`` as it is at this call. Cheap: nothing is read yet."""
        start, end = shard_range(shard)
        return SnapshotReader(self._engine.stream_rows(start, end))

    # -- receiving side ---------------------------------------------------------------------

    def stage(
        self, group: GroupId, meta: SnapshotMeta, offset: int, data: bytes, is_last: bool
    ) -> None:
        """Add a piece. Offset 0 begins afresh; with the last one the whole is checked.

        Whatever is raised, nothing of the snapshot is kept.

        Raises:
            CorruptionError: the stream is damaged.
            DiskFull: no room to stage or later to install it.
            Internal: the piece does not follow the one before, or the disk fails.
        """
        assert not self._manifest_path(group).exists(), "half installed: the node must stop"
        try:
            self._append(group, meta, offset, data)
            self._prepare(group, is_last=is_last)
            if is_last:
                self._check(group)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self.give_up(group)
            if isinstance(error, OSError):
                raise _disk_error(group, error) from error
            raise

    def give_up(self, group: GroupId) -> None:
        """Keep nothing of what has arrived and is not promised to be in force.

        Raises:
            OSError: the file cannot be removed.
        """
        self._drop(group)
        self._remove(self._staging_path(group))

    def install(self, group: GroupId, shard: ShardId) -> None:
        """Replace the state of ``shard`` by the complete staged snapshot of ``group``, durably.

        Raises as :meth:`installation`.
        """
        for _ in self.installation(group, shard):
            pass

    def installation(self, group: GroupId, shard: ShardId) -> Iterator[int]:
        """The same in short steps, each of which gives how many bytes it has put in force.

        It is done when the steps have ended. If one fails the shard may be half replaced: stop
        the node, its next start goes on. It may be left off if the group leaves the node.

        Raises:
            CorruptionError: the file was damaged since it was staged.
            DiskFull: no room.
            Internal: no complete snapshot is staged, or the disk fails.
        """
        manifest = self._manifest_path(group)
        arriving = self._arriving.get(group)
        preparing = None if arriving is None else arriving.preparing
        try:
            if not manifest.exists():
                self._promise(group)
            if preparing is not None:
                preparing.replacement.finish()
            else:
                yield from self._write_rows(shard, self._staging_path(group))
            self._engine.flush()
            self._files.rename(manifest, self._installed_path(group))
            self._files.sync_directory(self._directory)
        except OSError as error:
            raise _disk_error(group, error) from error
        finally:
            self._drop(group)

    def discard(self, group: GroupId) -> None:
        """Remove what is left of an installed snapshot."""
        self._remove(self._staging_path(group))

    def forget(self, group: GroupId) -> None:
        """Remove all that is here of ``group``, durably; again if a crash came in between.

        Afterwards no start installs a snapshot that arrived before. None may be under way:
        what comes for the earlier replica from now on must not get here.

        Raises:
            DiskFull: no room for that; it may be tried again.
            Internal: the disk fails.
        """
        self._drop(group)
        try:
            make_directory(self._files, self._directory)
            # For good before the staged file goes: a manifest without it stops every start.
            self._remove(self._manifest_path(group))
            self._files.sync_directory(self._directory)
            for path in (self._staging_path(group), self._installed_path(group)):
                self._remove(path)
            self._files.sync_directory(self._directory)
        except OSError as error:
            raise _disk_error(group, error) from error

    # -- after a start ----------------------------------------------------------------------

    def pending_installs(self) -> list[tuple[GroupId, SnapshotMeta]]:
        """Complete snapshots that must be installed; the remains of others are removed.

        Raises:
            CorruptionError: a manifest is damaged or of a newer format, or what it stands
                for is not there.
        """
        make_directory(self._files, self._directory)
        pending: dict[GroupId, SnapshotMeta] = {}
        others: list[Path] = []
        for path in sorted(self._directory.iterdir()):
            name = _OURS.fullmatch(path.name)
            if name and name[2] == "manifest":
                group = GroupId(int(name[1]))
                manifest = Manifest.decode(path.read_bytes(), str(path))
                manifest.check_size(self._staging_path(group))
                pending[group] = manifest.meta
            elif name:
                others.append(path)
        for path in others:
            if path not in map(self._staging_path, pending):
                self._files.remove(path)
        return list(pending.items())

    def finish_pending(self) -> list[tuple[GroupId, SnapshotMeta]]:
        """Install what :meth:`pending_installs` finds; call it before anything reads the engine.

        Raises:
            CorruptionError: see there and :meth:`install`.
        """
        pending = self.pending_installs()
        for group, _ in pending:
            self.install(group, shard_of_group(group))
            self.discard(group)
        return pending

    def installed_index(self, group: GroupId) -> LogIndex:
        """Where the last snapshot of ``group`` that was installed stands, 0 if there is none.

        Raises:
            CorruptionError: the file that says so is damaged or of a newer format.
        """
        path = self._installed_path(group)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return LogIndex(0)
        return Manifest.decode(data, str(path)).meta.index

    # -- steps ------------------------------------------------------------------------------

    def _append(self, group: GroupId, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        path = self._staging_path(group)
        arriving = self._arriving.get(group)
        if offset == 0:
            make_directory(self._files, self._directory)
            self._files.close(self._files.create(path))
            self._files.sync_directory(self._directory)
            self._drop(group)
            arriving = self._arriving[group] = Arriving(meta, self._preparing(group))
        elif arriving is None or (arriving.meta, arriving.size, arriving.is_complete) != (
            meta,
            offset,
            False,
        ):
            raise Internal(f"group {group}: a piece of a snapshot does not follow the last one")
        arriving.size += len(data)
        fd = self._files.open(path)
        try:
            self._files.write(fd, [data], offset)
            if arriving.size - arriving.synced >= SYNC_BYTES:
                self._files.sync(fd)
                arriving.synced = arriving.size
        finally:
            self._files.close(fd)

    def _preparing(self, group: GroupId) -> Preparing | None:
        shard = shard_of_group(group)
        replacement = self._engine.replacing(*shard_range(shard))
        if not replacement.is_aside:
            return None
        return Preparing(self._staging_path(group), shard, replacement)

    def _prepare(self, group: GroupId, *, is_last: bool) -> None:
        arriving = self._arriving[group]
        if arriving.preparing is not None:
            arriving.preparing.go_on(arriving.size, is_whole=is_last)

    def _drop(self, group: GroupId) -> None:
        arriving = self._arriving.pop(group, None)
        if arriving is not None:
            arriving.close()

    def _check(self, group: GroupId) -> None:
        """Whether the whole can be installed: it is sound, durable, and there is room for it."""
        arriving, path = self._arriving[group], self._staging_path(group)
        needed_bytes = FREE_BYTES_KEPT
        if arriving.preparing is None:  # otherwise it was checked, and the engine has its copy
            needed_bytes += arriving.size
            with path.open("rb") as file:
                snapshot_stream.check(file, str(path))
        self._engine.flush()  # what to install it would flush must find room now
        if self._files.free_bytes(self._directory) < needed_bytes:
            raise DiskFull(f"group {group}: no room to install a snapshot of {arriving.size} bytes")
        fd = self._files.open(path)
        try:
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        arriving.is_complete = True

    def _promise(self, group: GroupId) -> None:
        """From here on the staged snapshot will be in force, whatever happens."""
        arriving = self._arriving.get(group)
        if arriving is None or not arriving.is_complete:
            raise Internal(f"group {group}: no complete snapshot is staged")
        manifest = Manifest(arriving.meta, arriving.size)
        write_file_atomically(self._files, self._manifest_path(group), manifest.encode())

    def _write_rows(self, shard: ShardId, staging: Path) -> Iterator[int]:
        prefix = prefix_of(shard)
        replacement = self._engine.replacing(*shard_range(shard))
        try:
            with staging.open("rb") as file:
                for rows in _in_steps(snapshot_stream.decode(file, str(staging))):
                    replacement.add((prefix + key, value) for key, value in rows)
                    yield sum(len(key) + len(value) for key, value in rows)
            replacement.finish()
        finally:
            replacement.abandon()

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.remove(path)

    def _staging_path(self, group: GroupId) -> Path:
        return self._directory / f"g{group}.staging"

    def _manifest_path(self, group: GroupId) -> Path:
        return self._directory / f"g{group}.manifest"

    def _installed_path(self, group: GroupId) -> Path:
        return self._directory / f"g{group}.installed"


def _in_steps(blocks: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """The same rows, of ``INSTALL_BATCH_BYTES`` at a time, or a little more."""
    step: list[Row] = []
    size = 0
    for rows in blocks:
        for row in rows:
            step.append(row)
            size += len(row[0]) + len(row[1])
            if size >= INSTALL_BATCH_BYTES:
                yield step
                step, size = [], 0
    if step:
        yield step


def _disk_error(group: GroupId, error: OSError) -> DiskFull | Internal:
    if is_full(error):
        return DiskFull(f"group {group}: no room for a snapshot: {error}")
    return Internal(f"group {group}: a snapshot cannot be stored or removed: {error}")
