"""One shard as this client uses it: gathers operations and sends them, a frame at a time.

The operations of one loop tick share a frame. While a batch is unanswered those that come gather
until it is, or until they fill a frame: a busy shard is so asked much in few frames, an idle one
at once (Nagle's rule, RFC 896). While the window of unanswered batches is full, or nobody is
known to lead the shard, operations gather on; what was sent and failed goes before them. Whatever
happens, a caller hears by its deadline: all batches, those that were taken up
(:mod:`kvstore.client.call`) and those that gather, share one timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from kvstore.client.alarm import Alarm
from kvstore.client.backoff import seek_delay_s
from kvstore.client.batches import ReadBatch, ScanPage, WriteBatch
from kvstore.client.call import Call, late
from kvstore.client.gathering import Gathering
from kvstore.client.operations import TIMER_SLACK_S
from kvstore.client.read_window import ReadWindow
from kvstore.client.route import Contact, Route
from kvstore.client.session import Session
from kvstore.errors import copy_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.client.batches import Batch
    from kvstore.client.cluster import Cluster
    from kvstore.client.link import Link
    from kvstore.errors import KVError, NotLeader
    from kvstore.ids import NodeId, ShardId
    from kvstore.wire.requests import ScanReply, ScanRequest


class Channel:
    """Everything this client wants of one shard.

    Invariants: a batch is either gathering, or taken up by one call of ``_calls``; calls in
    ``_ready`` have no current attempt. While the route has no leader, at most one call at a
    time is sent to look for it, the ``_seeker``.
    """

    def __init__(self, shard: ShardId, replicas: Sequence[NodeId], cluster: Cluster) -> None:
        options = cluster.options
        self.route = Route(replicas)
        self.shard = shard
        self._cluster = cluster
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._read_window = ReadWindow(
            budget_bytes=cluster.read_budget_bytes,
            keys_max=options.batch_commands_max,
            batches_max=options.batches_outstanding_max,
        )
        self.writes: Gathering[WriteBatch] = Gathering(
            lambda: WriteBatch(shard),
            self._loop.create_future,
            self._schedule,
            commands_max=options.batch_commands_max,
            bytes_max=options.batch_bytes_max,
        )
        """Takes commands. A put's future gets its revision, another's whether it did something."""
        self.reads: Gathering[ReadBatch] = Gathering(
            lambda: ReadBatch(shard),
            self._loop.create_future,
            self._schedule,
            commands_max=self._read_window.batch_keys_max,
            bytes_max=options.batch_bytes_max,
        )
        """Takes keys to read. Its futures get a KeyValue or None."""
        self._session = self._new_session()
        self._calls: dict[Call, None] = {}
        self._ready: deque[Call] = deque()
        self._seeker: Call | None = None
        self._round_timer: asyncio.TimerHandle | None = None
        self._alarm = Alarm(self._loop, self._look_what_is_due)
        self._error: KVError | None = None
        self._is_scheduled = False
        self._end: KVError | None = None

    def _new_session(self, created: int = 0) -> Session:
        estimate, nonce = self._cluster.new_session_id()
        outstanding_max = self._options.batches_outstanding_max
        return Session(created or estimate, nonce, outstanding_max=outstanding_max)

    # -- operations come in -------------------------------------------------------------------

    def scan(self, request: ScanRequest, deadline: float) -> asyncio.Future[ScanReply]:
        """Take a request for one page, which has a frame of its own."""
        future: asyncio.Future[ScanReply] = self._loop.create_future()
        if self._end is not None:
            future.set_exception(copy_of(self._end))  # the caller has kept a scan for too long
            return future
        call = self._new_call(ScanPage(request, future, deadline))
        call.arm()
        self._ready.append(call)
        self._schedule()
        return future

    def _new_call(self, batch: Batch) -> Call:
        call = Call(batch, self, self._loop, self._cluster.rng)
        self._calls[call] = None
        return call

    # -- batches go out -----------------------------------------------------------------------

    def learn(self, replicas: Sequence[NodeId]) -> None:
        """These nodes have the shard according to a newer map."""
        self.route.learn(replicas)
        self.wake()

    def wake(self) -> None:
        """A connection has opened or ended: see if something can go now."""
        if self._ready or self.writes.batches or self.reads.batches:
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._end is not None:
            return
        while not self._is_seeking:
            call = self._take()
            if call is None:
                break
            link = self._target()
            if link is None:
                self._pause(call)
                break
            self._send(call, link)
        if self.writes.batches or self.reads.batches:
            self._alarm.set(min(self.writes.deadline, self.reads.deadline))

    @property
    def _is_seeking(self) -> bool:
        """Whether a call is out to find the leader."""
        seeker = self._seeker
        return seeker is not None and bool(seeker.request) and self.route.leader is None

    def _take(self) -> Call | None:
        """The next call to send: those that failed before, then writes, then reads."""
        while self._ready:
            call = self._ready.popleft()
            if call.is_done:
                continue
            if call.batch.operations.is_wanted:
                return call
            self.failed(call)
        while self.writes.batches and self._may_write:
            write = self.writes.pop()
            if write.begin(self._session):
                return self._new_call(write)
            self._release(write)
        while self.reads.batches and self._may_read:
            read = self.reads.pop()
            if read.begin(self._read_window):
                return self._new_call(read)
            self._release(read)
        return None

    @property
    def _may_write(self) -> bool:
        session = self._session
        return session.is_idle or (session.has_room and not self.writes.may_grow)

    @property
    def _may_read(self) -> bool:
        window, reads = self._read_window, self.reads
        if not window.batches:
            return True
        return not reads.may_grow and window.has_room(len(reads.first.operations))

    def _target(self) -> Link | None:
        """Where to send now; None: nowhere until a connection opens or a pause is over."""
        cluster, leader = self._cluster, self.route.leader
        if leader is not None:
            link = cluster.links.get(leader)
            if link is not None and link.is_open:
                return link
            cluster.contact(leader)  # so that it is connected to again
            self.route.lost(leader)
        node = self.route.pick(cluster.contact)
        return None if node is None else cluster.link(node)

    def _send(self, call: Call, link: Link) -> None:
        if self.route.leader is None:
            self._seeker = call
        cluster, options = self._cluster, self._options
        call.send(
            link,
            cluster.next_request(),
            cluster.map_version,
            options.attempt_timeout_s,
            options.attempt_timeout_s_max,
        )

    def _pause(self, call: Call) -> None:
        """Nobody is left to ask in this round."""
        call.arm()
        self._ready.appendleft(call)
        if self._round_timer is None:
            delay_s = seek_delay_s(self._cluster.rng)
            self._round_timer = self._loop.call_later(delay_s, self._next_round)

    def _next_round(self) -> None:
        self._round_timer = None
        self.route.next_round()
        self._cluster.learner.look_around()
        self._flush()

    # -- outcomes come in (see Owner in call.py) ----------------------------------------------

    def settled(self, call: Call, node: NodeId, answer_bytes: int) -> None:
        """``node`` served the call: it leads."""
        if isinstance(call.batch, ReadBatch):
            self._read_window.observe(answer_bytes, len(call.batch.operations))
            self.reads.commands_max = self._read_window.batch_keys_max
        self.route.served(node)
        self._error = None
        self._drop(call)
        self._release(call.batch)

    def failed(self, call: Call) -> None:
        """The callers have been told."""
        self._drop(call)
        self._release(call.batch)

    def refused(self, node: NodeId, error: NotLeader) -> None:
        """``node`` does not lead the shard."""
        hint = self._cluster.directed(node, self.shard, error)
        is_open = hint is not None and self._cluster.contact(hint) is Contact.OPEN
        self.route.refused(node, hint, is_open=is_open)

    def busy(self, node: NodeId) -> None:
        """``node`` refuses for the moment."""
        self.route.busy(node)

    def lost(self, node: NodeId) -> None:
        """``node`` leaves requests unanswered."""
        self.route.lost(node)

    def silent(self) -> None:
        """An attempt took too long: who is known may be gone for good."""
        self._cluster.learner.look_around(widely=True)

    def ready(self, call: Call) -> None:
        """To be sent again as soon as somebody leads."""
        self._error = call.error
        self._ready.append(call)
        self._schedule()

    def renew(self, call: Call, welcome_at: int) -> None:
        """Begin again in a new session, created at the revision that the shard asks for."""
        batch = call.batch
        assert isinstance(batch, WriteBatch)
        batch.operations.refusal = call.error
        if batch.session is self._session:
            self._session = self._new_session(welcome_at or self._session.created + 1)
        self._drop(call)
        self.writes.put_back([batch])
        self._schedule()

    def split(self, call: Call) -> None:
        """Begin again in two halves."""
        batch = call.batch
        self._drop(call)
        halves = batch.operations.halves()
        if not halves:
            self._release(batch)
        elif isinstance(batch, WriteBatch):
            self.writes.put_back([WriteBatch(self.shard, half) for half in halves])
        else:
            self._read_window.observe(self._options.frame_bytes_max, len(batch.operations))
            self.reads.commands_max = self._read_window.batch_keys_max
            self.reads.put_back([ReadBatch(self.shard, half) for half in halves])
        self._schedule()

    def why(self) -> KVError | None:
        """Why nothing can be sent; None when it only has to wait for its turn."""
        if self.route.leader is not None:
            return None
        return self._cluster.why_unreachable(self.shard) or self._error

    def _drop(self, call: Call) -> None:
        """The call is over; there may be room for the next."""
        call.finish()
        call.batch.end()
        if call is self._seeker:
            self._seeker = None
        del self._calls[call]
        self.wake()

    def _release(self, batch: Batch) -> None:
        """The batch is over: what it held is free."""
        self._cluster.gate.leave(batch.operations.entered, batch.operations.bytes)

    # -- time and the end ---------------------------------------------------------------------

    def due(self, at: float) -> None:
        """A call has something to do then."""
        self._alarm.set(at)

    def _look_what_is_due(self) -> None:
        now = self._loop.time() + TIMER_SLACK_S
        try:
            for call in list(self._calls):
                if call.wakes_at <= now:
                    call.wake(now)
            for gathering in (self.writes, self.reads):
                if gathering.deadline <= now:
                    for batch in gathering.expire(now, late(self.why())):
                        self._release(batch)
        finally:  # what is left is due in its turn, whatever has failed
            self._alarm.set(min(self.writes.deadline, self.reads.deadline))
            for call in self._calls:
                self._alarm.set(call.wakes_at)

    def close(self, error: KVError) -> None:
        """Fail everybody, each with what is known of its effect."""
        self._alarm.cancel()
        if self._round_timer is not None:
            self._round_timer.cancel()
        self._end = error
        for gathering in (self.writes, self.reads):
            for batch in gathering.take_all():
                batch.operations.fail(error)
                self._release(batch)
        for call in list(self._calls):
            call.fail(copy_of(error))
        self._ready.clear()
