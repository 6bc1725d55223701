"""Brings the end of a log that was read to the state that its writer relies on.

Before anything that was read is believed it is synced again: a process that was killed
leaves names and batches in the page cache that no sync covered. The last batch is even
written again, because after a *failed* sync the cache may show what the disk never got.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from kvstore.errors import CorruptionError
from kvstore.storage import records
from kvstore.storage.files import is_full, sync, sync_directory
from kvstore.storage.segment_files import Active, Segment, segment_name

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.files import Files
    from kvstore.storage.scan import SegmentScan

log = logging.getLogger(__name__)


class Tail(NamedTuple):
    """The last segment: its scan, and all its bytes."""

    segment: Segment
    scan: SegmentScan
    data: bytes


class Unclosed(NamedTuple):
    """A segment before the last one that a crash left without its closing record."""

    segment: Segment
    salt: int


def sync_names(files: Files, directory: Path, unclosed: Unclosed | None, tail: Tail) -> None:
    """Make the segments' names durable, and close the one before the last if it is not.

    Else nobody would miss the last segment if it were deleted later. For want of room it is
    left as it is.
    """
    sync_directory(files, directory)
    if unclosed is None:
        return
    segment, salt = unclosed
    closing = records.encode_close(salt, tail.scan.header.first_sequence)
    fd = files.open(segment.path)
    try:
        files.truncate(fd, segment.used_bytes)
        files.write(fd, [closing], segment.used_bytes)
        sync(files, fd, segment.path)
    except OSError as error:
        if not is_full(error):
            raise
    finally:
        files.close(fd)


def mend_tail(files: Files, tail: Tail) -> Active:
    """Drop a torn last batch, write the last whole one again, and open the segment.

    Raises:
        CorruptionError: the last segment ends in a way that no crash explains, or another
            one must follow it.
        OSError: it cannot be written.
    """
    segment, scan, data = tail
    made_bytes = scan.header.made_bytes
    if scan.is_closed:
        missing = segment.path.with_name(segment_name(segment.number + 1))
        raise CorruptionError("this segment is missing", file=str(missing), offset=0)
    torn = scan.torn_tail()
    fd = files.open(segment.path)
    try:
        if torn is not None:
            log.warning(
                "%s: a torn write at offset %d: the last batch was never finished, "
                "%d bytes dropped",
                segment.path,
                torn.offset,
                torn.end - torn.offset,
            )
            files.write(fd, [bytes(torn.end - torn.offset)], torn.offset)
        if len(data) > made_bytes:
            files.truncate(fd, made_bytes)
        elif len(data) < made_bytes:
            files.allocate(fd, made_bytes)
        files.write(fd, [data[scan.last_batch : scan.end]], scan.last_batch)
        sync(files, fd, segment.path)
    except BaseException:
        files.close(fd)
        raise
    return Active(segment, fd, scan.header.salt, made_bytes)
