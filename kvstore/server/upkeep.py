"""What a node does on its own from time to time: flush, release, watch the disk, spread leaders.

Each is one method called by one periodic task, so that it can be run by hand in a test.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from kvstore.errors import DiskFull
from kvstore.raft import confchange
from kvstore.server.raft_driver import Log
from kvstore.server.throttle import WINDOW_S
from kvstore.storage import records

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId
    from kvstore.raft.messages import SnapshotMeta
    from kvstore.server.admission import Admission
    from kvstore.server.date_watch import DateWatch
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.shard_host import ShardHost

log = logging.getLogger(__name__)

UPKEEP_INTERVAL_S = 0.5
BALANCE_INTERVAL_S = 2.0
CHECKS_SKIPPED_WHEN_FULL = 40
"""Of the log keeper, after a flush that found no room: 20 s for the engine to recover."""

STEADY_S = 3.0
"""How long a node must have been connected, and we have led, before leadership is handed on."""

REOPEN_FRACTION = 8
"""Writes resume with an eighth more room than they were refused at: no flapping in between."""

CATCH_UP_ENTRIES_MAX = 64
"""A transfer is tried only when the target is at most so many entries behind."""


class ReleasableLog(Log, Protocol):
    """A write-ahead log that can be shortened."""

    @property
    def live_bytes(self) -> int:
        """What its segments hold."""
        ...

    def release(self, covered: Mapping[GroupId, LogIndex]) -> None:
        """Let go of what is at or below each group's index and its last mark."""
        ...


class FlushableEngine(Protocol):
    """The part of the storage engine that makes it durable."""

    def flush(self) -> None:
        """Make everything written so far durable; blocks.

        Raises:
            DiskFull: there is no room for it; it may be tried again later.
        """
        ...


class LogKeeper:
    """Keeps the write-ahead log short: flush the engine, mark what it covers, drop segments.

    Order matters. A segment may go once everything in it is in *flushed* engine state, and
    the marks that say "the log starts here" are durable; they are queued in the log before
    the release is. A core may keep more in memory for a slow follower: that is its business.
    """

    def __init__(
        self,
        driver: RaftDriver,
        wal: ReleasableLog,
        engine: FlushableEngine,
        *,
        live_bytes_max: int,
    ) -> None:
        self._driver = driver
        self._wal = wal
        self._engine = engine
        self._live_bytes_max = live_bytes_max
        self._is_held_up = False
        self._checks_to_skip = 0

    async def check(self) -> None:
        """Flush and release if the log has outgrown its bound.

        After a full disk RocksDB recovers by itself within seconds, unless it is asked to
        flush meanwhile: each failing flush would begin its recovery anew.
        """
        if self._checks_to_skip:
            self._checks_to_skip -= 1
        elif self._wal.live_bytes > self._live_bytes_max:
            await self.flush()
            if self._is_held_up:
                self._checks_to_skip = CHECKS_SKIPPED_WHEN_FULL

    async def flush(self) -> None:
        """Make all applied state durable in the engine, then let go of the log behind it.

        Without room for that everything stays as it is, to be tried again.
        """
        covered, hosts = self.covered(), dict(self._driver.hosts)
        try:
            await self._driver.loop.run_in_executor(None, self._engine.flush)
        except DiskFull as error:
            # Nothing is lost: the log keeps what the engine could not.
            if not self._is_held_up:
                log.error("the log cannot be shortened: %s", error)
            self._is_held_up = True
            return
        self._is_held_up = False
        # Of a group that has left meanwhile, or has come again, nothing may be said.
        current = self._driver.hosts
        self.release({g: meta for g, meta in covered.items() if current.get(g) is hosts[g]})

    def covered(self) -> dict[GroupId, SnapshotMeta]:
        """What a flush that begins now will cover: how far each group is applied."""
        return {
            group: host.core.snapshot_meta(host.core.applied_index)
            for group, host in self._driver.hosts.items()
            if not host.installing and host.core.applied_index
        }

    def release(self, covered: Mapping[GroupId, SnapshotMeta]) -> None:
        """The flush is done: mark what it covered, and release the log up to there."""
        marks = [
            records.encode_mark(group, meta.index, meta.term, confchange.encode(meta.config))
            for group, meta in covered.items()
        ]
        self._wal.append(marks, lambda: None)
        self._wal.release({group: meta.index for group, meta in covered.items()})


class DiskWatch:
    """Refuses writes before the disk is full, so that what was accepted can be finished."""

    def __init__(
        self, free_bytes: Callable[[], int], admission: Admission, *, free_bytes_min: int
    ) -> None:
        self._free_bytes = free_bytes
        self._admission = admission
        self._free_bytes_min = free_bytes_min
        self._log_is_full = False
        self._engine_is_full = False

    def log_full(self, full: bool) -> None:
        """The log itself found no room for a write, or has found it again."""
        self._log_is_full = full
        self.check()

    def engine_full(self, full: bool) -> None:
        """Likewise the engine: what is committed piles up until it can be applied."""
        self._engine_is_full = full
        self.check()

    def check(self) -> None:
        """Look at the free space and open or close the door for writes."""
        free = self._free_bytes()
        needed = self._free_bytes_min
        if self._admission.disk_full:
            needed += needed // REOPEN_FRACTION
        full = self._log_is_full or self._engine_is_full or free < needed
        if full != self._admission.disk_full:
            self._admission.disk_full = full
            if full:
                log.error("disk full (%d bytes free): writes are refused, reads go on", free)
            else:
                log.info("room on the disk again (%d bytes free): writes resume", free)


class LeaderBalance:
    """Hands each shard to its preferred node, the first of its replicas in the shard map.

    Placement gives every node its share of first places, so leaders end up spread evenly.
    """

    def __init__(
        self,
        driver: RaftDriver,
        preferred: Callable[[GroupId], NodeId | None],
        *,
        steady_since: Callable[[NodeId], float | None],
        clock: Callable[[], float],
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        self._driver = driver
        self._preferred = preferred
        self._may_lead = may_lead
        self._refuges = 0
        self._steady_since = steady_since
        self._clock = clock
        self._led_since: dict[GroupId, tuple[int, float]] = {}

    def check(self) -> None:
        """Start transfers to preferred nodes that have been steady and are caught up."""
        now = self._clock()
        if not self._may_lead():
            self._hand_all_over(now)
            return
        for group, host in self._driver.hosts.items():
            node = self._preferred(group)
            if node is None or not host.is_leader or host.leader_node == node:
                continue
            if not self._is_steady(self._steady_since(node), now):
                continue
            if not self._is_steady(self._leading_since(group, host.core.term, now), now):
                continue
            for peer in successors(host, now):
                if host.replicas.get(peer) == node:
                    self._transfer(host, peer, now)

    def _hand_all_over(self, now: float) -> None:
        """This node cannot serve writes: let others lead, each peer in its turn.

        One that cannot either declines (see ``RaftDriver``), and the next try asks another.
        """
        self._refuges += 1
        for host in self._driver.hosts.values():
            targets = successors(host, now) if host.is_leader else []
            if targets:
                self._transfer(host, targets[self._refuges % len(targets)], now)

    def _transfer(self, host: ShardHost, to: ReplicaId, now: float) -> None:
        log.info("%s: leadership goes to %s", host.name, host.replicas[to])
        host.core.transfer_leadership(to, now)
        self._driver.wake(host)

    def _leading_since(self, group: GroupId, term: int, now: float) -> float:
        """Since when we have led ``group`` in ``term``, as far as these checks have seen.

        A shard that was just handed to us by a node that stops must not go straight back.
        """
        if self._led_since.get(group, (0, 0.0))[0] != term:
            self._led_since[group] = term, now
        return self._led_since[group][1]

    @staticmethod
    def _is_steady(since: float | None, now: float) -> bool:
        return since is not None and now - since >= STEADY_S


def successors(host: ShardHost, now: float) -> list[ReplicaId]:
    """Who could take over at once: voters that are there and caught up, in the order of ids."""
    status = host.core.status(now)
    return [
        peer.replica
        for peer in status.progress
        if peer.recently_active
        and peer.replica in status.config.voters
        and peer.match_index + CATCH_UP_ENTRIES_MAX >= status.last_index
    ]


def hand_over(driver: RaftDriver, now: float) -> None:
    """Begin to give each shard that this node leads to the replica that has most of its log."""
    for host in driver.hosts.values():
        if not host.is_leader:
            continue
        known = host.core.status(now)
        voters = known.config.voters
        peers = [p for p in known.progress if p.recently_active and p.replica in voters]
        if peers:
            best = max(peers, key=lambda peer: peer.match_index)
            host.core.transfer_leadership(best.replica, now)
            driver.wake(host)


def periodic(
    keeper: LogKeeper,
    disk: DiskWatch,
    date: DateWatch,
    balance: LeaderBalance,
    pace: Callable[[], None],
) -> list[Coroutine[None, None, None]]:
    """The loops that run all of it, to be owned by the node."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(UPKEEP_INTERVAL_S)
            await keeper.check()

    async def watch() -> None:
        while True:
            disk.check()
            date.check()
            await asyncio.sleep(UPKEEP_INTERVAL_S)

    async def spread() -> None:
        while True:
            await asyncio.sleep(BALANCE_INTERVAL_S)
            balance.check()

    async def watch_clients() -> None:
        while True:
            await asyncio.sleep(WINDOW_S)
            pace()

    return [keep(), watch(), spread(), watch_clients()]
