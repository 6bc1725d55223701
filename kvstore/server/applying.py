"""Applies what is committed to the engine: all groups of a node in one write, then the reads.

Entries are run one by one, in the order of each group's log, a fair
share for every group. Only once the batch is written do answers leave and reads see it. On a
full disk the batch is kept and written later; meanwhile nothing else is run. Where somebody
wants to see a group's state between two entries, the batch holds nothing of it beyond the
first (:mod:`kvstore.server.checkpoints`).

A leader applies at once, for clients wait. A follower has more urgent work, to write and to
acknowledge what comes next: it applies a little later, and so more at a time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.errors import DiskFull
from kvstore.ids import LogIndex
from kvstore.kv.engine import WriteBatch
from kvstore.server.shard_host import ShardHost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kvstore.kv.engine import Engine
    from kvstore.server.scheduling import Loop

log = logging.getLogger(__name__)

APPLY_BYTES_MAX = 256 * 1024
"""Committed bytes applied in one loop tick, so that a long catch-up never stalls the loop."""

DISK_RETRY_S = 0.25

FOLLOWER_LATER_S = 0.01
"""A follower's state lags behind its log by so much more: a new leader has no more to catch up."""


@dataclass(slots=True)
class _Applied:
    """One engine write, and the last entry of each group in it."""

    batch: WriteBatch
    last: dict[ShardHost, LogIndex] = field(default_factory=dict)


class Applier:
    """Invariant: while ``_unwritten`` waits for room, nothing else is run or written."""

    def __init__(
        self,
        engine: Engine,
        loop: Loop,
        *,
        guarded: Callable[[Callable[[], None]], None],
        on_full: Callable[[bool], None],
        on_resumed: Callable[[], None],
    ) -> None:
        """Make an applier with nothing to do.

        Args:
            engine: Where results go.
            loop: Calls back when a write is to be tried again.
            guarded: Runs what must stop the node if it fails.
            on_full: Told when the engine has no room, and when it has some again.
            on_resumed: Called when applying goes on after that.
        """
        self._engine = engine
        self._loop = loop
        self._guarded = guarded
        self._on_full = on_full
        self._on_resumed = on_resumed
        self._unwritten: _Applied | None = None
        self._followers: dict[ShardHost, None] = {}
        """Who has something to run when the timer is up."""
        self._when_written: list[Callable[[], None]] = []

    def can_apply(self, host: ShardHost) -> bool:
        """Whether committed entries of ``host`` may be run now."""
        return bool(host.to_apply) and not host.installing and self._unwritten is None

    def must_go_on(self, host: ShardHost) -> bool:
        """Whether ``host`` is to be looked at again at once, to run what is left."""
        return host.is_leader and self.can_apply(host)

    def apply(self, hosts: Collection[ShardHost]) -> None:
        """Run what is committed, all groups in one engine write, then serve reads.

        What followers have to run waits a little.
        """
        leaders = []
        for host in hosts:
            if not host.to_apply or not self.can_apply(host):
                continue
            if host.is_leader:
                leaders.append(host)
            else:
                self._apply_later(host)
        self._run(leaders)
        for host in hosts:
            host.serve_reads()

    def _apply_later(self, host: ShardHost) -> None:
        if not self._followers:
            self._loop.call_later(FOLLOWER_LATER_S, self._guarded, self._apply_followers)
        self._followers[host] = None

    def _apply_followers(self) -> None:
        followers = [host for host in self._followers if not host.has_left]
        self._run([host for host in followers if self.can_apply(host)])
        self._followers = {host: None for host in followers if self.can_apply(host)}
        if self._followers:
            self._loop.call_soon(self._guarded, self._apply_followers)
        for host in followers:
            host.serve_reads()

    def _run(self, hosts: list[ShardHost]) -> None:
        if hosts:
            applied = _Applied(self._engine.batch())
            self._gather(hosts, applied)
            self._write(applied)

    def when_written(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once the engine holds all that was run: at once, if no write waits.

        Whoever is to replace a group's state must not have an older write come after it.
        """
        if self._unwritten is None:
            callback()
        else:
            self._when_written.append(callback)

    def _gather(self, waiting: list[ShardHost], applied: _Applied) -> None:
        """A fair share of the budget for everybody, then the rest for whoever has more."""
        budget = APPLY_BYTES_MAX
        while waiting and budget > 0:
            share = budget // len(waiting)
            for host in waiting:
                budget -= self._gather_from(host, applied, share)
            waiting = [
                host for host in waiting if host.to_apply and not _is_at_checkpoint(host, applied)
            ]
        for host in applied.last:
            host.machine.flush(applied.batch)

    @staticmethod
    def _gather_from(host: ShardHost, applied: _Applied, bytes_max: int) -> int:
        """Run entries of one group, at least one; the result is their size."""
        size = 0
        while host.to_apply:
            entry = host.apply()
            applied.last[host] = entry.index
            size += len(entry.payload)
            if size >= bytes_max or _is_at_checkpoint(host, applied):
                break
        return size

    def _write(self, applied: _Applied) -> bool:
        """Write one batch to the engine; on a full disk keep it and come back later."""
        try:
            self._engine.write(applied.batch)
        except DiskFull as error:
            if self._unwritten is None:
                log.error("applying waits for room on the disk: %s", error)
                self._on_full(True)
            self._unwritten = applied
            self._loop.call_later(DISK_RETRY_S, self._guarded, self.retry_write)
            return False
        self._unwritten = None
        for host, index in applied.last.items():
            host.written(index)
        return True

    def retry_write(self) -> None:
        """Try again what found no room."""
        applied = self._unwritten
        assert applied is not None
        if self._write(applied):
            log.info("applying goes on: there is room on the disk again")
            self._on_full(False)
            waiting, self._when_written = self._when_written, []
            for callback in waiting:
                callback()
            self._on_resumed()


def _is_at_checkpoint(host: ShardHost, applied: _Applied) -> bool:
    """Whether the write must hold nothing of ``host`` beyond what is in it."""
    return applied.last[host] == host.checkpoints.next_index
