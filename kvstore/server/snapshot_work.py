"""Reads and writes snapshots for the cores, in threads, one piece at a time per transfer.

The core decides what is read, sent, written and when it is in force (Raft §7); this module
only moves bytes. A failure on the sending side is told to the core, which tries again later,
but for damaged data, which stops the node; on the receiving side the staged bytes are dropped
and the sender begins anew. What is sent to newcomers is paced, all transfers together.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from kvstore.errors import CorruptionError
from kvstore.ids import LogIndex, group_of_shard
from kvstore.raft import confchange
from kvstore.server.pacing import PAUSE_S_MIN
from kvstore.storage import records

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from kvstore.ids import ShardId
    from kvstore.kv.state_machine import Loaded
    from kvstore.raft.messages import SnapshotMeta
    from kvstore.raft.ready import Ready, SnapshotRead, SnapshotWrite
    from kvstore.server.pacing import Pace
    from kvstore.server.raft_driver import Log, RaftDriver
    from kvstore.server.scheduling import Outcome
    from kvstore.server.shard_host import ShardHost
    from kvstore.storage.snapshots import SnapshotReader, SnapshotStorage

T = TypeVar("T")

log = logging.getLogger(__name__)

ARRIVAL_IDLE_S: Final = 60.0
"""Of a snapshot of which no more has come for so long nothing is kept. Who sends gives up much
sooner, unless its pace holds it back, and begins anew when it is told that a piece does not fit."""


class OpenReader(NamedTuple):
    """A snapshot that is being sent."""

    reader: SnapshotReader
    at: float
    """When that began, in steady seconds."""


class SnapshotTransfers:
    """One thread does all of a node's snapshot I/O, so pieces are handled in order.

    Invariant: a reader stays open only while the core's transfer to that peer goes on.
    """

    def __init__(
        self,
        driver: RaftDriver,
        storage: SnapshotStorage,
        wal: Log,
        *,
        pace: Pace,
        thread: Executor,
        clock: Callable[[], float],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Send from ``storage`` and receive into it.

        Args:
            driver: Runs the groups.
            storage: Has the snapshots.
            wal: Notes where the log begins behind one that was installed.
            pace: Of what is sent to newcomers.
            thread: For all I/O on snapshots.
            clock: Steady seconds.
            on_fatal: Ends the node.
        """
        self._driver = driver
        self._storage = storage
        self._wal = wal
        self._thread = thread
        self._clock = clock
        self._on_fatal = on_fatal
        self._readers: dict[tuple[ShardId, int], OpenReader] = {}
        self._arrived_at: dict[ShardHost, float] = {}
        """Of each snapshot that arrives: when its last piece did."""
        self._pace = pace

    def handle(self, host: ShardHost, ready: Ready) -> None:
        """Take up the snapshot instructions of one ``Ready``."""
        for read in ready.snapshot_reads:
            if read.transfer not in ready.snapshots_closed:
                self._read(host, read)
        for transfer in ready.snapshots_closed:
            self._close(host, transfer)
        for write in ready.snapshot_writes:
            self._write(host, write)

    def forget(self, host: ShardHost) -> None:
        """Close what is open for ``host``, which has left."""
        self._arrived_at.pop(host, None)
        for shard, transfer in list(self._readers):
            if shard == host.shard:
                self._close(host, transfer)

    def oldest_s(self) -> float:
        """For how long the snapshot that was begun first has been on its way."""
        now = self._clock()
        return max((now - opened.at for opened in self._readers.values()), default=0.0)

    # -- sending side -------------------------------------------------------------------------

    def _read(self, host: ShardHost, read: SnapshotRead) -> None:
        key = host.shard, read.transfer
        meta: SnapshotMeta | None = None
        if read.offset == 0:
            meta = host.core.snapshot_meta(host.core.applied_index)
            self._readers[key] = OpenReader(self._storage.open(host.shard), self._clock())
            log.info("%s: snapshot at %d to replica %d", host.name, meta.index, read.peer)
        opened = self._readers.get(key)
        if opened is None:
            host.core.snapshot_failed(read.peer, read.transfer, self._clock())
            return

        def done(result: tuple[bytes, bool]) -> None:
            data, is_last = result
            self._pace.refund(charge, rate, used_bytes=len(data))
            host.core.snapshot_read(
                read.peer, read.transfer, meta, data, is_last=is_last, now=self._clock()
            )

        def failed(error: BaseException) -> None:
            if isinstance(error, CorruptionError):
                self._driver.fail(error)
                return
            log.error("%s: a snapshot could not be read: %s", host.name, error)
            self._close(host, read.transfer)
            host.core.snapshot_failed(read.peer, read.transfer, self._clock())

        def begin() -> None:
            if self._readers.get(key) is opened:
                reader = opened.reader
                self._submit(host, lambda: reader.read(read.offset, read.bytes_max), done, failed)
            else:
                self._pace.refund(charge, rate)

        # A voter that lacks what it has to vote on waits for nobody: its group is in danger.
        charge = 0 if read.peer in host.core.config.voters else read.bytes_max
        rate = self._pace.bytes_per_s
        self._in_turn(charge, begin)

    def _in_turn(self, charge: int, begin: Callable[[], None]) -> None:
        """Run ``begin`` once so many bytes may be sent."""
        wait_s = self._pace.reserve(charge, self._clock()) if charge else 0.0
        if wait_s < PAUSE_S_MIN:
            begin()
        else:
            self._driver.loop.call_later(wait_s, lambda: self._driver.guarded(begin))

    def _close(self, host: ShardHost, transfer: int) -> None:
        opened = self._readers.pop((host.shard, transfer), None)
        if opened is not None:
            self._in_background(opened.reader.close, "a snapshot could not be closed")

    # -- receiving side -----------------------------------------------------------------------

    def _write(self, host: ShardHost, write: SnapshotWrite) -> None:
        group = group_of_shard(host.shard)
        if write.is_last:
            self._arrived_at.pop(host, None)
            host.begin_install()
        else:
            self._note_arrival(host)

        def work() -> None:
            self._storage.stage(group, write.meta, write.offset, write.data, write.is_last)

        def done(_: None) -> None:
            host.core.snapshot_written(
                write.transfer, write.offset + len(write.data), self._clock()
            )
            if write.is_last:
                self._driver.when_written(lambda: self._install(host, write.meta))

        def failed(error: BaseException) -> None:
            log.error("%s: a snapshot could not be stored: %s", host.name, error)
            host.core.snapshot_aborted(write.transfer, self._clock())
            if write.is_last:  # a later attempt may have come to its end meanwhile
                host.installing = host.core.is_installing

        self._submit(host, work, done, failed)

    def _note_arrival(self, host: ShardHost) -> None:
        """A piece has come: from now on see whether others do."""
        if host not in self._arrived_at:
            self._look_later(host, ARRIVAL_IDLE_S)
        self._arrived_at[host] = self._clock()

    def _look_later(self, host: ShardHost, wait_s: float) -> None:
        self._driver.loop.call_later(wait_s, self._driver.guarded, self._give_up_if_idle, host)

    def _give_up_if_idle(self, host: ShardHost) -> None:
        """Nobody says that a snapshot will not be finished: only that nothing comes tells."""
        arrived_at = self._arrived_at.get(host)
        if arrived_at is None:
            return
        left_s = arrived_at + ARRIVAL_IDLE_S - self._clock()
        if left_s > 0:
            self._look_later(host, left_s)
            return
        del self._arrived_at[host]
        group = group_of_shard(host.shard)
        self._in_background(
            lambda: self._storage.give_up(group), "a part of a snapshot could not be removed"
        )

    def _install(self, host: ShardHost, meta: SnapshotMeta) -> None:
        """Put the staged state in force: engine first, then the log, then the core.

        The engine's part goes in steps: between them others have a turn in the thread.
        """
        if host.has_left:
            return
        group = group_of_shard(host.shard)

        def done(loaded: Loaded) -> None:
            # What the old log holds behind the snapshot conflicts with it: gone first.
            truncation = records.encode_truncation(group, LogIndex(meta.index + 1))
            mark = records.encode_mark(group, meta.index, meta.term, confchange.encode(meta.config))
            self._wal.append(
                [truncation, mark],
                lambda: self._driver.guarded(self._installed, host, meta, loaded),
            )

        steps = self._storage.installation(group, host.shard)

        def step() -> Loaded | None:
            if next(steps, None) is not None:
                return None
            host.machine.upgrade()
            return host.machine.load()

        def stepped(loaded: Loaded | None) -> None:
            if loaded is not None:
                done(loaded)
            else:
                go_on()

        def go_on() -> None:
            if not host.has_left:
                self._submit(host, step, stepped, self._on_fatal)

        go_on()

    def _installed(self, host: ShardHost, meta: SnapshotMeta, loaded: Loaded) -> None:
        if host.has_left:
            return
        group = group_of_shard(host.shard)
        self._in_background(
            lambda: self._storage.discard(group), "a staged snapshot could not be removed"
        )
        host.replaced_by_snapshot(meta.index, loaded)
        host.core.snapshot_installed(meta, self._clock())
        log.info("%s: snapshot at %d is in force", host.name, meta.index)
        self._driver.wake(host)

    def _submit(
        self,
        host: ShardHost,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Run ``work`` in the thread and the matching callback on the loop, unless stopped."""

        def finished(future: Outcome[T]) -> None:
            if future.cancelled() or host.has_left:
                return
            error = future.exception()
            if error is None:
                self._driver.guarded(lambda: done(future.result()))
            else:
                self._driver.guarded(lambda: failed(error))
            self._driver.wake(host)

        self._driver.loop.run_in_executor(self._thread, work).add_done_callback(finished)

    def _in_background(self, work: Callable[[], None], complaint: str) -> None:
        """Run ``work`` in the thread; if it fails that costs room, nothing else."""

        def finished(future: Outcome[None]) -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                log.warning("%s: %s", complaint, error)

        self._driver.loop.run_in_executor(self._thread, work).add_done_callback(finished)
