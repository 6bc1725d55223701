"""Carries out what the Raft cores of all groups of a node decide, once per loop tick.

Whatever happens in one iteration of the event loop (client batches, messages of peers,
finished writes, timers) only marks groups as dirty. At its end one :meth:`RaftDriver._flush`
gathers all dirty groups: one log entry per shard of everything pending, one frame per peer
and lane, one write-ahead-log batch, one engine write (DESIGN sections 3 and 5). What costs
per batch is so paid per node and tick, not per shard or request.

The order of duties is that of :mod:`kvstore.raft.ready`. A failure in here leaves a replica
in an unknown state, so it is never handled: the node stops (``on_fatal``), and its log
brings it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kvstore.ids import GroupId, LogIndex, NodeId, Term, group_of_shard
from kvstore.net.repeats import RepeatFilter
from kvstore.raft import confchange
from kvstore.raft.messages import (
    AppendRequest,
    Message,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role
from kvstore.raft.validation import is_within_reach
from kvstore.server.applying import Applier
from kvstore.server.late_reads import LateReads
from kvstore.server.peer_messages import check_message
from kvstore.server.sending import Outbox, Sender
from kvstore.server.shard_host import GATHER_S, ShardHost
from kvstore.storage import records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.ids import ReplicaId
    from kvstore.kv.engine import Engine
    from kvstore.net.transport import PeerTransport
    from kvstore.raft.ready import Ready
    from kvstore.server.pacing import Pace
    from kvstore.server.scheduling import Loop

log = logging.getLogger(__name__)

TICK_INTERVAL_S = 0.1
"""How often timers of the cores are looked at while every group has a leader, on the beat that
their heartbeats share."""

TICK_ELECTION_S = 0.005
"""How often while one has not: elections are a matter of milliseconds."""

BACKLOG_BYTES_MAX = 32 * 1024 * 1024
"""Committed bytes of one group that wait for the engine, beyond which no more are taken in."""


class Log(Protocol):
    """The part of the write-ahead log that the driver needs."""

    disk_full: bool

    def append(
        self, records: Sequence[bytes], done: Callable[[], None], *, urgent: bool = False
    ) -> None:
        """Write ``records``; run ``done`` on the loop once they and all before are durable.

        On a full disk ``urgent`` ones need not wait for those before.
        """
        ...


class SnapshotWork(Protocol):
    """Who reads and writes snapshots, off the loop."""

    def handle(self, host: ShardHost, ready: Ready) -> None:
        """Take up the snapshot instructions of ``ready``."""
        ...


@dataclass(slots=True)
class _Durable:
    """What to do for one group once this tick's log batch is durable."""

    host: ShardHost
    index: LogIndex
    term: Term
    messages: Sequence[Message]


@dataclass(slots=True)
class _LogBatch:
    """Records of one tick, all groups together, and what follows once they are durable."""

    records: list[bytes] = field(default_factory=list)
    when_durable: list[_Durable] = field(default_factory=list)


class RaftDriver:
    """Owns the tick of all groups of one node."""

    def __init__(  # noqa: PLR0913  its collaborators, each by name
        self,
        hosts: Mapping[GroupId, ShardHost],
        wal: Log,
        engine: Engine,
        peers: PeerTransport,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        on_fatal: Callable[[BaseException], None],
        on_engine_full: Callable[[bool], None] = lambda full: None,
        pace: Pace | None = None,
        loop: Loop | None = None,
    ) -> None:
        """Take over ``hosts``. What is sent to newcomers is held to ``pace``."""
        self.hosts = dict(hosts)
        self._wal = wal
        self._clock = clock
        self._wall_ms = wall_ms
        self._on_fatal = on_fatal
        self._dirty: dict[ShardHost, None] = {}
        self._gathering: dict[ShardHost, None] = {}
        self._flush_scheduled = False
        self._stopped = False
        self._roles: dict[ShardHost, tuple[Role, Term, ReplicaId]] = {}
        self.loop: Loop = loop or asyncio.get_running_loop()
        """Where everything of this node runs."""
        self._applier = Applier(
            engine,
            self.loop,
            guarded=self.guarded,
            on_full=on_engine_full,
            on_resumed=lambda: self._wake_all(),
        )
        self._sender = Sender(
            peers, pace, later=self._later, clock=clock, on_dropped=self.messages_dropped
        )
        self._absurdities = RepeatFilter()
        self._late_reads = LateReads(self._later, clock, self.wake)
        self.snapshots: SnapshotWork
        """Must be set before anything is received."""
        self.may_lead: Callable[[], bool] = lambda: True
        """Whether this node can serve as a leader; if not, it declines to take over."""
        self._hurry = asyncio.Event()
        self.role_changed = asyncio.Event()
        """Set whenever a group's role, term or leader changes here."""

    # -- groups that come and go ---------------------------------------------------------------

    def add(self, host: ShardHost) -> None:
        """This node holds ``host``'s shard from now on."""
        group = group_of_shard(host.shard)
        assert group not in self.hosts
        self.hosts[group] = host
        self._hurry.set()

    def remove(self, group: GroupId) -> ShardHost:
        """This node holds ``group`` no more; what is under way for it counts for nothing."""
        host = self.hosts.pop(group)
        host.leave()
        self._dirty.pop(host, None)
        self._roles.pop(host, None)
        return host

    # -- what marks a group dirty ---------------------------------------------------------

    def wake(self, host: ShardHost) -> None:
        """``host`` has something new; it is looked at when this loop iteration ends."""
        if host.has_left:
            return
        self._dirty[host] = None
        if not self._flush_scheduled and not self._stopped:
            self._flush_scheduled = True
            self.loop.call_soon(self.guarded, self._flush)

    def _wake_all(self) -> None:
        for host in self.hosts.values():
            self.wake(host)

    def receive(self, node: NodeId, messages: Sequence[tuple[GroupId, Message]]) -> None:
        """Messages of the peer ``node``; those of groups that are not here are dropped.

        Raises:
            ProtocolError: one holds what no correct replica sends; none of them was used.
        """
        for _, message in messages:
            check_message(message)
        self.guarded(self._step, node, messages)

    def _step(self, node: NodeId, messages: Sequence[tuple[GroupId, Message]]) -> None:
        now = self._clock()
        for group, message in messages:
            host = self.hosts.get(group)
            if host is None or host.replicas.get(message.sender) != node:
                continue
            if not is_within_reach(message, host.core.term):
                self._note_absurd(host, node, message)
                continue
            if host.to_apply_bytes > BACKLOG_BYTES_MAX and isinstance(message, AppendRequest):
                continue  # The engine does not keep up; the leader will send it again.
            if isinstance(message, TimeoutNow) and not self.may_lead():
                continue  # The leader gives up on the transfer and tries another.
            host.core.step(message, now)
            if host.core.has_ready():
                self.wake(host)

    def _note_absurd(self, host: ShardHost, node: NodeId, message: Message) -> None:
        if self._absurdities.is_new((host, node), self._clock()):
            log.warning(
                "%s: %s speaks of term %d, and we are in term %d: no group gets so far, and "
                "what it says is dropped",
                host.name,
                node,
                message.term,
                host.core.term,
            )

    def peer_connected(self, node: NodeId) -> None:
        """A connection to ``node`` stands (again)."""
        self._tell_hosts_of(node, lambda host, peer, now: host.core.peer_connected(peer, now))

    def campaign_if_leaderless(self, group: GroupId) -> None:
        """Stand for election in ``group`` now, if nobody is known to lead it."""
        host = self.hosts.get(group)
        if host is not None and host.leader_node is None:
            self.guarded(lambda: host.core.campaign(self._clock()))
            self.wake(host)

    def peer_gone(self, node: NodeId) -> None:
        """The process of ``node`` is dead: its connection dropped and a new one was refused."""
        self._tell_hosts_of(node, lambda host, peer, now: host.core.peer_gone(peer, now))
        self._hurry.set()

    def messages_dropped(self, node: NodeId) -> None:
        """What was to be sent to ``node`` did not fit its queue."""
        self._tell_hosts_of(node, lambda host, peer, now: host.core.peer_unreachable(peer, now))

    def _tell_hosts_of(
        self, node: NodeId, tell: Callable[[ShardHost, ReplicaId, float], None]
    ) -> None:
        now = self._clock()

        def tell_all() -> None:
            for host in self.hosts.values():
                for replica in confchange.members(host.core.config):
                    if host.replicas.get(replica) == node and replica != host.core.replica:
                        tell(host, replica, now)
                        self.wake(host)

        self.guarded(tell_all)

    async def run(self) -> None:
        """Tick every core until cancelled."""
        while True:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.until_tick_s()):
                    await self._hurry.wait()
            self.guarded(self.tick)

    def until_tick_s(self) -> float:
        """When the next tick is due: on the beat, or soon if a group has no leader."""
        if all(host.core.is_settled for host in self.hosts.values()):
            return TICK_INTERVAL_S - self._clock() % TICK_INTERVAL_S
        return TICK_ELECTION_S

    def when_written(self, callback: Callable[[], None]) -> None:
        """See :meth:`Applier.when_written`."""
        self._applier.when_written(callback)

    def stop(self) -> None:
        """Nothing more is sent, written or applied."""
        self._stopped = True

    def tick(self) -> None:
        """Look at the timers of every core; see :meth:`run`."""
        now = self._clock()
        for host in self.hosts.values():
            host.core.tick(now)
            host.expire(now)
            if host.core.has_ready() or self._roles.get(host) != host.core.standing:
                self.wake(host)

    def _later(self, delay_s: float, work: Callable[[], None]) -> None:
        self.loop.call_later(delay_s, self.guarded, work)

    def guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run ``work`` unless stopped; if it fails the node must stop.

        For every callback that touches a core: an event loop only logs what one raises.
        """
        if self._stopped:
            return
        try:
            work(*arguments)
        except BaseException as error:
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """The node must stop because of ``error``, which work in a thread came upon."""
        if not self._stopped:
            self._stopped = True
            self._on_fatal(error)

    # -- the tick ---------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_scheduled = False
        now, wall_ms = self._clock(), self._wall_ms()
        dirty, self._dirty = self._dirty, {}
        outbox, to_log, votes = Outbox(), _LogBatch(), _LogBatch()
        for host in dirty:
            host.collect(now, wall_ms)
            if host.core.has_ready():
                ready = host.core.ready(now)
                is_vote = self._wal.disk_full and _may_overtake(ready)
                self._log(host, ready, votes if is_vote else to_log)
                self._take(host, ready, outbox)
                self._late_reads.watch(host)
            self._note_role(host, now)
        self._sender.send(outbox)
        self._append(votes, urgent=True)
        self._append(to_log)
        self._applier.apply(dirty)
        for host in dirty:
            if host.core.has_ready():
                self.wake(host)
            elif host.has_waiting:
                self._see_again(host)

    def _see_again(self, host: ShardHost) -> None:
        """Look at ``host`` again when what waits there may go on."""
        if self._applier.must_go_on(host) or host.may_propose:
            self.wake(host)
        elif host.is_gathering:
            self._wake_gathered(host)

    def _wake_gathered(self, host: ShardHost) -> None:
        """Look at ``host`` again once its writes have gathered for long enough."""
        if not self._gathering:
            self.loop.call_later(GATHER_S, self.guarded, self._end_gathering)
        self._gathering[host] = None

    def _end_gathering(self) -> None:
        gathering, self._gathering = self._gathering, {}
        for host in gathering:
            if host.is_gathering:
                self.wake(host)

    def _log(self, host: ShardHost, ready: Ready, batch: _LogBatch) -> None:
        """Add what one group must have durable to the tick's log batch."""
        group = group_of_shard(host.shard)
        if ready.hard_state is not None:
            batch.records.append(
                records.encode_hard_state(group, ready.hard_state.term, ready.hard_state.vote)
            )
        for entry in ready.entries:
            batch.records.append(
                records.encode_entry(group, entry.index, entry.term, entry.kind, entry.payload)
            )
        if ready.compacted is not None:
            index, term, config = ready.compacted
            batch.records.append(records.encode_mark(group, index, term, confchange.encode(config)))
        if ready.entries:
            last = ready.entries[-1]
            batch.when_durable.append(
                _Durable(host, last.index, last.term, ready.messages_when_durable)
            )
        elif ready.messages_when_durable:
            batch.when_durable.append(
                _Durable(host, LogIndex(0), Term(0), ready.messages_when_durable)
            )

    def _append(self, batch: _LogBatch, *, urgent: bool = False) -> None:
        if batch.records or batch.when_durable:
            done = functools.partial(self.guarded, self._durable, batch.when_durable)
            self._wal.append(batch.records, done, urgent=urgent)

    def _take(self, host: ShardHost, ready: Ready, outbox: Outbox) -> None:
        """What need not wait for the log."""
        if ready.entries:
            host.observe(ready.entries)
        if ready.messages:
            outbox.add(host, ready.messages)
        if ready.committed:
            host.commit(ready.committed)
        if ready.read_states or ready.reads_failed:
            host.confirm(ready.read_states, ready.reads_failed)
        self.snapshots.handle(host, ready)

    def _durable(self, done: list[_Durable]) -> None:
        now = self._clock()
        outbox = Outbox()
        for item in done:
            host, messages = item.host, item.messages
            if host.has_left:
                continue
            if item.index:
                host.core.persisted(item.index, item.term, now)
            if messages:
                outbox.add(host, messages)
                for message in messages:
                    if message.receiver == host.core.replica:
                        host.core.step(message, now)
            if host.core.has_ready():
                self.wake(host)
        self._sender.send(outbox)

    def _note_role(self, host: ShardHost, now: float) -> None:
        """Log a change of role or leader, and answer what a deposed leader cannot finish."""
        before, after = self._roles.get(host), host.core.standing
        if before == after:
            return
        self._roles[host] = after
        self.role_changed.set()
        if before is not None and before[0] is Role.LEADER and before[:2] != after[:2]:
            host.lost_leadership(now)
        else:
            host.leader_changed()
        log.info(
            "%s: %s in term %d, leader %s",
            host.name,
            after[0].name.lower(),
            after[1],
            host.leader_node or "unknown",
        )


def _may_overtake(ready: Ready) -> bool:
    """Whether this is only about an election, and rests on nothing that was written before.

    With its hard state a vote brings along all that it promises. Without one only pre-votes
    and refusals promise nothing; a vote that is given again waits for its first writing.
    """
    messages = ready.messages_when_durable
    if ready.entries or ready.compacted is not None:
        return False
    if not all(isinstance(message, VoteRequest | VoteResponse) for message in messages):
        return False
    return ready.hard_state is not None or all(
        isinstance(message, VoteResponse) and (message.pre_vote or not message.granted)
        for message in messages
    )
