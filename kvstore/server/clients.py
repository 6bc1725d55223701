"""Client requests: check, route to the shard's host, answer exactly once.

A malformed body gets an error under its own request id and changes nothing; the connection
stays. A shard that this node does not lead is answered ``NotLeader`` with the leader, its address
and the version of our shard map (:mod:`kvstore.server.signpost`); what that answer says is all
that a client with an older map is told, for whoever is served was routed well. Damaged data is no
answer: it stops the node, and whoever asked turns to another replica.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from kvstore.errors import (
    CorruptionError,
    Internal,
    InvalidArgument,
    KVError,
    NotLeader,
    Overloaded,
    Unavailable,
)
from kvstore.ids import ShardId, group_of_shard
from kvstore.kv import commands
from kvstore.server.pending import Read, Write
from kvstore.server.reading import BYTES_PER_KEY, LongRead, Reads, Scans
from kvstore.server.signpost import Signpost
from kvstore.wire import requests
from kvstore.wire.checksums import decode_checksum
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import decode_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from kvstore.ids import GroupId, NodeId
    from kvstore.server.administration import Administration
    from kvstore.server.admission import Admission
    from kvstore.server.checksums import Checksums
    from kvstore.server.membership import Membership
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.scheduling import Loop, Outcome
    from kvstore.server.shard_host import ShardHost
    from kvstore.server.throttle import LatencyMeter
    from kvstore.wire.frames import Frame

log = logging.getLogger(__name__)

PEER_OVERHEAD_BYTES = 4096
"""What a frame to another node may add to a client's batch."""


class Connection(Protocol):
    """The part of a client's connection that answers need."""

    @property
    def is_open(self) -> bool:
        """Whether frames can still be sent."""
        ...

    def send(self, frame: bytes) -> bool:
        """Queue an encoded frame; False when the connection no longer takes any."""
        ...


class ReplyTo:
    """The one answer of one request: a frame on its connection, and its charge given back."""

    __slots__ = (
        "_admission", "_came_at", "_connection", "_cost", "_meter", "_request", "_signpost",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        request: int,
        admission: Admission,
        cost: int,
        signpost: Signpost,
        meter: LatencyMeter | None = None,
    ) -> None:
        self._connection = connection
        self._request = request
        self._admission = admission
        self._cost = cost
        self._signpost = signpost
        self._meter = meter
        self._came_at = 0.0 if meter is None else meter.came()

    @property
    def is_wanted(self) -> bool:
        """Whether the connection still takes an answer."""
        return self._connection.is_open

    def reply(self, body: bytes) -> None:
        """Send ``body`` as the answer."""
        self._is_over()
        self._connection.send(encode_frame(Kind.REPLY, self._request, body))

    def fail(self, error: KVError) -> None:
        """Send ``error`` as the answer."""
        self._is_over()
        send_error(self._connection, self._request, self._signpost.complete(error))

    def _is_over(self) -> None:
        self._admission.release(self._cost)
        if self._meter is not None:
            self._meter.answered(self._came_at)


def send_error(connection: Connection, request: int, error: KVError) -> None:
    """Answer ``request`` with ``error``."""
    connection.send(encode_frame(Kind.ERROR, request, requests.encode_error(error)))


class ClientRequests:
    """Serves the requests of every client connection of this node."""

    def __init__(  # noqa: PLR0913  its collaborators, each by name
        self,
        driver: RaftDriver,
        admission: Admission,
        *,
        clock: Callable[[], float],
        request_timeout_s: float,
        relieve: Callable[[], None],
        frame_bytes_max: int,
        scan_threads: Executor,
        shard_map: Callable[[], bytes],
        status: Callable[[], bytes],
        where: Callable[[GroupId], NodeId | None] = lambda group: None,
        signpost: Signpost | None = None,
        checksums: Checksums | None = None,
        membership: Membership | None = None,
        administration: Administration | None = None,
        meter: LatencyMeter | None = None,
    ) -> None:
        self._driver = driver
        self._admission = admission
        self._clock = clock
        self._request_timeout_s = request_timeout_s
        self._reads = Reads(driver.loop, driver.guarded, relieve)
        self._scans = Scans()
        self._where = where
        self._meter = meter
        self._signpost = signpost or Signpost(lambda: None, {})
        self._frame_bytes_max = frame_bytes_max
        self._batch_bytes_max = frame_bytes_max - PEER_OVERHEAD_BYTES
        self._scan_threads = scan_threads
        self._handlers: dict[int, Callable[[Connection, Frame], None]] = {
            Kind.WRITE: self._write,
            Kind.READ: self._read,
            Kind.SCAN: self._scan,
            Kind.SHARD_MAP: _replying(shard_map, driver.loop),
            Kind.STATUS: _replying(status, driver.loop),
        }
        if checksums is not None:
            self._handlers[Kind.CHECKSUM] = self._checksum_by(checksums)
        if membership is not None:
            self._handlers[Kind.MEMBERS] = _replying(membership.members_reply, driver.loop)
            self._handlers[Kind.EVENTS] = self._events_of(membership)

        if administration is not None:
            self._handlers[Kind.ORDER] = administration.order
            self._handlers[Kind.TRANSFER] = administration.transfer

    def handle(self, connection: Connection, frame: Frame) -> None:
        """Take one frame of a client; whatever is wrong with it is answered, not raised."""
        handler = self._handlers.get(frame.kind)
        try:
            if handler is None:
                raise InvalidArgument(f"unknown request kind {frame.kind}")
            handler(connection, frame)
        except KVError as error:
            send_error(connection, frame.request, self._signpost.complete(error))

    def stop(self) -> None:
        """The threads are about to end."""
        self._scans.stop()

    def _host(self, shard: int) -> ShardHost:
        host = self._driver.hosts.get(group_of_shard(ShardId(shard)))
        if host is None:
            raise self._not_here(shard)
        return host

    def _not_here(self, shard: int) -> NotLeader:
        leader = self._where(group_of_shard(ShardId(shard)))
        return NotLeader(f"shard {shard} has no replica on this node", leader=leader)

    def _answer_to(
        self, connection: Connection, frame: Frame, cost: int, meter: LatencyMeter | None = None
    ) -> ReplyTo:
        return ReplyTo(connection, frame.request, self._admission, cost, self._signpost, meter)

    def _write(self, connection: Connection, frame: Frame) -> None:
        request = requests.decode_write(frame.body)
        if request.count > commands.COMMANDS_MAX:
            raise InvalidArgument(
                f"a batch of {request.count} commands; at most {commands.COMMANDS_MAX} are allowed"
            )
        if len(request.batch) > self._batch_bytes_max:
            raise InvalidArgument(
                f"a batch of {len(request.batch)} bytes is too large; "
                f"at most {self._batch_bytes_max} are allowed"
            )
        host = self._host(request.shard)
        if self._admission.disk_full:
            host.check_is_asked()  # Whoever leads instead may have room.
        cost = self._admission.admit_write(len(frame.body))
        answer = self._answer_to(connection, frame, cost, self._meter)
        host.write(Write(request.count, request.batch, answer))
        self._driver.wake(host)

    def _read(self, connection: Connection, frame: Frame) -> None:
        request = requests.decode_read(frame.body)
        host = self._host(request.shard)
        cost = self._admission.admit(len(frame.body))
        answer = self._answer_to(connection, frame, cost, self._meter)

        def serve() -> None:
            if not answer.is_wanted:
                answer.fail(_gone())
                return
            if not self._reads.may_read(len(request.keys)):
                self._read_later(host, request.keys, answer)
                return
            try:
                rows = host.machine.get_many(request.keys, self._frame_bytes_max)
            except InvalidArgument as error:
                answer.fail(error)
                return
            body = requests.encode_read_reply(rows)
            answer.reply(body)
            self._reads.turns.spend(len(body) // BYTES_PER_KEY)
            self._reads.answered(len(body))

        host.read(Read(serve, answer))
        self._driver.wake(host)

    def _read_later(self, host: ShardHost, keys: Sequence[bytes], answer: ReplyTo) -> None:
        """Read ``keys`` in turns with others."""
        deadline = self._clock() + self._request_timeout_s

        def why_not() -> KVError | None:
            if not answer.is_wanted:
                return _gone()
            if host.has_left:
                return self._not_here(host.shard)
            if self._clock() >= deadline:
                return Overloaded(
                    f"{host.name}: too much is read here, it was not our turn in time"
                )
            return None

        self._reads.turns.put(
            LongRead(
                self._reads,
                host,
                keys,
                answer,
                bytes_max=self._frame_bytes_max,
                encode=requests.encode_read_reply,
                why_not=why_not,
            )
        )

    def _scan(self, connection: Connection, frame: Frame) -> None:
        request = requests.decode_scan(frame.body)
        host = self._host(request.shard)
        answer = self._answer_to(connection, frame, self._admission.admit(len(frame.body)))

        bytes_max = min(request.bytes_max, self._batch_bytes_max)

        def page() -> bytes:
            if not answer.is_wanted:
                raise _gone()
            rows, more = host.machine.scan(
                request.start, request.end, request.limit, bytes_max, request.keys_only
            )
            return requests.encode_scan_reply(rows, more)

        def start() -> bool:
            if not answer.is_wanted:
                answer.fail(_gone())
                return False
            if host.has_left:
                answer.fail(self._not_here(host.shard))
                return False
            installs = host.installs

            def finished(done: Outcome[bytes]) -> None:
                self._scans.ended()
                if host.has_left:
                    answer.fail(self._not_here(host.shard))
                elif host.installs == installs:
                    self._answer_with(answer, done)
                else:
                    answer.fail(Unavailable(f"shard {host.shard}: the replica was replaced"))

            work = self._driver.loop.run_in_executor(self._scan_threads, page)
            work.add_done_callback(finished)
            return True

        host.read(Read(lambda: self._scans.begin(start), answer))
        self._driver.wake(host)

    def _answer_with(self, answer: ReplyTo, done: Outcome[bytes]) -> None:
        """Answer with what a thread computed, or with why it could not."""
        if done.cancelled():
            answer.fail(Unavailable("the node is stopping"))
            return
        error = done.exception()
        if error is None:
            body = done.result()
            answer.reply(body)
            self._reads.answered(len(body))
        elif isinstance(error, CorruptionError):
            self._driver.fail(error)
        else:
            answer.fail(as_answer(error, "scan"))

    def _checksum_by(self, checksums: Checksums) -> Callable[[Connection, Frame], None]:
        def handle(connection: Connection, frame: Frame) -> None:
            request = decode_checksum(frame.body)
            host = self._host(request.shard)
            cost = self._admission.admit(len(frame.body))
            answer = self._answer_to(connection, frame, cost)
            checksums.ask(host, request.index, request.wait_ms / 1000, answer)

        return handle

    def _events_of(self, membership: Membership) -> Callable[[Connection, Frame], None]:
        def handle(connection: Connection, frame: Frame) -> None:
            request = decode_events(frame.body)
            cost = self._admission.admit(len(frame.body))
            answer = self._answer_to(connection, frame, cost)
            membership.ask_events(request, answer)

        return handle


def _gone() -> Unavailable:
    """Heard by nobody: it ends a request without doing its work."""
    return Unavailable("the connection that asked is closed")


def _replying(body: Callable[[], bytes], loop: Loop) -> Callable[[Connection, Frame], None]:
    """A handler that answers at once with what ``body`` gives.

    That is asked for once in an iteration of the loop, however many want it: it tells of all that
    this node has, and takes a hundred times as long as to send it.
    """
    made: list[bytes] = []

    def handle(connection: Connection, frame: Frame) -> None:
        if not made:
            made.append(body())
            loop.call_soon(made.clear)
        connection.send(encode_frame(Kind.REPLY, frame.request, made[0]))

    return handle


def as_answer(error: BaseException, what: str) -> KVError:
    """What to tell of ``error``, which ended work in a thread; ours to explain if unforeseen."""
    if isinstance(error, KVError):
        return error
    log.error("a %s failed", what, exc_info=error)
    return Internal(f"the {what} failed: {error}")
