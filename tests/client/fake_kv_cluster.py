"""A cluster inside the test process: real frames on loopback, scripted misbehaviour.

Every shard's state is shared by all nodes, as if replication took no time; what differs from
node to node is who leads, who answers, and how. Violations of the session rules are kept in
``violations``.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, cast

from kvstore.client import ClientOptions
from kvstore.errors import (
    DiskFull,
    Internal,
    InvalidArgument,
    KVError,
    NotLeader,
    Overloaded,
    SessionExpired,
)
from kvstore.hlc import revision_at
from kvstore.ids import NodeId, ReplicaId, ShardId
from kvstore.kv import commands, replies
from kvstore.sharding import map_wire
from kvstore.sharding.ring import shard_of
from kvstore.sharding.shard_map import MapNode, Replica, ShardMap
from kvstore.wire import requests
from kvstore.wire.codec import unpack
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame
from kvstore.wire.hello import Welcome, decode_hello, encode_welcome
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

QUICK = ClientOptions(
    timeout_s=5.0,
    dial_timeout_s=0.2,
    attempt_timeout_s=0.1,
    attempt_timeout_s_max=0.4,
    breaker_open_s_min=0.01,
    breaker_open_s_max=0.05,
)
"""Short waits, so that a test of what happens after them is quick."""
PATIENT = replace(QUICK, timeout_s=60.0, attempt_timeout_s=20.0, attempt_timeout_s_max=20.0)
"""Nothing is sent again for want of an answer, so that what is sent can be counted."""


CLUSTER_ID = "fake"
WALL_MS = 1_700_000_000_000
FRAME_BYTES_MAX = 16 << 20
DATA_KINDS = (Kind.WRITE, Kind.READ, Kind.SCAN)


class Do(Enum):
    """What a node does with one request, instead of serving it."""

    DROP_UNSERVED = auto()
    """Cut the connection without serving."""
    DROP_SERVED = auto()
    """Serve, then cut the connection instead of answering."""
    SWALLOW = auto()
    """Neither serve nor answer."""
    SERVE_SILENTLY = auto()
    """Serve, do not answer."""
    SERVE_LATE = auto()
    """Serve, and answer when :meth:`FakeNode.answer_late` is called."""
    OVERLOADED = auto()
    DISK_FULL = auto()
    INTERNAL = auto()
    EXPIRED = auto()
    """Answer as a shard that has forgotten the session."""
    NOT_LEADER_MAYBE = auto()
    """Lost the leadership with the entry in the log: it may or may not commit."""
    GARBAGE = auto()
    """Answer with a body that is no reply."""
    SERVE = auto()


@dataclass
class FakeShard:
    """What the replicas of one shard agree on."""

    id: ShardId
    leader: NodeId | None
    holders: list[NodeId]
    """The nodes that the map gives it to."""
    rows: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    sessions: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    acked: dict[tuple[int, int], int] = field(default_factory=dict)
    revision: int = revision_at(WALL_MS)
    applied: Counter[bytes] = field(default_factory=Counter)
    """How often a command changed each key."""


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until ``condition`` holds; fail rather than wait for ever."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a condition of the fake has no event
            await asyncio.sleep(0)


def number_of(node: NodeId) -> int:
    """Of a node called ``n1``, ``n2``, and so on."""
    return int(node.removeprefix("n"))


class FakeCluster:
    def __init__(self, nodes: int = 3, shards: int = 4) -> None:
        self.ids = [NodeId(f"n{number}") for number in range(1, nodes + 1)]
        self.shards = [
            FakeShard(ShardId(shard), self.ids[shard % nodes], self.ids) for shard in range(shards)
        ]
        self.nodes = {node_id: FakeNode(node_id, self) for node_id in self.ids}
        self.version = 1
        self.violations: list[str] = []
        self.bad_keys: set[bytes] = set()
        """A batch with one of them is refused as bad input."""
        self.answer_bytes_max = FRAME_BYTES_MAX

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        for node in self.nodes.values():
            await node.start()

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.kill()

    @property
    def endpoints(self) -> str:
        return ",".join(node.address for node in self.nodes.values())

    def node(self, number: int) -> FakeNode:
        return self.nodes[self.ids[number - 1]]

    def shard_of(self, key: bytes) -> FakeShard:
        return self.shards[shard_of(key, len(self.shards))]

    def leader_of(self, key: bytes) -> FakeNode:
        leader = self.shard_of(key).leader
        assert leader is not None
        return self.nodes[leader]

    def elect(self, leader: NodeId | None, shards: Iterable[FakeShard] | None = None) -> None:
        for shard in self.shards if shards is None else shards:
            shard.leader = leader

    async def join(self, count: int) -> list[FakeNode]:
        """So many nodes more, which hold nothing yet."""
        first = max(map(number_of, self.nodes)) + 1
        newcomers = [FakeNode(NodeId(f"n{first + more}"), self) for more in range(count)]
        for node in newcomers:
            await node.start()
            self.nodes[node.id] = node
        self.version += 1
        return newcomers

    def move(self, to: Sequence[FakeNode], shards: Iterable[FakeShard] | None = None) -> None:
        """The next map: ``shards`` are on the nodes ``to`` alone, and led by the first of them."""
        for shard in self.shards if shards is None else shards:
            shard.holders = [node.id for node in to]
            shard.leader = to[0].id
        self.version += 1

    def leave(self, nodes: Iterable[FakeNode]) -> None:
        """The next map: it is without these nodes."""
        for node in nodes:
            del self.nodes[node.id]
        self.version += 1

    def total(self, kind: Kind) -> int:
        """Frames of this kind that any node received."""
        return sum(node.received[kind] for node in self.nodes.values())

    def map_reply(self) -> bytes:
        replicas = tuple(Replica(ReplicaId(node.number), node.id) for node in self.nodes.values())
        shard_map = ShardMap(
            version=self.version,
            shards=len(self.shards),
            nodes=tuple(
                MapNode(node.id, node.number, node.address) for node in self.nodes.values()
            ),
            replicas=tuple(
                tuple(Replica(ReplicaId(number_of(node)), node) for node in shard.holders)
                for shard in self.shards
            ),
            meta=replicas,
            last_number=max(map(number_of, self.nodes)),
        )
        leaders = {shard.id: shard.leader for shard in self.shards if shard.leader is not None}
        return requests.encode_shard_map_reply(
            map_wire.encode(shard_map), leaders, revision_at(WALL_MS + 1)
        )

    # -- the state machine --------------------------------------------------------------------

    def write(self, request: requests.WriteRequest) -> bytes:
        shard = self.shards[request.shard]
        created, nonce, seq, ack_below, *fields = unpack(request.batch)
        session = created, nonce
        stored = shard.sessions.setdefault(session, {})
        acked = shard.acked[session] = max(shard.acked.get(session, 0), ack_below)
        if seq in stored:
            return stored[seq]
        if seq < acked or seq >= ack_below + 64:
            self.violations.append(f"seq {seq} with ack_below {ack_below}, acked {acked}")
        for settled in [number for number in stored if number < acked]:
            del stored[settled]
        reply = self._run(shard, fields, request.count)
        stored[seq] = reply
        return reply

    def _run(self, shard: FakeShard, fields: list[Any], count: int) -> bytes:
        todo = list(_split(fields))
        if len(todo) != count:
            self.violations.append(f"{len(todo)} commands, {count} announced")
        if any(key in self.bad_keys for _, key, *_ in todo):
            return replies.encode_refused(InvalidArgument("a key is bad"))
        first = shard.revision + 1
        effects = []
        for op, key, *values in todo:
            shard.revision += 1
            if shard_of(key, len(self.shards)) != shard.id:
                self.violations.append(f"{key!r} was sent to shard {shard.id}")
            present = shard.rows.get(key)
            if op == commands.CAS:
                effect = (present[0] if present else None) == values[0]
            else:
                effect = op == commands.PUT or present is not None
            effects.append(effect)
            if effect:
                shard.applied[key] += 1
                if op == commands.DELETE:
                    del shard.rows[key]
                else:
                    shard.rows[key] = (values[-1], shard.revision)
        return replies.encode_done(first, effects)

    def serve(self, frame: Frame) -> bytes:
        if frame.kind == Kind.WRITE:
            return self.write(requests.decode_write(frame.body))
        if frame.kind == Kind.READ:
            return self._read(requests.decode_read(frame.body))
        return self._scan(requests.decode_scan(frame.body))

    def _read(self, request: requests.ReadRequest) -> bytes:
        rows = self.shards[request.shard].rows
        if self.bad_keys.intersection(request.keys):
            raise InvalidArgument("a key is bad")
        return requests.encode_read_reply([rows.get(key) for key in request.keys])

    def _scan(self, request: requests.ScanRequest) -> bytes:
        shard = self.shards[request.shard]
        keys = sorted(
            key
            for key in shard.rows
            if key >= request.start and (request.end is None or key < request.end)
        )
        rows = [
            (key, None if request.keys_only else shard.rows[key][0], shard.rows[key][1])
            for key in keys[: request.limit]
        ]
        return requests.encode_scan_reply(rows, len(keys) > request.limit)


def _split(fields: list[Any]) -> Iterable[list[Any]]:
    """The commands of a flat batch."""
    widths = {commands.PUT: 3, commands.DELETE: 2, commands.CAS: 4}
    position = 0
    while position < len(fields):
        width = widths[fields[position]]
        yield fields[position : position + width]
        position += width


class FakeNode:
    def __init__(self, node_id: NodeId, cluster: FakeCluster) -> None:
        self.id = node_id
        self.cluster = cluster
        self.port = 0
        self.script: deque[Do] = deque()
        """What to do with the next requests for data; then they are served."""
        self.knows_leader = True
        """Whether a refusal names who leads."""
        self.stale_hint: NodeId | None = None
        """A refusal names this node instead."""
        self.stale_address: str | None = None
        """And says that it listens here."""
        self.own_version: int | None = None
        """A refusal tells of this version of the map, not of the newest; 0 for none."""
        self.boasts = False
        """Each refusal tells of a newer version of the map than the one before."""
        self.tells_map = True
        """Whether it answers when it is asked for the map."""
        self.old_map: bytes | None = None
        """What it then answers instead of the newest map."""
        self.map_error: KVError | None = None
        """And why it has none to give."""
        self.refusals = 0
        """Requests that it answered with ``NotLeader``."""
        self.cluster_id = CLUSTER_ID
        self.is_frozen = False
        self.received: Counter[Kind] = Counter()
        self.batch_sizes: list[int] = []
        self.hellos = 0
        self._late: list[tuple[FakeConnection, int, bytes]] = []
        self._held: list[tuple[FakeConnection, bytes]] = []
        self._server: asyncio.Server | None = None
        self.connections: set[FakeConnection] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def number(self) -> int:
        return number_of(self.id)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: FakeConnection(self), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """The process dies: its sockets close, its port refuses."""
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.cut()
            await self._server.wait_closed()
            self._server = None

    def freeze(self) -> None:
        """The kernel still accepts connections and bytes; nobody reads them."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        held, self._held = self._held, []
        for connection, data in held:
            connection.data_received(data)

    @property
    def is_asked(self) -> bool:
        """Whether anything arrived while it is frozen."""
        return bool(self._held)

    def hold(self, connection: FakeConnection, data: bytes) -> None:
        self._held.append((connection, data))

    def handle(self, connection: FakeConnection, frame: Frame) -> None:
        kind = Kind(frame.kind)
        self.received[kind] += 1
        match kind:
            case Kind.HELLO:
                self.hellos += 1
                decode_hello(frame.body)
                now = revision_at(WALL_MS)
                welcome = Welcome(self.cluster_id, self.id, 1, WALL_MS, now, "fake")
                connection.send(Kind.WELCOME, 0, encode_welcome(welcome))
            case Kind.SHARD_MAP if not self.tells_map:
                pass
            case Kind.SHARD_MAP if self.map_error is not None:
                error = requests.encode_error(self.map_error)
                connection.send(Kind.ERROR, frame.request, error)
            case Kind.SHARD_MAP:
                body = self.old_map or self.cluster.map_reply()
                connection.send(Kind.REPLY, frame.request, body)
            case Kind.STATUS:
                status = {"node": {"id": self.id, "state": "serving"}, "shards": []}
                body = requests.encode_status_reply(status)
                connection.send(Kind.REPLY, frame.request, body)
            case Kind.WRITE | Kind.READ | Kind.SCAN:
                self._data(connection, frame)
            case Kind.PING:
                connection.send(Kind.PONG, frame.request, b"")
            case Kind.GOODBYE | Kind.ERROR:
                connection.cut()
            case _:
                self.cluster.violations.append(f"unexpected {kind.name}")

    def _data(self, connection: FakeConnection, frame: Frame) -> None:
        try:
            body = self._serve(connection, frame)
        except KVError as error:
            connection.send(Kind.ERROR, frame.request, requests.encode_error(error))
            return
        if body is not None:
            connection.send(Kind.REPLY, frame.request, body)

    def _serve(self, connection: FakeConnection, frame: Frame) -> bytes | None:
        shard = self.cluster.shards[_shard_of_request(frame)]
        if shard.leader != self.id:
            self.refusals += 1
            raise self._refusal(shard)
        if frame.kind == Kind.WRITE:
            self.batch_sizes.append(requests.decode_write(frame.body).count)
        action = self.script.popleft() if self.script else Do.SERVE
        if action in _ERRORS:
            raise _ERRORS[action]()
        if action is Do.EXPIRED:
            gone = SessionExpired("the session is gone", welcome_at=shard.revision + 1)
            return replies.encode_refused(gone)
        if action is Do.GARBAGE:
            return b"\xc1"
        body = None
        if action in (Do.SERVE, Do.DROP_SERVED, Do.SERVE_SILENTLY, Do.SERVE_LATE):
            body = self.cluster.serve(frame)
            if len(body) > self.cluster.answer_bytes_max:
                raise InvalidArgument("the answer is too large; ask for less at once")
        if action in (Do.DROP_UNSERVED, Do.DROP_SERVED):
            connection.cut()
        if action is Do.SERVE_LATE and body is not None:
            self._late.append((connection, frame.request, body))
        return body if action is Do.SERVE else None

    def _refusal(self, shard: FakeShard) -> NotLeader:
        hint = self.stale_hint or (shard.leader if self.knows_leader else None)
        version = self.cluster.version if self.own_version is None else self.own_version
        if self.boasts:
            version += self.refusals
        listening = self.cluster.nodes.get(hint) if hint is not None and version else None
        return NotLeader(
            f"shard {shard.id} is led by {hint}",
            leader=hint,
            address=self.stale_address or (listening and listening.address),
            map_version=version,
        )

    def answer_late(self) -> None:
        late, self._late = self._late, []
        for connection, request, body in late:
            connection.send(Kind.REPLY, request, body)


_ERRORS: dict[Do, Callable[[], KVError]] = {
    Do.OVERLOADED: lambda: Overloaded("busy"),
    Do.DISK_FULL: lambda: DiskFull("no room"),
    Do.INTERNAL: lambda: Internal("a bug"),
    Do.NOT_LEADER_MAYBE: lambda: NotLeader("stepped down", may_have_applied=True),
}


def _shard_of_request(frame: Frame) -> int:
    decode: dict[int, Callable[[bytes], Any]] = {
        Kind.WRITE: requests.decode_write,
        Kind.READ: requests.decode_read,
        Kind.SCAN: requests.decode_scan,
    }
    shard: int = decode[frame.kind](frame.body).shard
    return shard


class FakeConnection(asyncio.Protocol):
    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._decoder = FrameDecoder(FRAME_BYTES_MAX)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._node.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._node.is_frozen:
            self._node.hold(self, data)
            return
        for frame in self._decoder.feed(data):
            self._node.handle(self, frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._node.connections.discard(self)

    def send(self, kind: Kind, request: int, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_frame(kind, request, body))

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()
