"""Reads the whole log at start, every batch in order.

What is wrong is refused with file and offset, but for a torn last batch
(:mod:`kvstore.storage.scan`), which is dropped with a line in the log. The chain of batch
numbers runs through all segments, so a segment that is missing, doubled, exchanged or cut is
noticed wherever another one follows, and the record that closes a segment tells that one
must follow.

The end is then mended by :mod:`kvstore.storage.mending`.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import aiofiles

from kvstore.errors import CorruptionError, DataDirectoryError, DiskFull
from kvstore.storage import mending, records
from kvstore.storage.files import is_full, is_loss, make_directory
from kvstore.storage.ledger import Ledger
from kvstore.storage.mending import Tail, Unclosed
from kvstore.storage.records import RecordType
from kvstore.storage.replay import Replay
from kvstore.storage.scan import SegmentScan
from kvstore.storage.segment_files import (
    SEGMENT_NAME,
    Active,
    Segment,
    SegmentFiles,
    segment_name,
    segment_paths,
)
from kvstore.storage.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from kvstore.config import WalConfig
    from kvstore.ids import GroupId, ReplicaId
    from kvstore.storage.files import Files
    from kvstore.storage.replay import RecoveredLog


class _Reader:
    """Goes through the segments in order. Invariant: ``next_sequence`` is the batch to come."""

    def __init__(self, cluster_id: str, node_id: str, replay: Replay) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self.replay = replay
        self.segments: list[Segment] = []
        self.next_sequence = 0
        self.unclosed: Unclosed | None = None
        self.tail: Tail | None = None

    def read(self, number: int, path: Path, data: bytes) -> None:
        """Take in the next segment.

        Raises:
            CorruptionError, DataDirectoryError: it does not follow the one before.
        """
        scan = SegmentScan(memoryview(data), str(path))
        self._check_header(scan, number, path)
        before = self.tail
        if before is not None and scan.header.first_sequence != self.next_sequence:
            raise CorruptionError(
                f"batch {self.next_sequence} is damaged or missing: the next segment starts "
                f"with batch {scan.header.first_sequence}",
                file=str(before.segment.path),
                offset=before.scan.end,
            )
        segment = Segment(number, path)
        for batch in scan.batches():
            for offset, record in batch:
                self._take(segment, record, offset)
        segment.used_bytes = scan.end
        self.segments.append(segment)
        self.next_sequence = scan.next_sequence
        self.unclosed = None
        if before is not None and not before.scan.is_closed:
            self.unclosed = Unclosed(before.segment, before.scan.header.salt)
        self.tail = Tail(segment, scan, data)

    def _check_header(self, scan: SegmentScan, number: int, path: Path) -> None:
        header = scan.header
        if header.version != records.FORMAT_VERSION:
            raise DataDirectoryError(
                f"{path} has format {header.version}; this program knows {records.FORMAT_VERSION}"
            )
        if (header.cluster_id, header.node_id) != (self._cluster_id, self._node_id):
            raise DataDirectoryError(
                f"{path} belongs to node {header.node_id} of cluster {header.cluster_id}, "
                f"not to node {self._node_id} of cluster {self._cluster_id}"
            )
        if header.number != number:
            raise CorruptionError(
                f"this is segment {header.number} under another name", file=str(path), offset=0
            )

    def _take(self, segment: Segment, record: records.Record, offset: int) -> None:
        if record.type == RecordType.LOG_END:
            # Only of segments that are gone there is nothing better to go by.
            if not self.segments:
                self.replay.log_end(record)
            return
        if self.replay.voids(record):
            for holding in (*self.segments, segment):
                holding.last_index.pop(record.group, None)
        wrong = self.replay.take(record)
        if wrong is not None:
            raise CorruptionError(wrong, file=str(segment.path), offset=offset)
        if record.type == RecordType.ENTRY:
            known = segment.last_index.get(record.group, 0)
            segment.last_index[record.group] = max(known, record.index)

    def check_complete(self) -> None:
        """See whether entries are missing that a deleted first segment must have held."""
        for group, found in self.replay.logs.items():
            missing = found.missing()
            if missing is not None:
                raise CorruptionError(
                    f"entries {missing[0]} to {missing[1]} of group {group} are missing before "
                    "this segment",
                    file=str(self.segments[0].path),
                    offset=0,
                )


class Recovery:
    """Brings back a log: :meth:`look`, :meth:`read` what it found, :meth:`finish`.

    Every step blocks. Whoever calls them reads the files, and may show how far that is.
    """

    def __init__(
        self,
        directory: Path,
        files: Files,
        config: WalConfig,
        *,
        cluster_id: str,
        node_id: str,
        applied: Mapping[GroupId, int],
        held: Mapping[GroupId, ReplicaId] | None = None,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """See :func:`kvstore.storage.wal.open_wal`; ``random_bits`` makes segments' salts."""
        self._directory = directory
        self._files = files
        self._config = config
        self._applied = applied
        self._made = SegmentFiles(
            directory,
            files,
            config,
            cluster_id=cluster_id,
            node_id=node_id,
            random_bits=random_bits,
        )
        replay = Replay(cast("Mapping[int, int]", applied), cast("Mapping[int, int] | None", held))
        self._reader = _Reader(cluster_id, node_id, replay)

    def look(self) -> list[tuple[int, Path]]:
        """The segments that are there, in the order in which they must be read.

        Raises:
            CorruptionError: one is missing, or all are where there should be some.
        """
        paths = _look(self._directory, self._files, self._made)
        if not paths and (self._made.has_reserve or any(self._applied.values())):
            raise CorruptionError(
                "the log is gone, and with it votes and entries",
                file=str(self._directory / segment_name(1)),
                offset=0,
            )
        return paths

    def read(self, number: int, path: Path, data: bytes) -> None:
        """Take in the next segment, of which ``data`` is the content.

        Raises:
            CorruptionError, DataDirectoryError: it does not follow the one before.
        """
        self._reader.read(number, path, data)

    def finish(self) -> tuple[Segments, dict[GroupId, RecoveredLog]]:
        """Mend the end and go on from there; all segments were read.

        Raises:
            CorruptionError: something is missing, or the end is damaged.
            DiskFull: no room even for a first segment.
            DataDirectoryError: the log cannot be written.
        """
        reader = self._reader
        reader.check_complete()
        logs = reader.replay.logs
        try:
            segments = Segments(
                self._made,
                self._files,
                Ledger(logs),
                segment_bytes=self._config.segment_bytes,
                older=reader.segments[:-1],
                active=self._mend(),
                next_sequence=reader.next_sequence or 1,
            )
        except OSError as error:
            where = self._directory
            if is_full(error):
                raise DiskFull(f"no room for a log in {where}: {error}") from error
            raise DataDirectoryError(f"cannot write to {where}: {error}") from error
        return segments, cast("dict[GroupId, RecoveredLog]", logs)

    def _mend(self) -> Active | None:
        reader = self._reader
        if reader.tail is None:
            return None
        mending.sync_names(self._files, self._directory, reader.unclosed, reader.tail)
        return mending.mend_tail(self._files, reader.tail)


async def recover(
    directory: Path,
    files: Files,
    config: WalConfig,
    *,
    cluster_id: str,
    node_id: str,
    applied: Mapping[GroupId, int],
    held: Mapping[GroupId, ReplicaId] | None = None,
    progress: Callable[[int, int], None],
) -> tuple[Segments, dict[GroupId, RecoveredLog]]:
    """Read the log off the loop; see :func:`kvstore.storage.wal.open_wal`."""
    recovery = Recovery(
        directory, files, config, cluster_id=cluster_id, node_id=node_id, applied=applied, held=held
    )
    await _read_all(recovery, await asyncio.to_thread(recovery.look), progress)
    return await asyncio.to_thread(recovery.finish)


def _look(directory: Path, files: Files, made: SegmentFiles) -> list[tuple[int, Path]]:
    """The segments in ``directory``, in order; none may be missing between two others."""
    try:
        make_directory(files, directory)
        made.look_around()
        paths = segment_paths(directory)
    except OSError as error:
        raise DataDirectoryError(f"{directory} cannot be used: {error}") from error
    found: list[tuple[int, Path]] = []
    for path in paths:
        name = SEGMENT_NAME.fullmatch(path.name)
        if name is None:
            raise CorruptionError("this is no segment's name", file=str(path), offset=0)
        number = int(name[1])
        if found and number != found[-1][0] + 1:
            missing = directory / segment_name(found[-1][0] + 1)
            raise CorruptionError("this segment is missing", file=str(missing), offset=0)
        found.append((number, path))
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_loss(error):
            raise CorruptionError(f"cannot be read: {error}", file=str(path), offset=0) from error
        raise DataDirectoryError(f"{path} cannot be read: {error}") from error


async def _read_all(
    recovery: Recovery, paths: list[tuple[int, Path]], progress: Callable[[int, int], None]
) -> None:
    total = 0
    for _, path in paths:
        with _reading(path):
            total += path.stat().st_size
    done = 0
    for number, path in paths:
        progress(done, total)
        with _reading(path):
            async with aiofiles.open(path, "rb") as file:
                data = await file.read()
        await asyncio.to_thread(recovery.read, number, path, data)
        done += len(data)
    progress(done, total)
