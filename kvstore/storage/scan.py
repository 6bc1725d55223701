"""Walks one segment's bytes and judges where they end. Pure.

Only one write is in flight at a time: batch ``k + 1`` is begun after the ``fdatasync`` of
batch ``k`` came back. So of all the bytes in the log only those of the last batch that was
begun may be anything but what was written; the question for a bad batch is whether it was
the last one, and whether a crash can have left it like that (compare Alagappan et al.,
"Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018, section 3.3).

A crash may lose any part of the last write, in units of a sector, and what a lost sector
shows is what was there before: zeros, because segments are preallocated, never reused, and
a torn tail is zeroed before the log goes on. A write that was cut short ends in zeros. Hence
a bad batch is **torn** (drop it: nobody was told that it is durable) only if

* it stands in the last segment,
* no later batch was begun: no valid BATCH record of this segment after it, and nothing but
  zeros after its end, and
* its first bad record reaches into a sector that shows nothing but zeros, or into the zeros
  with which the file ends.

Everything else is **damage** to synced bytes and is refused: a flipped bit leaves no sector
of zeros. What cannot be told apart:

* damage to the last batch inside a value that itself holds 512 zeros; a clean shutdown
  writes an empty batch behind the last one, which settles it;
* batches of the last segment that read as zeros up to the file's end, as if they had never
  been written. If any byte is left of the first of them, the log that drops it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.errors import CorruptionError
from kvstore.storage import records
from kvstore.storage.records import BATCH_END, BATCH_HEAD_BYTES, FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.storage.records import BatchHead, Record, SegmentHeader

SECTOR_BYTES = 512
SPARE_ZEROS_MIN = 8
"""Zeros after the last batch that prove that no other was begun (a length is never 0)."""

_CHUNK = bytes(64 * 1024)


@dataclass(frozen=True, slots=True)
class TornTail:
    """A last batch that was never finished: bytes ``[offset, end)`` go back to zeros."""

    offset: int
    end: int


class SegmentScan:
    """The batches of one segment, then how it ends.

    ``end``, ``next_sequence``, ``last_batch`` and ``is_closed`` hold after :meth:`batches`
    is exhausted.
    """

    def __init__(self, data: memoryview, file: str) -> None:
        """``data`` is the whole file, ``file`` its name for errors.

        Raises:
            CorruptionError: it does not start with a segment header.
        """
        self._data = data
        self._file = file
        first = records.read_record(data, 0, len(data))
        header = None if first is None else records.decode_segment_header(first)
        if first is None or header is None:
            raise self._corrupt("this is no segment header", 0)
        self.header: SegmentHeader = header
        self.end = first.size
        """Where the next batch would stand."""
        self.next_sequence = header.first_sequence
        self.last_batch = self.end
        """Where the last batch starts."""
        self.is_closed = False

    def batches(self) -> Iterator[list[tuple[int, Record]]]:
        """The records of one whole batch after the other, each with its offset.

        Raises:
            CorruptionError: a batch that is whole but out of sequence, or no batch at all: the
                first one was synced before the file got its name.
        """
        while (batch := self._read_batch()) is not None:
            head, found = batch
            if head.sequence != self.next_sequence:
                raise self._corrupt(
                    f"batch {head.sequence} stands where {self.next_sequence} belongs", self.end
                )
            if head.closes:
                self.is_closed = True
                break
            self.last_batch = self.end
            self.end += BATCH_HEAD_BYTES + head.body_bytes
            self.next_sequence += 1
            yield found
        if self.next_sequence == self.header.first_sequence:
            raise self._corrupt("the segment's first batch is damaged or missing", self.end)

    def torn_tail(self) -> TornTail | None:
        """What a crash left after the last whole batch; only for the last segment.

        Raises:
            CorruptionError: what is there (or missing) cannot come from a crash.
        """
        data, start = self._data, self.end
        nonzero_end = _nonzero_end(data, start)
        self._check_length(nonzero_end)
        if nonzero_end == start:
            return None
        later = self._later_batch(start + 1)
        if later is not None:
            raise self._corrupt("a damaged batch before a valid one", start, later)
        head = records.read_batch_head(data, start, self.header.salt)
        if head is None:
            # Without a length it was begun to be zeroed, by a recovery that was interrupted.
            if any(data[start : start + 4]):
                self._check_torn(start, start + BATCH_HEAD_BYTES, start, nonzero_end)
        else:
            end = start + BATCH_HEAD_BYTES + head.body_bytes
            if nonzero_end > end:
                raise self._corrupt("a damaged batch before other bytes", start, end)
            bad, bad_end = self._first_bad(start, end)
            self._check_torn(bad, bad_end, start, end)
        return TornTail(start, nonzero_end)

    def _read_batch(self) -> tuple[BatchHead, list[tuple[int, Record]]] | None:
        """The batch at ``end`` if all of it is there and valid."""
        head = records.read_batch_head(self._data, self.end, self.header.salt)
        if head is None:
            return None
        offset = self.end + BATCH_HEAD_BYTES
        limit = offset + head.body_bytes - len(BATCH_END)
        if head.closes:
            return head, []
        if limit >= len(self._data) or self._data[limit] != BATCH_END[0]:
            return None
        found: list[tuple[int, Record]] = []
        while offset < limit:
            record = records.read_record(self._data, offset, limit)
            if record is None:
                return None
            found.append((offset, record))
            offset += record.size
        return head, found

    def _first_bad(self, start: int, end: int) -> tuple[int, int]:
        """Where the first bad record of the batch ``[start, end)`` begins and seems to end."""
        offset = start + BATCH_HEAD_BYTES
        limit = end - len(BATCH_END)
        while offset < limit:
            record = records.read_record(self._data, offset, limit)
            if record is None:
                length = int.from_bytes(self._data[offset : offset + 4], "big")
                seeming_end = offset + FRAME_BYTES + length
                return offset, seeming_end if seeming_end <= limit else offset + FRAME_BYTES
            offset += record.size
        return limit, end

    def _check_torn(self, bad: int, bad_end: int, start: int, end: int) -> None:
        """Whether the crash of an unfinished write of ``[start, end)`` explains the damage."""
        data = self._data
        if _nonzero_end(data[:end], bad) < bad_end:
            return
        for sector in range(bad - bad % SECTOR_BYTES, bad_end, SECTOR_BYTES):
            low, high = max(sector, start), min(sector + SECTOR_BYTES, end)
            if low < high and not any(data[low:high]):
                return
        raise self._corrupt("a damaged record, which no torn write explains", bad)

    def _check_length(self, nonzero_end: int) -> None:
        """A crash never shortens a file: its size was durable before its first batch."""
        size = len(self._data)
        if size >= self.header.made_bytes:
            return
        if nonzero_end == self.end and size - self.end >= SPARE_ZEROS_MIN:
            return
        raise self._corrupt(
            f"the file ends here, but was made with {self.header.made_bytes} bytes: "
            "synced records may be missing",
            size,
        )

    def _later_batch(self, offset: int) -> int | None:
        """Where a valid BATCH record of this segment stands at ``offset`` or beyond."""
        salt = self.header.salt.to_bytes(8, "big")
        haystack = bytes(self._data[offset:])
        found = haystack.find(salt)
        while found >= 0:
            at = offset + found - records.SALT_OFFSET
            if at >= offset and records.read_batch_head(self._data, at, self.header.salt):
                return at
            found = haystack.find(salt, found + 1)
        return None

    def _corrupt(self, what: str, offset: int, other: int | None = None) -> CorruptionError:
        where = "" if other is None else f" (at offset {other})"
        return CorruptionError(what + where, file=self._file, offset=offset)


def _nonzero_end(data: memoryview, start: int) -> int:
    """The end of the last byte at ``start`` or beyond that is not zero, or ``start``."""
    end = len(data)
    while end - start >= len(_CHUNK) and bytes(data[end - len(_CHUNK) : end]) == _CHUNK:
        end -= len(_CHUNK)
    tail_start = max(start, end - len(_CHUNK))
    return tail_start + len(bytes(data[tail_start:end]).rstrip(b"\0"))
