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

from kvstore.errors import KVError, Unavailable
from kvstore.ids import META_GROUP
from kvstore.net.limits import NetLimits
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.server import FrameServer
from kvstore.net.transport import Lane
from kvstore.server import fatal
from kvstore.server.admission import Admission
from kvstore.server.answers import Answers
from kvstore.server.checksums import Checksums
from kvstore.server.clients import ClientRequests, send_error
from kvstore.server.data_directory import count_start, note_log, open_data_directory
from kvstore.server.date_watch import DateWatch
from kvstore.server.following import Following
from kvstore.server.handshake import Handshake
from kvstore.server.membership import MemberCouriers, Membership, make_contacts
from kvstore.server.open_files import OpenFiles
from kvstore.server.pinning import Pinning
from kvstore.server.pulse import Pulse
from kvstore.server.raft_driver import RaftDriver
from kvstore.server.shard_host import HOLD_S
from kvstore.server.signpost import Signpost
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.server.start import open_stored
from kvstore.server.throttle import Throttle
from kvstore.server.upkeep import DiskWatch, LeaderBalance, LogKeeper, hand_over, periodic
from kvstore.sharding.shard_map import bootstrap
from kvstore.storage import membership_file
from kvstore.storage.files import OsFiles
from kvstore.storage.identity_file import Pin
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import decode_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.connection import FrameConnection
    from kvstore.server.start import Stored
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.rocks import RocksEngine
    from kvstore.wire.frames import Frame

log = logging.getLogger(__name__)

HAND_OVER_S_MAX = 1.0
STOP_S_MAX = 3.5


class Node:
    """A running node; an async context manager that starts and stops it."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._clock = time.monotonic
        self._rng = random.Random()
        self._founding = bootstrap(config.cluster) if config.cluster.nodes else None
        """The cluster's first shard map; None if this node joins and was not told."""
        self._connected_since: dict[NodeId, float] = {}
        self._driver: RaftDriver | None = None
        self._relieve: Callable[[], None]
        self._answers: Answers
        self._pulse: Pulse
        self._membership: Membership | None = None
        self._requests: ClientRequests | None = None
        self._following: Following | None = None
        self._refusal = "the node is starting or stopping"
        self._peers: Callable[[], Mapping[NodeId, str]] = dict
        """The addresses of those that share groups with this node."""
        self._snapshot_thread = ThreadPoolExecutor(1, "snapshots")
        self._throttle = Throttle(
            bytes_per_s_max=config.sharding.move_bytes_per_s_max, clock=self._clock
        )
        self._open_files = OpenFiles.here(config.limits)
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
            self._shards_held(),
            self._config.cluster.id,
        )
        # What was made up to here lives as long as the process: never scan it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        self._pulse.start()  # how long a start takes is another question
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
        pinning = Pinning(identity)
        undo.callback(pinning.stop)
        begun = await asyncio.to_thread(count_start, identity, self._wall_ms())
        handshake = Handshake(
            config,
            own=Pin(identity.data_id, identity.life),
            begun=begun,
            pins=lambda: identity.pins,
            remember=pinning.remember,
            wall_ms=self._wall_ms,
        )
        self._open_files.warn(config.limits.connections_max)
        await self._listen(handshake, undo)
        admission = Admission(pending_bytes_max=config.limits.pending_bytes_max)
        disk = DiskWatch(
            lambda: OsFiles().free_bytes(data_dir),
            admission,
            free_bytes_min=config.limits.disk_free_bytes_min,
        )
        stored = await open_stored(
            config,
            identity,
            founding=self._founding,
            on_fatal=fatal.die,
            on_disk_full=disk.log_full,
            clock=self._clock,
            rng=self._rng,
            undo=undo,
            open_files_max=self._open_files.engine,
        )
        await asyncio.to_thread(note_log, identity)
        peers = self._make_peers(handshake)
        self._peers = lambda: peers.peers
        driver = self._make_driver(stored, peers, disk, admission)
        transfers = self._make_transfers(stored, driver, undo)
        self._driver = driver  # from now on it gets what other nodes send
        self._answers = self._make_answers(driver, undo)
        membership = await self._join(stored.shard_map, peers, handshake, undo)
        self._following = following = Following(
            config,
            identity,
            stored,
            driver,
            transfers,
            peers,
            handshake,
            membership,
            founding=self._founding,
            connected_since=self._connected_since,
            thread=self._snapshot_thread,
            clock=self._clock,
            rng=self._rng,
        )
        undo.push_async_callback(following.administration.close)
        self._start_work(stored, driver, transfers, admission, disk, undo)
        membership.on_expelled = lambda: self._fall_silent(transfers)
        for work in following.begin():
            self._own(work, undo)
        peers.start()
        undo.push_async_callback(peers.close)
        undo.callback(self._answer_all)

    async def _listen(self, handshake: Handshake, undo: contextlib.AsyncExitStack) -> None:
        """Own the port before the (possibly long) recovery; until then nothing is served."""
        address = self._config.address
        server = FrameServer(
            address.host,
            address.port,
            limits=self._open_files.net_limits(self._config.limits),
            on_hello=handshake.welcome,
            on_frames=self._receive,
        )
        await server.start()
        self._relieve = server.shed
        undo.push_async_callback(server.close)

    def _make_peers(self, handshake: Handshake) -> PeerPool:
        config = self._config
        return PeerPool(
            {},
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

    def _make_driver(
        self, stored: Stored, peers: PeerPool, disk: DiskWatch, admission: Admission
    ) -> RaftDriver:
        driver = RaftDriver(
            stored.hosts,
            stored.wal,
            stored.engine,
            peers,
            clock=self._clock,
            wall_ms=self._wall_ms,
            on_fatal=fatal.die,
            on_engine_full=disk.engine_full,
            pace=self._throttle.pace,
        )
        driver.may_lead = lambda: not admission.disk_full
        return driver

    def _make_answers(self, driver: RaftDriver, undo: contextlib.AsyncExitStack) -> Answers:
        self._pulse = Pulse(driver.loop, clock=self._clock)
        undo.callback(self._pulse.stop)
        return Answers(
            self._config,
            driver,
            lambda: self._shard_map,
            clock=self._clock,
            wall_ms=self._wall_ms,
            loop=self._pulse.to_map,
        )

    async def _join(
        self,
        shard_map: ShardMap | None,
        peers: PeerPool,
        handshake: Handshake,
        undo: contextlib.AsyncExitStack,
    ) -> Membership:
        """Take part in the membership."""
        config = self._config
        remembered = await asyncio.to_thread(
            membership_file.load, config.data_dir / membership_file.MEMBERSHIP_FILE
        )
        contacts = make_contacts(
            handshake,
            limits=NetLimits.of(config.limits),
            bounds=self._open_files.contact_limits(),
            rng=random.Random(self._rng.random()),
            hint=self._hint,
            on_refused=self._refused,
        )
        membership = Membership(
            config,
            remembered,
            MemberCouriers(peers, contacts),
            shard_map,
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
        return membership

    def _hint(self, node: NodeId, *, is_gone: bool) -> None:
        if self._membership is not None:
            self._membership.driver.hint(node, is_gone=is_gone)

    def _refused(self, error: KVError, address: str | None = None) -> None:
        if self._membership is not None:
            self._membership.refused(error, address)

    def _make_transfers(
        self, stored: Stored, driver: RaftDriver, undo: contextlib.AsyncExitStack
    ) -> SnapshotTransfers:
        thread = self._snapshot_thread
        undo.callback(thread.shutdown, wait=False, cancel_futures=True)
        transfers = SnapshotTransfers(
            driver,
            stored.snapshots,
            stored.wal,
            pace=self._throttle.pace,
            thread=thread,
            clock=self._clock,
            on_fatal=fatal.die,
        )
        driver.snapshots = transfers
        return transfers

    def _start_work(
        self,
        stored: Stored,
        driver: RaftDriver,
        transfers: SnapshotTransfers,
        admission: Admission,
        disk: DiskWatch,
        undo: contextlib.AsyncExitStack,
    ) -> None:
        """What serves the groups from now on, each with its end."""
        config, engine, wal = self._config, stored.engine, stored.wal
        assert self._following is not None
        keeper = LogKeeper(driver, wal, engine, live_bytes_max=config.wal.live_bytes_max)
        undo.push_async_callback(keeper.flush)
        undo.callback(driver.stop)
        scan_threads = ThreadPoolExecutor(2, "scans")
        undo.callback(scan_threads.shutdown, wait=False, cancel_futures=True)
        self._requests = ClientRequests(
            driver,
            admission,
            clock=self._clock,
            request_timeout_s=config.limits.request_timeout_s,
            relieve=self._relieve,
            frame_bytes_max=config.limits.frame_bytes_max,
            scan_threads=scan_threads,
            shard_map=self._answers.shard_map_reply,
            status=self._answers.status_reply,
            where=self._answers.preferred,
            signpost=Signpost(lambda: self._shard_map, config.cluster.addresses),
            checksums=self._make_checksums(driver, engine, undo),
            membership=self._membership,
            administration=self._following.administration,
            meter=self._throttle.meter,
        )
        undo.callback(self._requests.stop)
        balance = LeaderBalance(
            driver,
            self._answers.preferred,
            steady_since=self._connected_since.get,
            clock=self._clock,
            may_lead=lambda: not admission.disk_full,
        )
        ahead_ms_max = config.limits.clock_ahead_ms_max
        date = DateWatch(self._wall_ms, self._clock, jump_ms_max=ahead_ms_max)
        upkeep = periodic(keeper, disk, date, balance, lambda: self._throttle_moves(transfers))
        for work in (driver.run(), *upkeep):
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

    def _throttle_moves(self, transfers: SnapshotTransfers) -> None:
        assert self._driver is not None
        shard_map = self._shard_map
        is_learning = any(host.core.config.learners for host in self._driver.hosts.values())
        is_changing = shard_map is not None and bool(shard_map.changes)
        self._throttle.check(is_moving=is_learning or is_changing, oldest_s=transfers.oldest_s())

    def _shards_held(self) -> int:
        assert self._driver is not None
        return sum(not host.is_meta for host in self._driver.hosts.values())

    @property
    def _shard_map(self) -> ShardMap | None:
        return self._founding if self._membership is None else self._membership.shard_map

    async def hand_over(self) -> None:
        """Give every shard that this node leads to the replica that has most of its log."""
        assert self._driver is not None
        hand_over(self._driver, self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S_MAX):
                while any(
                    host.core.is_handing_over or host.is_holding
                    for host in self._driver.hosts.values()
                ):
                    self._driver.role_changed.clear()
                    # A hand-over that was given up changes no role.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HOLD_S):
                            await self._driver.role_changed.wait()

    async def leave(self) -> None:
        """Tell the others that this node leaves, so that they do not take it for dead."""
        assert self._membership is not None
        await self._membership.leave()

    def _answer_all(self) -> None:
        """From now on every request is refused; those that wait are answered."""
        assert self._driver is not None
        self._requests = None
        for host in self._driver.hosts.values():
            host.fail_all(Unavailable("the node is stopping"))

    def _fall_silent(self, transfers: SnapshotTransfers) -> None:
        """The node was removed for good: it holds nothing any more, and serves nobody."""
        assert self._driver is not None
        self._requests = None
        self._refusal = f"{self._config.node_id} was removed from this cluster: ask another node"
        for group in list(self._driver.hosts):
            transfers.forget(self._driver.remove(group))

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
                send_error(connection, frame.request, Unavailable(self._refusal))

    def _peer_connected(self, node: NodeId) -> None:
        assert self._driver is not None
        self._connected_since[node] = self._clock()
        if self._membership is not None:
            self._membership.driver.greet(node, self._peers()[node])
        self._driver.peer_connected(node)
        for group in self._driver.hosts:
            if self._answers.preferred(group) == self._config.node_id or group == META_GROUP:
                self._driver.campaign_if_leaderless(group)

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
