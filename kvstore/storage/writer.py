"""The one thread that writes the log: group commit, and what happens when the disk is full.

Everything appended while one batch is being synced forms the next one: one write, one
``fdatasync``, one call back to the event loop, however many groups and ticks are in it. No
Python code runs per record between the moment a batch is gathered and the moment it is
durable; the bookkeeping (:meth:`Segments.note`) follows after the loop has been told.

**Full disk.** Room is taken ahead: a segment is preallocated, and the spare for the next one
is made while half of it is still free. When that fails (``on_disk_full(True)``) writing goes
on in the half that is left, and there is time to turn clients away. When that is used up too,
what does not fit is held, in order, and room is looked for every ``RETRY_S``. Appends that
are *urgent* (terms and votes, so that this node can still take part in elections) go ahead
of the held ones, into what is left of the segment and then into one made of the reserve
file, which is kept for that. ``on_disk_full(False)`` follows once spare and reserve are back.

**Failing disk.** Whatever fails but for want of room, and any failed sync for whatever
reason, ends the thread through ``on_fatal``: nothing of that batch is acknowledged, nothing
is written or acknowledged after it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

from kvstore.errors import Internal
from kvstore.storage.files import is_full

if TYPE_CHECKING:
    from kvstore.storage.segments import Segments

RETRY_S = 0.25
BATCH_BYTES_MAX = 8 * 1024 * 1024
"""What one write gathers, unless a single append is larger."""


@dataclass(frozen=True, slots=True)
class Append:
    """Records that become durable together, and what to run on the loop once they are."""

    records: Sequence[bytes]
    size: int
    done: Callable[[], None]
    urgent: bool


@dataclass(frozen=True, slots=True)
class Release:
    """Entries up to these indexes are not needed any more."""

    covered: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Close:
    """Write what waits, unless there is no room for it, and end."""


Order: TypeAlias = Append | Release | Close


@dataclass(frozen=True, slots=True)
class Reports:
    """How the thread talks to the loop; each may be called from any thread."""

    durable: Callable[[list[Callable[[], None]]], None]
    disk_full: Callable[[bool], None]
    fatal: Callable[[BaseException], None]


class LogWriter:
    """Invariant: appends become durable in the order given, but for urgent ones while held."""

    def __init__(
        self,
        segments: Segments,
        reports: Reports,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.orders: Final[queue.SimpleQueue[Order]] = queue.SimpleQueue()
        self.live_bytes = segments.live_bytes
        self._turn = threading.Lock()
        """Held by whoever uses the segments."""
        self._segments = segments
        self._reports = reports
        self._clock = clock
        self._failed = False
        self._waiting: deque[Append] = deque()
        self._releases: list[Release] = []
        self._closing = False
        self._full = False
        self._retry_at = 0.0

    def run(self) -> None:
        """The thread: until closed, or until the disk fails."""
        try:
            with self._turn, self._last_if_it_fails():
                self._prepare()
            while not self._closing:
                self.step()
            with self._turn, self._last_if_it_fails():
                self._segments.close()
        except BaseException as error:  # noqa: BLE001  whatever it is, the node must stop
            self._reports.fatal(failure_of(error))

    def step(self) -> None:
        """Take the orders that have come, waiting for one if there is none; carry them out.

        Raises:
            Internal: a sync failed.
            OSError: the disk failed in another way; like that, the end of this log.
        """
        self._gather()
        with self._turn, self._last_if_it_fails():
            self._write_waiting()
            self._prepare()
            self._release()
            self.live_bytes = self._segments.live_bytes

    @contextmanager
    def _last_if_it_fails(self) -> Iterator[None]:
        """Use the segments, in turn: nothing is done with them any more once something failed."""
        if self._failed:
            raise Internal("the log has failed before")
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def write_now(self, appends: Sequence[Append], bytes_max: int) -> bool:
        """Make ``appends`` durable in the caller's thread, if they are small and no work waits.

        Only for a caller whose earlier appends are all durable. False, and nothing was done, if
        the thread is at work or room is short: then they are to go the usual way.

        Raises:
            Internal: a sync failed.
            OSError: the disk failed in another way; like that, the end of this log.
        """
        if not self._turn.acquire(blocking=False):
            return False
        try:
            with self._last_if_it_fails():
                return self._write_if_quick(appends, bytes_max)
        finally:
            self._turn.release()

    def _write_if_quick(self, appends: Sequence[Append], bytes_max: int) -> bool:
        size = sum(append.size for append in appends)
        is_at_rest = not self._full and not self._waiting
        if not (0 < size <= bytes_max and is_at_rest and self._segments.is_ready_for(size)):
            return False
        records = list(chain.from_iterable(append.records for append in appends))
        try:
            self._segments.write(records, size, in_haste=True)
        except OSError as error:
            if not is_full(error):
                raise
            return False
        self._segments.note(records)
        self.live_bytes = self._segments.live_bytes
        return True

    def _gather(self) -> None:
        """Wait for orders, for a bounded time if room is being looked for; take all there are."""
        timeout = max(0.0, self._retry_at - self._clock()) if self._full else None
        try:
            self._take(self.orders.get(timeout=timeout))
        except queue.Empty:
            return
        for _ in range(self.orders.qsize()):
            self._take(self.orders.get_nowait())

    def _take(self, order: Order) -> None:
        match order:
            case Append():
                self._waiting.append(order)
            case Release():
                self._releases.append(order)
            case Close():
                self._closing = True

    # -- writing ------------------------------------------------------------------------------

    def _write_waiting(self) -> None:
        while self._waiting:
            batch, size = self._next_batch()
            if not self._write(batch, size, urgent=False):
                self._write_urgent()
                return
            for _ in batch:
                self._waiting.popleft()
            self._durable(batch)

    def _next_batch(self) -> tuple[list[Append], int]:
        """The first of what waits, up to the batch bound."""
        batch: list[Append] = []
        size = 0
        for append in self._waiting:
            if batch and size + append.size > BATCH_BYTES_MAX:
                break
            batch.append(append)
            size += append.size
        return batch, size

    def _write_urgent(self) -> None:
        """Get terms and votes out although what was appended before them is held."""
        batch = [append for append in self._waiting if append.urgent]
        size = sum(append.size for append in batch)
        if batch and self._write(batch, size, urgent=True):
            self._waiting = deque(append for append in self._waiting if not append.urgent)
            self._durable(batch)

    def _write(self, batch: list[Append], size: int, *, urgent: bool) -> bool:
        """Make ``batch`` durable; False if there is no room."""
        if not size:
            return True
        try:
            if not self._segments.has_room(size, urgent=urgent):
                if not urgent and self._full and self._clock() < self._retry_at:
                    return False
                self._segments.rotate(size, from_reserve=urgent)
            self._segments.write(list(chain.from_iterable(a.records for a in batch)), size)
        except OSError as error:
            self._no_room(error)
            return False
        return True

    def _durable(self, batch: list[Append]) -> None:
        self._reports.durable([append.done for append in batch])
        for append in batch:
            self._segments.note(append.records)

    # -- room ---------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Take room ahead; while there is none, try again every ``RETRY_S``."""
        if self._full and self._clock() < self._retry_at:
            return
        try:
            self._segments.prepare()
        except OSError as error:
            self._no_room(error)
            return
        if self._full and not self._waiting:
            self._full = False
            self._reports.disk_full(False)

    def _no_room(self, error: OSError) -> None:
        if not is_full(error):
            raise error
        now = self._clock()
        if now >= self._retry_at:
            self._retry_at = now + RETRY_S
        if not self._full:
            self._full = True
            self._reports.disk_full(True)

    def _release(self) -> None:
        for order in self._releases:
            self._segments.release(order.covered)
        self._releases.clear()


def failure_of(error: BaseException) -> BaseException:
    """What to tell of an error that ends the log."""
    if not isinstance(error, OSError):
        return error
    failure = Internal(f"the log cannot be written: {error}")
    failure.__cause__ = error
    return failure
