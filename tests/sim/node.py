"""One process: what ``kvstore.server.node`` puts together, on simulated time and disk.

A node has lives. Whatever it has asked to be done later is done in the same life or never,
and after any pause. All of one event runs as one iteration of an event loop does.
"""

from __future__ import annotations

import random
from collections import deque
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvstore.errors import DiskFull, Internal, KVError, StartupError
from kvstore.hlc import revision_at
from kvstore.ids import GroupId, LogIndex
from kvstore.server import status
from kvstore.server.admission import Admission
from kvstore.server.clients import ClientRequests
from kvstore.server.groups import load_machines, recover_hosts
from kvstore.server.raft_driver import TICK_INTERVAL_S, RaftDriver
from kvstore.server.rejoin import Rejoin
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.server.upkeep import LogKeeper
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.recovery import Recovery
from kvstore.storage.snapshots import SnapshotStorage
from kvstore.wire.requests import encode_shard_map_reply
from sim.disk import DiskCrash, SimDisk
from sim.engine import SimEngine
from sim.log import SimLog
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.transport import Lane
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap
    from sim.checks import Checks
    from sim.network import Network
    from sim.swarm import Swarm

WALL_MS = 1_700_000_000_000
TICK_S_MIN = 0.02
UPKEEP_S = 0.5

THREAD = Executor()
"""Stands for a node's threads: SimLoop runs their work itself and asks nothing of this."""

T = TypeVar("T")


class SimFuture(Generic[T]):
    """Work for a thread, and who waits for it."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], object]] = []
        self._result: T
        self._error: Exception | None = None

    def cancelled(self) -> bool:
        return False

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> T:
        return self._result

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self._callbacks.append(callback)

    def run(self, work: Callable[[], T]) -> None:
        try:
            self._result = work()
        except (KVError, OSError) as error:
            self._error = error
        for callback in self._callbacks:
            callback(self)


class SimLoop:
    """A node's event loop; see :mod:`kvstore.server.scheduling`."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], /, *arguments: Any) -> None:
        self._soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., object], /, *arguments: Any) -> None:
        self._node.later(delay, lambda: callback(*arguments))

    def run_in_executor(self, executor: Executor | None, work: Callable[[], T], /) -> SimFuture[T]:
        future = SimFuture[T]()
        delay_s = self._node.rng.random() * self._node.swarm.thread_s_max
        self._node.thread_free_at = max(self._node.thread_free_at, self._node.world.now + delay_s)
        delay_s = self._node.thread_free_at - self._node.world.now
        self._node.later(delay_s, lambda: future.run(work))
        return future

    def drain(self) -> None:
        while self._soon:
            callback, arguments = self._soon.popleft()
            callback(*arguments)


class SimNode:
    """A process of the cluster, its disk, and the clocks of its machine."""

    driver: RaftDriver
    requests: ClientRequests
    wal: SimLog
    engine: SimEngine
    keeper: LogKeeper
    rejoin: Rejoin
    admission: Admission
    loop: SimLoop

    def __init__(
        self,
        config: NodeConfig,
        shard_map: ShardMap,
        network: Network,
        checks: Checks,
        swarm: Swarm,
    ) -> None:
        self.id: NodeId = config.node_id
        self.config = config
        self.shard_map = shard_map
        self.network = network
        self.world = network.world
        self.checks = checks
        self.swarm = swarm
        self.rng = random.Random(self.world.rng.random())
        self.disk = SimDisk(self.rng)
        self.stored = MemoryEngine()
        self.life = 0
        self.is_up = False
        self.paused_until = 0.0
        self.thread_free_at = 0.0
        self.clock_rate = 1.0 + self.rng.uniform(-1, 1) * swarm.clock_drift
        self.wall_ahead_ms = 0.0
        self.may_be_damaged = False
        """Bits of its disk were flipped: then, and only then, it may refuse to start."""
        self.is_refused = False
        self.data_life = 0
        """Which life of its data this is (see :mod:`kvstore.ids`); a repair begins the next."""
        self._ticks = 0

    # -- clocks -----------------------------------------------------------------------------

    def clock(self) -> float:
        return self.world.now * self.clock_rate

    def wall_ms(self) -> int:
        return WALL_MS + int(self.clock() * 1000 + self.wall_ahead_ms)

    # -- events -----------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Run ``action`` as an iteration of the loop, in this life, after any pause."""
        life = self.life

        def run() -> None:
            if self.life != life:
                return
            if self.world.now < self.paused_until:
                self.world.at(self.paused_until, run)
                return
            self._iterate(action)

        self.world.at(self.world.now + delay_s, run)

    def _iterate(self, action: Callable[[], object]) -> None:
        life = self.life
        try:
            action()
            if self.life == life:
                self.loop.drain()
        except DiskCrash:
            self.crash("in a file operation")
        except Violation:
            raise
        except Exception as error:
            if self.life == life:  # else it is how the driver says that the node has died
                raise Violation(f"{self.id} fails: {type(error).__name__}: {error}") from error
        if self.is_up and self.life == life:
            self.checks.looked_at(self)

    # -- start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on what the last one left."""
        self.life += 1
        self.is_up = True
        self.thread_free_at = 0.0
        self.loop = SimLoop(self)
        self.admission = Admission(pending_bytes_max=self.config.limits.pending_bytes_max)
        self.world.note(self.id, f"starts, life {self.life}")
        try:
            self._assemble()
        except DiskCrash:
            self.crash("while starting")
        except (DiskFull, Internal) as error:
            self.die(error)
        except StartupError as error:
            if not self.may_be_damaged:
                raise Violation(f"{self.id} refuses to start: {error}") from error
            self.world.note(self.id, f"refuses to start: {error}")
            self.is_refused = True
            self.crash("because its disk is damaged")
        else:
            self.may_be_damaged = False
            self.network.news_of(self, is_dead=False, share=0.9)
            self.later(0.0, self._tick)
            self.later(UPKEEP_S, self._upkeep)

    def _assemble(self) -> None:
        data_dir = self.disk.path(f"/{self.id}")
        self.engine = SimEngine(self.disk, self.stored)
        storage = SnapshotStorage(self.engine, data_dir / "snapshots", files=self.disk)
        storage.finish_pending()
        machines = load_machines(self.shard_map, self.id, self.engine)
        recovery = Recovery(
            data_dir / "wal",
            self.disk,
            self.config.wal,
            cluster_id=self.config.cluster.id,
            node_id=self.id,
            applied={group: LogIndex(m.applied_index) for group, m in machines.items()},
            random_bits=self.rng.getrandbits,
        )
        for number, path in recovery.look():
            recovery.read(number, path, path.read_bytes())
        segments, logs = recovery.finish()
        self.wal = SimLog(
            self,
            segments,
            write_s_max=self.swarm.write_s_max,
            on_durable=lambda records: self.checks.durable(self, records),
        )
        hosts, marks = recover_hosts(
            self.config,
            self.shard_map,
            self.engine,
            machines,
            logs,
            rng=self.rng,
            now=self.clock(),
            life=self.data_life,
        )
        if marks:
            self.wal.append(marks, lambda: None)
        self._connect(hosts, storage)
        self.checks.started(self, logs)

    def _connect(self, hosts: dict[GroupId, ShardHost], storage: SnapshotStorage) -> None:
        self.driver = RaftDriver(
            hosts,
            self.wal,
            self.engine,
            self,
            clock=self.clock,
            wall_ms=self.wall_ms,
            on_fatal=self.die,
            loop=self.loop,
        )
        self.driver.may_lead = lambda: not self.admission.disk_full
        self.driver.snapshots = SnapshotTransfers(
            self.driver, storage, self.wal, thread=THREAD, clock=self.clock, on_fatal=self.die
        )
        self.keeper = LogKeeper(
            self.driver, self.wal, self.engine, live_bytes_max=self.config.wal.live_bytes_max
        )
        self.requests = ClientRequests(
            self.driver,
            self.admission,
            frame_bytes_max=self.config.limits.frame_bytes_max,
            scan_threads=THREAD,
            shard_map=self._shard_map_reply,
            status=lambda: b"",
        )
        self.rejoin = Rejoin(self.driver, lives=self._life_of, clock=self.clock)
        for host in hosts.values():
            self.checks.watch(self, host)

    def known_hosts(self) -> list[ShardHost]:
        """Its groups while it runs."""
        return list(self.driver.hosts.values()) if self.is_up else []

    def _life_of(self, name: NodeId) -> int | None:
        """What a handshake would tell of a peer that is connected."""
        other = self.network.nodes[name]
        is_cut = self.network.is_cut(self.id, name) or self.network.is_cut(name, self.id)
        return other.data_life if other.is_up and not is_cut else None

    def repair(self) -> None:
        """What ``kv repair`` does: new data in a later life; none of the old is kept."""
        assert not self.is_up
        self.data_life += 1
        self.disk, self.stored = SimDisk(self.rng), MemoryEngine()
        self.is_refused = self.may_be_damaged = False
        self.world.note(self.id, f"is repaired, its data begin life {self.data_life}")

    def crash(self, why: str, *, power: bool = False) -> None:
        """The process is gone, and with ``power`` whatever its machine had not synced."""
        if not self.is_up:
            return
        self.world.note(self.id, f"dies {why}" + (", power lost" if power else ""))
        self.is_up = False
        self.life += 1
        self.stored = self.engine.survivor(self.rng)
        self.disk.process_died()
        if power:
            self.disk.lose_power()
        self.network.news_of(self, is_dead=True, share=self.swarm.news_share)

    def die(self, error: BaseException) -> None:
        """What ``on_fatal`` is: only a disk that fails may bring it about."""
        if isinstance(error, DiskCrash | Violation):
            return  # It passes through here on its way to the one who ends this life.
        if not self.swarm.is_disk_error(error):
            raise Violation(f"{self.id} stops by itself: {type(error).__name__}: {error}")
        self.crash(f"of {error}")

    # -- what it does by itself -----------------------------------------------------------------

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        """Its part of the network; see :class:`kvstore.net.transport.PeerTransport`."""
        return self.network.send(self, peer, lane, frame)

    def _tick(self) -> None:
        self.driver.guarded(self.driver.tick)
        # In a slow cluster a tick serves for several: nothing is due in between.
        beats_skipped_s = TICK_INTERVAL_S * (self.swarm.pace - 1.0)
        delay_s = max(TICK_S_MIN, self.driver.until_tick_s()) + beats_skipped_s
        self.later(delay_s / self.clock_rate, self._tick)

    def _upkeep(self) -> None:
        if self.wal.live_bytes > self.config.wal.live_bytes_max:
            self.flush()
        self.rejoin.check()
        self.later(UPKEEP_S * self.swarm.pace, self._upkeep)

    def flush(self) -> None:
        """What ``LogKeeper.flush`` does, in its two halves."""
        covered = self.keeper.covered()

        def flushed(done: SimFuture[None]) -> None:
            if done.exception() is None:
                self.keeper.release(covered)

        self.loop.run_in_executor(None, self.engine.flush).add_done_callback(flushed)

    def _shard_map_reply(self) -> bytes:
        leaders = status.known_leaders(self.driver.hosts.values())
        return encode_shard_map_reply(
            self.shard_map.to_wire(), leaders, revision_at(self.wall_ms())
        )
