"""The write-ahead log of a node, shared by its groups (DESIGN section 6).

Records go to the writer thread (:mod:`kvstore.storage.writer`), which makes them durable in
batches and calls back once per batch. While nothing is under way and the disk is quick, a thread's
turn costs more than a sync: then the loop itself writes what is small, at the end of its iteration,
when what was to be sent has left. Where that takes over a millisecond the thread does it all for
fifty times as long: slow syncs so hold up the loop for a fiftieth of its time at most. And while
there is much to write the thread does it all, for then a disk that hesitates would hold up a
loop that has other things to do. The format
is described in :mod:`kvstore.storage.records`, what a crash may leave behind in
:mod:`kvstore.storage.scan`.

::

    wal, recovered = await open_wal(directory, cluster_id=..., node_id=..., ...)
    wal.append([encode_entry(...), encode_hard_state(...)], done)

When a group comes to this node or leaves it, that is a REPLICA record. So that every other
record counts for the replica that wrote it:

* Whoever wrote for the earlier replica appends nothing more of the group before the REPLICA
  record is appended.
* Nothing of the later replica is appended, nor in any other way promised, before the REPLICA
  record is durable: on a full disk its votes would overtake the record, which would then make
  them void. (In the same append, behind it, they may stand.)
* A REPLICA record is never urgent: it would overtake what the earlier replica wrote, which
  would then count for the later one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from kvstore.storage.files import Files, OsFiles
from kvstore.storage.recovery import recover
from kvstore.storage.replay import LogEntry, Mark, RecoveredLog
from kvstore.storage.waiting import UndelayedClock
from kvstore.storage.writer import Append, Close, LogWriter, Release, Reports, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kvstore.config import WalConfig
    from kvstore.ids import GroupId, LogIndex, ReplicaId
    from kvstore.storage.segments import Segments

HERE_BYTES_MAX: Final = 4 * 1024
"""Of one batch that the loop itself writes."""
HERE_S_MAX: Final = 0.001
"""How long the disk may take for that; see ``PAUSE_FACTOR``."""
BUSY_S: Final = 1.0
"""So long after one that was too large, or came while another was under way: a pause under load is
most likely one of the disk, and the loop must not be caught in the next."""
PAUSE_FACTOR: Final = 50
"""For so many times what a slow one took."""

__all__ = ["LogEntry", "Mark", "RecoveredLog", "Wal", "open_wal"]

log = logging.getLogger(__name__)


class Wal:
    """An open log. All methods are for the event loop it was opened on.

    Invariant: every ``done`` runs on the loop, once, in the order of the appends, after their
    records are durable; after ``on_fatal`` none runs any more.
    """

    def __init__(
        self,
        segments: Segments,
        *,
        on_fatal: Callable[[BaseException], None],
        on_disk_full: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_fatal = on_fatal
        self._on_disk_full = on_disk_full
        self._in_flight = 0
        self._here: list[Append] = []
        """To be written by the loop at the end of this iteration."""
        self._here_from = 0.0
        self._clock = UndelayedClock()
        self._failed = False
        self._writer = LogWriter(
            segments,
            Reports(
                durable=lambda dones: self._call(self._durable, dones),
                disk_full=lambda full: self._call(self._disk_full_changed, full),
                fatal=lambda error: self._call(self._fatal, error),
            ),
        )
        self.disk_full = False
        """Whether room for the next segment is missing: a good time to refuse writes."""
        self._closed = False
        self._thread = threading.Thread(target=self._writer.run, name="wal", daemon=True)
        self._thread.start()

    @property
    def live_bytes(self) -> int:
        """Bytes written to segments that still exist, as of the last finished batch."""
        return self._writer.live_bytes

    def append(
        self, records: Sequence[bytes], done: Callable[[], None], *, urgent: bool = False
    ) -> None:
        """Write ``records`` and then run ``done`` on the loop.

        The records of one append are recovered together or not at all. Without records,
        ``done`` runs after everything appended before; soon, if nothing is in flight. Once
        the log is closed or has failed nothing is written, and ``done`` never runs.

        Args:
            records: encoded by :mod:`kvstore.storage.records`.
            done: must not raise; if it does the log counts as failed.
            urgent: on a full disk this may become durable before earlier appends. Only for
                hard states whose ``done`` depends on nothing else that was appended.
        """
        if self._closed or self._failed:
            return
        if not records and not self._in_flight:
            self._in_flight = 1
            self._loop.call_soon(self._durable, [done])
            return
        append = Append(records, sum(map(len, records)), done, urgent)
        if self._here:
            self._here.append(append)
        elif self._is_for_here(append):
            self._here.append(append)
            self._loop.call_soon(self._loop.call_soon, self._write_here)
        else:
            if self._in_flight or append.size > HERE_BYTES_MAX:
                self._note_busy()
            self._writer.orders.put(append)
        self._in_flight += 1

    def _note_busy(self) -> None:
        self._here_from = max(self._here_from, time.monotonic() + BUSY_S)

    def _is_for_here(self, append: Append) -> bool:
        return (
            not self._in_flight
            and append.size <= HERE_BYTES_MAX
            and time.monotonic() >= self._here_from
        )

    def _write_here(self) -> None:
        """Write what gathered in this iteration, or give it to the thread as it is."""
        here, self._here = self._here, []
        if self._failed:
            return
        try:
            began = self._clock.now()
            written = self._writer.write_now(here, HERE_BYTES_MAX)
            took_s = self._clock.now() - began
        except BaseException as error:  # noqa: BLE001  as for the thread: the node must stop
            self._fatal(failure_of(error))
            return
        if not written:
            self._note_busy()
            self._give_to_thread(here)
            return
        if took_s > HERE_S_MAX:
            self._here_from = time.monotonic() + PAUSE_FACTOR * took_s
        self._durable([append.done for append in here])

    def _give_to_thread(self, appends: list[Append]) -> None:
        for append in appends:
            self._writer.orders.put(append)

    def _order(self, order: Release | Close) -> None:
        """Give the thread an order that counts behind everything appended so far."""
        here, self._here = self._here, []
        self._give_to_thread(here)
        self._writer.orders.put(order)

    def release(self, covered: Mapping[GroupId, LogIndex]) -> None:
        """Delete the oldest segments whose entries are not needed any more.

        An entry is not needed when it is at or below its group's ``covered`` index, which
        must be in the engine's *flushed* state, and at or below the group's last mark; void
        entries are never needed. Takes effect after everything appended before: ``covered``
        must be of the replica that the group has in the log by then.
        """
        self._order(Release(dict[int, int](covered.items())))

    async def close(self) -> None:
        """Write what was appended, run its ``done``, and end.

        What is held for want of room is given up: it was never acknowledged.
        """
        if not self._closed:
            self._closed = True
            self._order(Close())
            await asyncio.to_thread(self._thread.join)
            self._clock.close()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def _durable(self, dones: list[Callable[[], None]]) -> None:
        self._in_flight -= len(dones)
        for done in dones:
            if self._failed:
                return
            try:
                done()
            except BaseException as error:
                self._fatal(error)
                raise

    def _disk_full_changed(self, full: bool) -> None:
        self.disk_full = full
        self._on_disk_full(full)

    def _fatal(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._on_fatal(error)


async def open_wal(  # noqa: PLR0913  named options, half of them with defaults
    directory: Path,
    *,
    cluster_id: str,
    node_id: str,
    config: WalConfig,
    on_fatal: Callable[[BaseException], None],
    on_disk_full: Callable[[bool], None],
    applied: Mapping[GroupId, LogIndex] | None = None,
    held: Mapping[GroupId, ReplicaId] | None = None,
    progress: Callable[[int, int], None] | None = None,
    files: Files | None = None,
) -> tuple[Wal, dict[GroupId, RecoveredLog]]:
    """Read the log in ``directory``, mend its end, and go on with it.

    Args:
        directory: holds nothing but the log; made if missing.
        cluster_id: whose log it is.
        node_id: whose log it is.
        config: sizes.
        on_fatal: called on the loop, once, when the disk failed; the process must end.
        on_disk_full: called on the loop whenever room for the next segment runs out or is back.
        applied: each group's index in the engine's flushed state, if known: entries below it
            and below the group's mark are not kept in memory, and a log that is gone is missed.
        held: as which replica the engine holds each group (:mod:`kvstore.storage.stays`), none
            for one that was founded here: what an earlier one applied does not count.
        progress: called with bytes read and bytes in total.
        files: the disk, for tests.

    Returns:
        The open log and what each group knew, as far as it was durable.

    Raises:
        CorruptionError: synced bytes are damaged or missing; names file and offset.
        DataDirectoryError: the log is of another cluster or node or of a newer format.
        DiskFull: no room even for a first segment.
    """
    disk = files or OsFiles()
    segments, logs = await recover(
        directory,
        disk,
        config,
        cluster_id=cluster_id,
        node_id=node_id,
        applied=applied or {},
        held=held,
        progress=progress or (lambda done, total: None),
    )
    return Wal(segments, on_fatal=on_fatal, on_disk_full=on_disk_full), logs
