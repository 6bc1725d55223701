"""One node's driver and hosts on a log, engine, peers and clock that a test holds in its hands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvstore.config import LimitsConfig, RaftConfig
from kvstore.errors import DiskFull, KVError
from kvstore.hlc import HybridClock
from kvstore.ids import NO_REPLICA, GroupId, LogIndex, NodeId, ReplicaId, ShardId, Term
from kvstore.ids import group_of_shard as group_of
from kvstore.kv import commands
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine
from kvstore.raft.core import RaftCore, RecoveredGroup
from kvstore.raft.messages import (
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    Message,
    SnapshotMeta,
    VoteResponse,
)
from kvstore.server.pending import Read, Write
from kvstore.server.raft_driver import RaftDriver
from kvstore.server.shard_host import ShardHost
from kvstore.storage.memory import MemoryEngine
from kvstore.wire.frames import HEADER_BYTES
from kvstore.wire.raft_codec import decode_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.kv.engine import WriteBatch
    from kvstore.net.transport import Lane
    from kvstore.raft.ready import Ready

OWN = ReplicaId(1)
WALL_MS = 1_700_000_000_000
LIMITS = ApplyLimits.of(LimitsConfig())
NODES = {ReplicaId(number): NodeId(f"n{number}") for number in range(1, 6)}


async def settle() -> None:
    """Let everything that is due in this loop happen: nothing here waits for time."""
    for _ in range(40):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  threads are watched, which set no event
            await asyncio.sleep(0.001)


@dataclass(eq=False)
class Asked:
    """A request's end: every answer it got."""

    replies: list[bytes] = field(default_factory=list)
    errors: list[KVError] = field(default_factory=list)

    def reply(self, body: bytes) -> None:
        self.replies.append(body)

    def fail(self, error: KVError) -> None:
        self.errors.append(error)

    @property
    def answers(self) -> int:
        return len(self.replies) + len(self.errors)

    @property
    def error(self) -> KVError:
        assert (self.replies, len(self.errors)) == ([], 1)
        return self.errors[0]


@dataclass
class HeldAppend:
    records: list[bytes]
    done: Callable[[], None]
    urgent: bool


class FakeLog:
    """Durable at once, or when the test says so."""

    def __init__(self) -> None:
        self.disk_full = False
        self.is_prompt = True
        self.live_bytes = 0
        self.appends: list[HeldAppend] = []
        self.held: list[HeldAppend] = []
        self.released: list[dict[GroupId, LogIndex]] = []

    def append(
        self, records: Sequence[bytes], done: Callable[[], None], *, urgent: bool = False
    ) -> None:
        append = HeldAppend(list(records), done, urgent)
        self.appends.append(append)
        if self.is_prompt:
            asyncio.get_running_loop().call_soon(done)
        else:
            self.held.append(append)

    def release(self, covered: dict[GroupId, LogIndex]) -> None:
        self.released.append(dict(covered))

    def become_durable(self) -> None:
        held, self.held = self.held, []
        for append in held:
            append.done()


class FakeEngine(MemoryEngine):
    """Counts writes; refuses them while ``failing`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.failing: BaseException | None = None
        self.flush_failing: BaseException | None = None
        self.flushes = 0

    def write(self, batch: WriteBatch) -> None:
        if self.failing is not None:
            raise self.failing
        self.writes += 1
        super().write(batch)

    def flush(self) -> None:
        if self.flush_failing is not None:
            raise self.flush_failing
        self.flushes += 1

    def fill(self) -> None:
        self.failing = DiskFull("no room")


class FakePeers:
    """Keeps what was sent, frame by frame."""

    def __init__(self) -> None:
        self.frames: list[tuple[NodeId, Lane, list[tuple[GroupId, Message]]]] = []
        self.is_up = True

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        if self.is_up:
            self.frames.append((peer, lane, decode_messages(frame[HEADER_BYTES:])))
        return self.is_up

    def messages(self, kind: type[Message]) -> list[Message]:
        return [m for _, _, body in self.frames for _, m in body if isinstance(m, kind)]


class HeldThreads(Executor):
    """Runs what it was given when the test says so, on the thread that says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.is_running = False

    def submit(self, work: Callable[[], Any], /, *_: object, **__: object) -> Future[Any]:
        future: Future[Any] = Future()
        self.work.append((future, work))
        return future

    def run(self) -> None:
        work, self.work = self.work, []
        self.is_running = True
        for future, do in work:
            try:
                future.set_result(do())
            except BaseException as error:  # noqa: BLE001  it is the result
                future.set_exception(error)
        self.is_running = False


class Untouched:
    """Snapshots of which nothing is heard that would have to be answered."""

    def handle(self, host: ShardHost, ready: Ready) -> None:
        assert not ready.snapshot_writes, host


class Rig:
    """A node ``n1`` with replica 1 of each shard; the others are played by the test."""

    def __init__(
        self,
        *,
        voters: int = 3,
        shards: int = 1,
        config: RaftConfig | None = None,
        own: ReplicaId = OWN,
    ) -> None:
        self.own = own
        self.now = 1000.0
        self.log, self.engine, self.peers = FakeLog(), FakeEngine(), FakePeers()
        self.fatal: list[BaseException] = []
        self.engine_full: list[bool] = []
        self.voters = tuple(ReplicaId(number) for number in range(1, voters + 1))
        self.hosts = {
            group_of(ShardId(shard)): self._host(ShardId(shard), config or RaftConfig())
            for shard in range(shards)
        }
        self.host = self.hosts[group_of(ShardId(0))]
        self.driver = RaftDriver(
            self.hosts,
            self.log,
            self.engine,
            self.peers,
            clock=lambda: self.now,
            wall_ms=lambda: WALL_MS,
            on_fatal=self.fatal.append,
            on_engine_full=self.engine_full.append,
        )
        self.driver.snapshots = Untouched()

    def _host(self, shard: ShardId, config: RaftConfig) -> ShardHost:
        start = SnapshotMeta(LogIndex(0), Term(0), GroupConfig(self.voters))
        core = RaftCore(
            replica=self.own,
            config=config,
            recovered=RecoveredGroup(HardState(Term(0), NO_REPLICA), start, (), LogIndex(0)),
            rng=random.Random(1),
            now=self.now,
        )
        return ShardHost(
            shard,
            core,
            StateMachine(shard, self.engine, owns=lambda key: True),
            HybridClock(),
            {replica: NODES[replica] for replica in self.voters},
            apply_limits=LIMITS,
            entry_bytes_max=1 << 20,
            request_timeout_s=10.0,
        )

    # -- the part of the others -------------------------------------------------------------

    def hear(self, message: Message, host: ShardHost | None = None) -> None:
        group = group_of((host or self.host).shard)
        self.driver.receive(NODES[message.sender], [(group, message)])

    async def lead(self, host: ShardHost | None = None) -> None:
        """Win an election and commit the term's first entry."""
        host = host or self.host
        await self.win(host)
        await self.acknowledge(host)
        assert host.core.applied_index == host.core.last_index

    async def win(self, host: ShardHost) -> None:
        """Only the former."""
        host.core.campaign(self.now)
        self.driver.wake(host)
        await settle()
        for pre_vote in (True, False):
            if len(self.voters) > 1:
                term = Term(host.core.term + pre_vote)
                self.hear(VoteResponse(ReplicaId(2), OWN, term, True, pre_vote), host)
                await settle()
        assert host.is_leader

    async def acknowledge(
        self, host: ShardHost | None = None, by: ReplicaId = ReplicaId(2)
    ) -> None:
        """Replica ``by`` has all of the log."""
        await settle()
        host = host or self.host
        if len(self.voters) > 1:
            core = host.core
            self.hear(AppendResponse(by, OWN, core.term, core.last_index), host)
        await settle()

    async def confirm(self) -> None:
        """Replica 2 answers every heartbeat so far."""
        await settle()
        self.hear_confirmations()
        await settle()

    def hear_confirmations(self) -> None:
        """The same within one tick."""
        answers: list[tuple[GroupId, Message]] = [
            (group, HeartbeatResponse(ReplicaId(2), OWN, beat.term, beat.read_round))
            for _, _, body in self.peers.frames
            for group, beat in body
            if isinstance(beat, Heartbeat) and beat.receiver == 2
        ]
        self.driver.receive(NODES[ReplicaId(2)], answers)

    async def depose(self, term: int | None = None) -> None:
        """Replica 3 leads a later term."""
        later = Term(term or self.host.core.term + 1)
        self.hear(Heartbeat(ReplicaId(3), OWN, later, LogIndex(0), 1))
        await settle()

    # -- the part of clients ----------------------------------------------------------------

    def write(self, key: bytes = b"k", value: bytes = b"v", host: ShardHost | None = None) -> Asked:
        asked = Asked()
        host = host or self.host
        host.write(Write(1, batch(key, value), asked))
        self.driver.wake(host)
        return asked

    def read(self, key: bytes = b"k", host: ShardHost | None = None) -> Asked:
        asked = Asked()
        host = host or self.host
        machine = host.machine
        host.read(Read(lambda: asked.reply(repr(machine.get_many([key])).encode()), asked))
        self.driver.wake(host)
        return asked


def batch(key: bytes = b"k", value: bytes = b"v") -> bytes:
    return commands.encode_batch(0, 0, 0, 0, [(commands.PUT, key, value)])


def command(index: int, term: int = 1, value: bytes = b"v", revision: int = 0) -> Entry:
    payload = commands.encode_entry(revision or index, [(1, batch(b"k", value))], LIMITS)
    return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, payload)
