"""One process, one node: the composition root.

Here, and only here, the real clock, the random generator and the concrete classes meet.
Everything else is given what it needs.

Order of starting: own the data directory, own the port, bring back the state, then speak.
A step that fails undoes the ones before it, so a node never runs half. Order of stopping:
hand over what it leads, answer what waits, stop speaking, flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kvstore.errors import KVError, Refused, Unavailable
from kvstore.hlc import revision_at
from kvstore.ids import (
    NO_REPLICA,
    GroupId,
    LogIndex,
    ShardId,
    group_of_shard,
)
from kvstore.net.limits import NetLimits
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.server import FrameServer
from kvstore.net.transport import Lane
from kvstore.server import fatal, status
from kvstore.server.admission import Admission
from kvstore.server.checksums import Checksums
from kvstore.server.clients import ClientRequests, send_error
from kvstore.server.data_directory import count_start, note_log, open_data_directory
from kvstore.server.groups import load_machines, recover_hosts
from kvstore.server.handshake import Handshake
from kvstore.server.membership import MemberCouriers, Membership, make_contacts
from kvstore.server.raft_driver import RaftDriver
from kvstore.server.recovery import RecoveryProgress
from kvstore.server.rejoin import Rejoin, keep_rejoining
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.server.upkeep import DiskWatch, LeaderBalance, LogKeeper, hand_over, periodic
from kvstore.sharding import map_wire
from kvstore.sharding.shard_map import bootstrap
from kvstore.storage import membership_file
from kvstore.storage.files import OsFiles
from kvstore.storage.identity import LOG_DIRECTORY
from kvstore.storage.identity_file import Pin
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshots import SnapshotStorage
from kvstore.storage.wal import open_wal
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import decode_messages
from kvstore.wire.requests import encode_shard_map_reply, encode_status_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.kv.state_machine import StateMachine
    from kvstore.net.connection import FrameConnection
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import Replica, ShardMap
    from kvstore.storage.identity import Identity
    from kvstore.storage.wal import RecoveredLog, Wal
    from kvstore.wire.frames import Frame
    from kvstore.wire.hello import Begun

log = logging.getLogger(__name__)

HAND_OVER_S_MAX = 1.0
STOP_S_MAX = 3.5
PIN_RETRY_S = 5.0


class Node:
    """A running node; an async context manager that starts and stops it."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._clock = time.monotonic
        self._rng = random.Random()
        self._started_at = self._clock()
        self._founding_map = bootstrap(config.cluster) if config.cluster.nodes else None
        """Which node has which shards; None if this one joins and has yet to hear of it."""
        self._connected_since: dict[NodeId, float] = {}
        self._hosts: dict[GroupId, ShardHost] = {}
        self._driver: RaftDriver | None = None
        self._membership: Membership | None = None
        self._requests: ClientRequests | None = None
        self._pinning: set[asyncio.Task[None]] = set()
        self._resources = contextlib.AsyncExitStack()

    @staticmethod
    def _wall_ms() -> int:
        return time.time_ns() // 1_000_000

    # -- start and stop -------------------------------------------------------------------------

    async def __aenter__(self) -> Node:
        async with contextlib.AsyncExitStack() as undo:
            await self._start(undo)
            self._resources = undo.pop_all()
        log.info(
            "serving at %s: %d shards of cluster %s",
            self._config.address.address,
            len(self._hosts),
            self._config.cluster.id,
        )
        # What was made up to here lives as long as the process: never scan it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._resources.aclose()
        except TimeoutError:
            log.error("stopping took over %g s; the log will bring back the rest", STOP_S_MAX)
        except (KVError, OSError) as error:
            log.error("stopping was not clean; the log will bring back the rest: %s", error)

    async def _start(self, undo: contextlib.AsyncExitStack) -> None:
        config, data_dir = self._config, self._config.data_dir
        identity = await asyncio.to_thread(open_data_directory, config)
        undo.callback(identity.release)
        undo.callback(self._stop_pinning)
        begun = await asyncio.to_thread(count_start, identity, self._wall_ms())
        handshake = self._make_handshake(identity, begun)
        await self._listen(handshake, undo)
        engine = await asyncio.to_thread(RocksEngine, data_dir / "engine", config.engine)
        undo.push_async_callback(asyncio.to_thread, engine.close)
        snapshots = SnapshotStorage(engine, data_dir / "snapshots")
        await asyncio.to_thread(snapshots.finish_pending)
        placed = self._founding_map
        machines = (
            await asyncio.to_thread(load_machines, placed, config.node_id, engine) if placed else {}
        )
        admission = Admission(pending_bytes_max=config.limits.pending_bytes_max)
        disk = DiskWatch(
            lambda: OsFiles().free_bytes(data_dir),
            admission,
            free_bytes_min=config.limits.disk_free_bytes_min,
        )
        wal, logs = await open_wal(
            data_dir / LOG_DIRECTORY,
            cluster_id=config.cluster.id,
            node_id=config.node_id,
            config=config.wal,
            on_fatal=fatal.die,
            on_disk_full=disk.log_full,
            applied={group: LogIndex(m.applied_index) for group, m in machines.items()},
            progress=RecoveryProgress(self._clock),
        )
        undo.push_async_callback(wal.close)
        await asyncio.to_thread(note_log, identity)
        if placed is not None:
            marks = await self._recover(
                placed, engine, machines, logs, identity.life, snapshots.installed_index
            )
            if marks:
                wal.append(marks, lambda: None)
        peers = self._make_peers(handshake)
        driver = RaftDriver(
            self._hosts,
            wal,
            engine,
            peers,
            clock=self._clock,
            wall_ms=self._wall_ms,
            on_fatal=fatal.die,
            on_engine_full=disk.engine_full,
        )
        driver.may_lead = lambda: not admission.disk_full
        await self._join(peers, handshake, undo)
        self._start_work(driver, wal, engine, snapshots, admission, disk, undo)
        rejoin = Rejoin(
            driver,
            lives=lambda node: handshake.life_of(node) if node in self._connected_since else None,
            clock=self._clock,
        )
        self._own(keep_rejoining(rejoin), undo)
        self._driver = driver
        peers.start()
        undo.push_async_callback(peers.close)
        undo.callback(self._answer_all)

    async def _recover(
        self,
        placed: ShardMap,
        engine: RocksEngine,
        machines: Mapping[GroupId, StateMachine],
        logs: Mapping[GroupId, RecoveredLog],
        life: int,
        installed_index: Callable[[GroupId], LogIndex],
    ) -> list[bytes]:
        """Bring back the hosts of the shards that are ``placed`` here; see ``recover_hosts``."""
        self._hosts, marks = await asyncio.to_thread(
            recover_hosts,
            self._config,
            placed,
            engine,
            machines,
            logs,
            rng=self._rng,
            now=self._clock(),
            life=life,
            installed_index=installed_index,
        )
        return marks

    def _make_handshake(self, identity: Identity, begun: Begun) -> Handshake:
        return Handshake(
            self._config,
            own=Pin(identity.data_id, identity.life),
            begun=begun,
            pins=lambda: identity.pins,
            remember=lambda node, pin: self._remember(identity, node, pin),
            wall_ms=self._wall_ms,
        )

    def _stop_pinning(self) -> None:
        for task in tuple(self._pinning):
            task.cancel()

    async def _listen(self, handshake: Handshake, undo: contextlib.AsyncExitStack) -> None:
        """Own the port before the (possibly long) recovery; until then nothing is served."""
        address = self._config.address
        server = FrameServer(
            address.host,
            address.port,
            limits=NetLimits.of(self._config.limits),
            on_hello=handshake.welcome,
            on_frames=self._receive,
        )
        await server.start()
        undo.push_async_callback(server.close)

    def _standing_peers(self) -> dict[NodeId, str]:
        """The others that the cluster was founded with: any of them may share groups with us."""
        config = self._config
        if config.joining is not None:
            return {}
        return {node.id: node.address for node in config.cluster.nodes if node.id != config.node_id}

    def _make_peers(self, handshake: Handshake) -> PeerPool:
        config = self._config
        return PeerPool(
            self._standing_peers(),
            PeerCallbacks(
                make_hello=handshake.make_hello,
                check_welcome=handshake.check_welcome,
                on_connected=self._peer_connected,
                on_gone=self._peer_gone,
                on_dropped=self._lane_lost,
                on_refused=lambda node, error: self._refused(error),
            ),
            limits=NetLimits.of(config.limits),
            rng=random.Random(self._rng.random()),
        )

    async def _join(
        self, peers: PeerPool, handshake: Handshake, undo: contextlib.AsyncExitStack
    ) -> None:
        """Take part in the membership."""
        config = self._config
        remembered = await asyncio.to_thread(
            membership_file.load, config.data_dir / membership_file.MEMBERSHIP_FILE
        )
        contacts = make_contacts(
            handshake,
            limits=NetLimits.of(config.limits),
            rng=random.Random(self._rng.random()),
            hint=self._hint,
            on_refused=self._refused,
        )
        membership = Membership(
            config,
            remembered,
            MemberCouriers(peers, contacts),
            self._founding_map,
            clock=self._clock,
            wall_ms=self._wall_ms,
            cpu_s=time.process_time,
            rng=random.Random(self._rng.random()),
        )
        await membership.save()
        handshake.is_removed, handshake.is_gone = membership.is_removed, membership.is_gone
        undo.push_async_callback(membership.close)
        contacts.start()
        undo.push_async_callback(contacts.close)
        for work in (membership.driver.run(), membership.keep()):
            self._own(work, undo)
        undo.callback(membership.events.stop)
        self._membership = membership

    def _hint(self, node: NodeId, *, is_gone: bool) -> None:
        if self._membership is not None:
            self._membership.driver.hint(node, is_gone=is_gone)

    def _refused(self, error: KVError) -> None:
        if self._membership is not None:
            self._membership.refused(error)

    def _start_work(
        self,
        driver: RaftDriver,
        wal: Wal,
        engine: RocksEngine,
        snapshots: SnapshotStorage,
        admission: Admission,
        disk: DiskWatch,
        undo: contextlib.AsyncExitStack,
    ) -> None:
        """Everything that runs from now on, each with its end."""
        keeper = LogKeeper(driver, wal, engine, live_bytes_max=self._config.wal.live_bytes_max)
        undo.push_async_callback(keeper.flush)
        undo.callback(driver.stop)
        snapshot_thread = ThreadPoolExecutor(1, "snapshots")
        undo.callback(snapshot_thread.shutdown, wait=False, cancel_futures=True)
        driver.snapshots = SnapshotTransfers(
            driver, snapshots, wal, thread=snapshot_thread, clock=self._clock, on_fatal=fatal.die
        )
        scan_threads = ThreadPoolExecutor(2, "scans")
        undo.callback(scan_threads.shutdown, wait=False, cancel_futures=True)
        self._requests = ClientRequests(
            driver,
            admission,
            frame_bytes_max=self._config.limits.frame_bytes_max,
            scan_threads=scan_threads,
            shard_map=self._shard_map_reply,
            status=self._status_reply,
            checksums=self._make_checksums(driver, engine, undo),
            membership=self._membership,
        )
        balance = LeaderBalance(
            driver,
            {
                group_of_shard(ShardId(shard)): replicas[0].node
                for shard, replicas in self._placed_replicas()
            },
            steady_since=self._connected_since.get,
            clock=self._clock,
            may_lead=lambda: not admission.disk_full,
        )
        for work in (driver.run(), *periodic(keeper, disk, balance)):
            self._own(work, undo)

    @staticmethod
    def _own(work: Coroutine[None, None, None], undo: contextlib.AsyncExitStack) -> None:
        """Run ``work`` until the node stops."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(fatal.report)
        undo.callback(task.cancel)

    def _make_checksums(
        self, driver: RaftDriver, engine: RocksEngine, undo: contextlib.AsyncExitStack
    ) -> Checksums:
        thread = ThreadPoolExecutor(1, "checksums")
        checksums = Checksums(
            engine, driver.loop, thread, clock=self._clock, on_damaged=driver.fail
        )
        undo.callback(thread.shutdown, wait=False, cancel_futures=True)
        undo.callback(checksums.stop)
        return checksums

    def _placed_replicas(self) -> list[tuple[int, tuple[Replica, ...]]]:
        """The replicas of each shard as they were first placed, the preferred leader's first."""
        return [] if self._founding_map is None else list(enumerate(self._founding_map.replicas))

    async def hand_over(self) -> None:
        """Give every shard that this node leads to the replica that has most of its log."""
        assert self._driver is not None
        hand_over(self._driver, self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S_MAX):
                while any(self._is_handing_over(host) for host in self._hosts.values()):
                    self._driver.role_changed.clear()
                    await self._driver.role_changed.wait()

    async def leave(self) -> None:
        """Tell the others that this node leaves, so that they do not take it for dead."""
        assert self._membership is not None
        await self._membership.leave()

    def _is_handing_over(self, host: ShardHost) -> bool:
        status = host.core.status(self._clock())
        return host.is_leader and status.transferring_to != NO_REPLICA

    def _answer_all(self) -> None:
        """From now on every request is refused; those that wait are answered."""
        self._requests = None
        for host in self._hosts.values():
            host.fail_all(Unavailable("the node is stopping"))

    # -- what comes in --------------------------------------------------------------------------

    def _receive(self, connection: FrameConnection, frames: list[Frame]) -> None:
        assert connection.hello is not None
        if connection.hello.role == "peer":
            node = connection.hello.node_id
            if self._driver is not None and node is not None:
                for frame in frames:
                    if frame.kind == Kind.RAFT:
                        self._driver.receive(node, decode_messages(frame.body))
                    elif self._membership is not None:
                        self._membership.receive(node, frame)
            return
        for frame in frames:
            if self._requests is not None:
                self._requests.handle(connection, frame)
            else:
                error = Unavailable("the node is starting or stopping")
                send_error(connection, frame.request, error)

    def _peer_connected(self, node: NodeId) -> None:
        assert self._driver is not None
        self._connected_since[node] = self._clock()
        if self._membership is not None:
            self._membership.driver.greet(node, self._standing_peers()[node])
        self._driver.peer_connected(node)
        for shard, replicas in self._placed_replicas():
            if replicas[0].node == self._config.node_id:
                self._driver.campaign_if_leaderless(group_of_shard(ShardId(shard)))

    def _peer_gone(self, node: NodeId) -> None:
        assert self._driver is not None
        self._connected_since.pop(node, None)
        self._driver.peer_gone(node)
        self._hint(node, is_gone=True)

    def _lane_lost(self, node: NodeId, lane: Lane) -> None:
        assert self._driver is not None
        self._connected_since.pop(node, None)
        if lane is Lane.CONTROL:
            self._hint(node, is_gone=False)
        else:
            self._driver.messages_dropped(node)

    def _remember(self, identity: Identity, node: NodeId, pin: Pin) -> None:
        """Make durable which directory a peer has, off the loop, however long it takes."""

        async def pin_it() -> None:
            while True:
                try:
                    await asyncio.to_thread(identity.pin, node, pin.data_id, pin.life)
                except Refused:
                    return  # It was repaired in the meantime, and its later life stands there.
                except OSError as error:
                    log.warning("%s could not be remembered yet: %s", node, error)
                    await asyncio.sleep(PIN_RETRY_S)
                else:
                    return

        task = asyncio.get_running_loop().create_task(pin_it())
        self._pinning.add(task)
        task.add_done_callback(self._pinning.discard)
        task.add_done_callback(fatal.report)

    # -- what it says of itself -----------------------------------------------------------------

    def _shard_map_reply(self) -> bytes:
        shard_map = self._founding_map if self._membership is None else self._membership.shard_map
        if shard_map is None:
            raise Unavailable("the node joins, and has not yet heard which node has which shards")
        leaders = status.known_leaders(self._hosts.values())
        return encode_shard_map_reply(
            map_wire.encode(shard_map), leaders, revision_at(self._wall_ms())
        )

    def _status_reply(self) -> bytes:
        now = self._clock()
        return encode_status_reply(
            status.node_status(
                self._config.address,
                self._hosts.values(),
                uptime_s=now - self._started_at,
                now=now,
            )
        )
