"""The log as a row of segments: write a batch, begin the next segment, release the oldest.

When a segment is full the next one is made and synced; then the old one is closed by a
record that names the batch with which the next starts (so that a missing last segment is
noticed) and cut to what was written.

**Zeros ahead.** Space that was only allocated is noted by the file system as never written, and
the first sync that reaches into a block of it waits for that note as well, in the file system's
own journal. So where a small batch comes to such space zeros are written behind it, for those to
follow: a sync of 6 KB takes two thirds of the time then, and half of the processor's. Of a few
hundred bytes it does not, for most of those come to a block that was reached before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from kvstore.storage import records
from kvstore.storage.files import is_full, sync, sync_data, sync_directory
from kvstore.storage.ledger import VOIDS
from kvstore.storage.records import BATCH_END
from kvstore.storage.segment_files import Active, batch_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvstore.storage.files import Files
    from kvstore.storage.ledger import Ledger
    from kvstore.storage.segment_files import Segment, SegmentFiles


ZEROED_BYTES: Final = 64 * 1024
"""So much is written ahead, once for that much of the log."""
SMALL_BYTES: Final = ZEROED_BYTES // 4
"""Larger batches need not share what the zeros cost with others: they go without."""
PAGE: Final = bytes(4096)
"""Zeros go page by page, or the page cache would keep them as a large one (a folio), and count all
of it as written whenever a small batch touches it."""


class Segments:
    """Used by one thread at a time. Invariant: batches ``< next_sequence`` are synced.

    Methods raise ``OSError`` when nothing was changed (for want of room, it may be tried
    again) and ``Internal`` when a sync failed (never to be tried again).
    """

    def __init__(
        self,
        made: SegmentFiles,
        files: Files,
        ledger: Ledger,
        *,
        segment_bytes: int,
        older: Sequence[Segment] = (),
        active: Active | None = None,
        next_sequence: int = 1,
    ) -> None:
        """Go on where recovery found the log's end; without ``active`` begin a new log."""
        self._made = made
        self._files = files
        self._ledger = ledger
        self._segment_bytes = segment_bytes
        self._older = list(older)
        self._next_sequence = next_sequence
        self._active = active or self._begin(1, 0)
        self._older_bytes = sum(segment.used_bytes for segment in older)

    @property
    def live_bytes(self) -> int:
        """Bytes written to the segments that still exist."""
        return self._older_bytes + self._active.segment.used_bytes

    def has_room(self, body_bytes: int, *, urgent: bool) -> bool:
        """Whether a batch may go to the active segment.

        To one that was made of the reserve only what is ``urgent`` may.
        """
        if not urgent and self._active.made_bytes < self._segment_bytes:
            return False
        return self._active.room >= batch_bytes(body_bytes)

    def is_ready_for(self, body_bytes: int) -> bool:
        """Whether a batch can be written, and :meth:`prepare` has nothing to do then."""
        return self.has_room(body_bytes, urgent=False) and self._made.is_prepared(
            spare=self._is_short_of_room
        )

    @property
    def _is_short_of_room(self) -> bool:
        return self._active.room < self._segment_bytes // 2

    def write(self, batch: Sequence[bytes], body_bytes: int, *, in_haste: bool = False) -> None:
        """Write and sync one batch, for which there is room; ``in_haste`` nothing else."""
        active = self._active
        assert active.room >= batch_bytes(body_bytes)
        head = records.encode_batch_head(
            active.salt, self._next_sequence, body_bytes + len(BATCH_END)
        )
        if not in_haste:
            self._zero_after(batch_bytes(body_bytes))
        try:
            self._files.write(active.fd, [head, *batch, BATCH_END], active.segment.used_bytes)
        except OSError:
            # Half a batch may stand there now. Only zeros may follow the last batch of a
            # segment that is written to, so this one is given up; rotating cuts it off.
            active.made_bytes = active.segment.used_bytes
            raise
        sync_data(self._files, active.fd, active.segment.path)
        active.segment.used_bytes += batch_bytes(body_bytes)
        self._next_sequence += 1

    def _zero_after(self, size: int) -> None:
        """Write zeros behind where ``size`` bytes are to go, if they are few and the first there.

        Before those: should there be no room for zeros the batch is still as it was, and may fit.
        """
        active = self._active
        offset = active.segment.used_bytes + size
        if offset <= active.zeroed_bytes or size > SMALL_BYTES:
            return
        end = min(offset + ZEROED_BYTES, active.made_bytes)
        try:
            while offset < end:
                page_end = min(end, offset - offset % len(PAGE) + len(PAGE))
                self._files.write(active.fd, [PAGE[: page_end - offset]], offset)
                offset = page_end
        except OSError as error:
            if not is_full(error):
                raise
            end = active.made_bytes  # a file system that allocates anew: it gains nothing by them
        active.zeroed_bytes = end

    def note(self, batch: Sequence[bytes]) -> None:
        """Remember what a written batch said, for the next segment and for releasing this."""
        last_index = self._active.segment.last_index
        for record in batch:
            index = self._ledger.note(record)
            if index == VOIDS:
                self._forget(records.peek(record)[1])
            elif index:
                group = records.peek(record)[1]
                last_index[group] = max(index, last_index.get(group, 0))

    def _forget(self, group: int) -> None:
        """No entry of ``group`` that is in a segment now holds it any longer."""
        for segment in (*self._older, self._active.segment):
            segment.last_index.pop(group, None)

    def rotate(self, body_bytes: int, *, from_reserve: bool = False) -> None:
        """Begin the next segment, with room for a batch of ``body_bytes``."""
        old = self._active
        self._active = self._begin(
            old.segment.number + 1, batch_bytes(body_bytes), from_reserve=from_reserve
        )
        self._close(old)

    def prepare(self) -> None:
        """Make what the next rotation will need, in good time.

        A full disk is so noticed while half a segment is still free.
        """
        self._made.prepare(spare=self._is_short_of_room)

    def release(self, covered: Mapping[int, int]) -> None:
        """Delete segments, oldest first, whose entries are all covered and marked as applied."""
        covered = {
            group: min(index, self._ledger.mark_index(group)) for group, index in covered.items()
        }
        while self._older and self._older[0].is_covered(covered):
            segment = self._older.pop(0)
            self._files.remove(segment.path)
            self._older_bytes -= segment.used_bytes
            # One by one: what a crash leaves must never lack a segment in the middle.
            sync_directory(self._files, self._made.directory)

    def close(self) -> None:
        """Write an empty batch, which proves that the one before it was synced."""
        if self.has_room(0, urgent=True):
            with contextlib.suppress(OSError):
                self.write([], 0)
        self._files.close(self._active.fd)

    def _begin(self, number: int, room: int, *, from_reserve: bool = False) -> Active:
        active = self._made.start(
            number, self._next_sequence, self._ledger.checkpoint(), room, from_reserve=from_reserve
        )
        self._next_sequence += 1
        return active

    def _close(self, old: Active) -> None:
        """End a segment; the next one is durable, so for want of room this may be left out."""
        end = old.segment.used_bytes
        closing = records.encode_close(old.salt, self._next_sequence - 1)
        with contextlib.suppress(OSError):
            self._files.write(old.fd, [closing], end)
            end += len(closing)
        with contextlib.suppress(OSError):
            self._files.truncate(old.fd, end)
        sync(self._files, old.fd, old.segment.path)
        self._files.close(old.fd)
        old.segment.used_bytes = end
        self._older.append(old.segment)
        self._older_bytes += end
