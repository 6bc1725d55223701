"""A whole node in this process: it starts entirely or not at all, and stops in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import kvstore
from kvstore.config import MIB, ClusterConfig, NodeAddress, NodeConfig, RaftConfig, WalConfig
from kvstore.errors import (
    CorruptionError,
    DataDirectoryError,
    DiskFull,
    Internal,
    KVError,
    Removed,
    StartupError,
    Unavailable,
)
from kvstore.ids import NodeId, Revision, ShardId
from kvstore.net.peers import PeerPool
from kvstore.net.server import FrameServer
from kvstore.server import fatal, process
from kvstore.server import node as node_module
from kvstore.server import start as start_module
from kvstore.server.node import Node
from kvstore.server.process import EXIT_STARTUP
from kvstore.server.raft_driver import RaftDriver
from kvstore.server.snapshot_work import OpenReader, SnapshotTransfers
from kvstore.server.upkeep import LogKeeper
from kvstore.sharding.shard_map import bootstrap
from kvstore.storage.identity import IDENTITY_FILE, LOCK_FILE, Identity, open_identity
from kvstore.storage.map_file import MAP_FILE
from kvstore.storage.membership_file import MEMBERSHIP_FILE
from kvstore.storage.renewal import PARTS
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.wal import Wal
from kvstore.wire.frames import Frame, FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ReadMode, ReadRequest, decode_error, encode_read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.net.connection import FrameConnection

QUICK = RaftConfig(
    heartbeat_interval_s=0.02, election_timeout_s_min=0.05, election_timeout_s_max=0.1
)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A node takes hold of the garbage collector; and what it would do to the process is heard."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(autouse=True)
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    died: list[BaseException] = []
    monkeypatch.setattr(fatal, "die", died.append)
    return died


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return NodeConfig(
        node_id=NodeId("n1"),
        data_dir=tmp_path / "n1",
        cluster=ClusterConfig(
            "c", (NodeAddress(NodeId("n1"), f"127.0.0.1:{port}"),), shards=2, replicas=1
        ),
        raft=QUICK,
        wal=WalConfig(segment_bytes=MIB, live_bytes_max=4 * MIB, reserve_bytes=64 * 1024),
    )


def is_listening(config: NodeConfig) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((config.address.host, config.address.port)) == 0


def is_locked(config: NodeConfig) -> bool:
    try:
        open_identity(
            config.data_dir,
            cluster_id="c",
            node_id=config.node_id,
        ).release()
    except DataDirectoryError as error:
        if "in use" in str(error):
            return True
    return False


def assert_nothing_is_left(config: NodeConfig) -> None:
    assert not is_listening(config)
    assert not is_locked(config)
    assert not [thread for thread in threading.enumerate() if thread.name == "wal"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def put_and_get(config: NodeConfig) -> None:
    async with kvstore.connect(config.address.address, timeout_s=10) as kv:
        await kv.put("k", b"v")
        item = await kv.get("k")
        assert item is not None
        assert item.value == b"v"


async def test_it_serves_stops_and_brings_everything_back(
    config: NodeConfig, deaths: list[BaseException]
) -> None:
    async with Node(config) as node:
        await put_and_get(config)
        await node.hand_over()
    assert_nothing_is_left(config)
    async with Node(config), kvstore.connect(config.address.address, timeout_s=10) as kv:
        item = await kv.get("k")
        assert item is not None
        assert item.value == b"v"
    assert_nothing_is_left(config)
    assert deaths == []


async def test_it_tells_when_its_loop_was_blocked_and_nothing_beats_after_it(
    config: NodeConfig,
) -> None:
    async with Node(config) as node:
        async with kvstore.connect(config.address.address, timeout_s=10) as kv:
            await kv.put("k", b"v")
            time.sleep(0.1)  # noqa: ASYNC251  the node's loop is ours
            loop = await loop_of(kv)  # by then the beat that was due has come
        assert loop["since_start"]["over_20_ms"] >= 1
        assert any(int(ms) >= 45 for ms in loop["late_ms"])
    assert node._pulse._timer is None


async def loop_of(kv: kvstore.Client) -> dict[str, Any]:
    (said,) = await kv.node_statuses()
    assert said.status is not None
    found: dict[str, Any] = said.status["loop"]
    return found


async def test_a_port_in_use_leaves_nothing_behind(config: NodeConfig) -> None:
    with socket.socket() as other:
        other.bind((config.address.host, config.address.port))
        other.listen()
        with pytest.raises(StartupError, match="in use"):
            await Node(config).__aenter__()
    assert_nothing_is_left(config)
    async with Node(config):
        await put_and_get(config)


async def test_a_data_directory_in_use_leaves_nothing_behind(config: NodeConfig) -> None:
    async with Node(config):
        moved = replace(
            config,
            cluster=replace(
                config.cluster,
                nodes=(NodeAddress(config.node_id, f"127.0.0.1:{config.address.port + 1}"),),
            ),
        )
        with pytest.raises(DataDirectoryError, match="in use"):
            await Node(moved).__aenter__()
        assert not is_listening(moved)
        await put_and_get(config)


async def test_a_damaged_log_leaves_nothing_behind(config: NodeConfig) -> None:
    async with Node(config):
        await put_and_get(config)
    segment = sorted((config.data_dir / "wal").glob("*.wal"))[0]
    data = bytearray(segment.read_bytes())
    data[20] ^= 0xFF
    segment.write_bytes(data)
    with pytest.raises((CorruptionError, DataDirectoryError)):
        await Node(config).__aenter__()
    assert_nothing_is_left(config)


@pytest.mark.parametrize(
    ("where", "step"),
    [(start_module, "recover_hosts"), (Node, "_make_peers"), (Node, "_start_work")],
)
async def test_a_start_that_fails_late_is_undone(
    config: NodeConfig, where: object, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Internal("no")

    with monkeypatch.context() as patched:
        patched.setattr(where, step, broken)
        with pytest.raises(Internal):
            await Node(config).__aenter__()
    assert_nothing_is_left(config)
    async with Node(config):
        await put_and_get(config)


async def test_a_start_that_is_cancelled_is_undone(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(start_module, "open_wal", never)
        starting = asyncio.create_task(Node(config).__aenter__())
        await reached.wait()
        assert is_listening(config), "the port is owned before the recovery"
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    assert_nothing_is_left(config)


async def test_it_stops_in_order(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def note(owner: type, name: str) -> None:
        before = getattr(owner, name)

        def noted(*args: object, **options: object) -> object:
            order.append(f"{owner.__name__}.{name}")
            return before(*args, **options)

        monkeypatch.setattr(owner, name, noted)

    note(Node, "_answer_all")
    note(PeerPool, "close")
    note(RaftDriver, "stop")
    note(LogKeeper, "flush")
    note(Wal, "close")
    note(RocksEngine, "close")
    note(FrameServer, "close")
    note(Identity, "release")
    async with Node(config):
        assert order == []
    assert order == [
        "Node._answer_all",
        "PeerPool.close",
        "RaftDriver.stop",
        "LogKeeper.flush",
        "Wal.close",
        "RocksEngine.close",
        "FrameServer.close",
        "Identity.release",
    ]


@pytest.mark.parametrize("error", [DiskFull("no room"), Internal("broken")])
async def test_it_stops_whole_though_the_engine_cannot_flush(
    config: NodeConfig, error: KVError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: RocksEngine) -> None:
        raise error

    with monkeypatch.context() as patched:
        async with Node(config):
            await put_and_get(config)
            patched.setattr(RocksEngine, "flush", broken)
    assert_nothing_is_left(config)
    async with Node(config), kvstore.connect(config.address.address, timeout_s=10) as kv:
        assert await kv.get("k") is not None


class Wire:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.hello = type("Hello", (), {"role": "client", "node_id": None})()

    def send(self, frame: bytes) -> bool:
        self.frames += FrameDecoder(MIB).feed(frame)
        return True


def ask(node: Node, body: bytes = b"") -> KVError:
    wire = Wire()
    node._receive(cast("FrameConnection", wire), [Frame(Kind.READ, 0, 5, body)])
    (frame,) = wire.frames
    assert (frame.kind, frame.request) == (Kind.ERROR, 5)
    return decode_error(frame.body)


async def test_before_the_start_and_after_the_stop_requests_are_refused_as_retryable(
    config: NodeConfig,
) -> None:
    node = Node(config)
    assert isinstance(ask(node), Unavailable)
    async with node:
        assert not isinstance(ask(node), Unavailable), "refused for what it is: malformed"
    assert isinstance(ask(node), Unavailable)


async def test_a_node_that_was_removed_serves_nobody_and_stands_for_nothing(
    config: NodeConfig,
) -> None:
    async with Node(config) as node:
        await put_and_get(config)
        assert node._membership is not None
        node._membership.refused(Removed("n1 was removed from this cluster"))
        refusal = ask(node)
        assert isinstance(refusal, Unavailable)
        assert "n1 was removed from this cluster" in refusal.message
        assert node._driver is not None
        assert not node._driver.hosts


async def test_a_node_that_was_removed_keeps_no_snapshot_open(config: NodeConfig) -> None:
    async with Node(config) as node:
        await put_and_get(config)
        assert node._driver is not None
        assert node._membership is not None
        transfers = node._driver.snapshots
        assert isinstance(transfers, SnapshotTransfers)
        readers = [transfers._storage.open(shard) for shard in map(ShardId, range(2))]
        transfers._readers.update(
            {(ShardId(n), 1): OpenReader(each, 0.0) for n, each in enumerate(readers)}
        )
        node._membership.refused(Removed("n1 was removed from this cluster"))
        assert not transfers._readers
        node._snapshot_thread.submit(lambda: None).result()
        for reader in readers:
            with pytest.raises(Internal):
                reader.read(0, 1)


async def test_a_peer_that_speaks_before_the_node_is_ready_is_not_heard(
    config: NodeConfig,
) -> None:
    wire = Wire()
    wire.hello = type("Hello", (), {"role": "peer", "node_id": "n2"})()
    Node(config)._receive(cast("FrameConnection", wire), [Frame(Kind.RAFT, 0, 0, b"junk")])
    assert wire.frames == []


# -- the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_in_the_middle_of_a_start_counts_from_then(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    deadlines: list[float] = []
    told, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Node) -> Node:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        await told.wait()
        await go_on.wait()
        return self

    def leave(seconds: float) -> None:
        deadlines.append(seconds)
        told.set()

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(process, "_leave_at_the_latest", leave)
    monkeypatch.setattr(Node, "__aenter__", slow)
    monkeypatch.setattr(Node, "__aexit__", nothing)
    monkeypatch.setattr(Node, "hand_over", nothing)
    monkeypatch.setattr(Node, "leave", nothing)
    serving = asyncio.create_task(process._serve(config))
    try:
        async with asyncio.timeout(10):
            await told.wait()
            assert deadlines == [process.LEAVE_S_MAX], "while it is still starting, once"
            go_on.set()
            assert await serving == 0
    finally:
        for number in process.STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_node_that_outlives_its_terminal_goes_on_ignoring_its_end(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started(self: Node) -> Node:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "as nohup has set it"
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        raise StartupError("enough")

    monkeypatch.setattr(Node, "__aenter__", started)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert await process._serve(config) == EXIT_STARTUP
    finally:
        for number in process.STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [StartupError("the port"), DiskFull("no room"), OSError("disk")])
async def test_whatever_prevents_a_start_is_one_line_and_exit_code_2(
    config: NodeConfig,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(self: Node) -> Node:
        raise error

    monkeypatch.setattr(Node, "__aenter__", broken)
    try:
        assert await process._serve(config) == EXIT_STARTUP
    finally:
        for number in process.STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
    assert capsys.readouterr().err == f"n1: cannot start: {error}\n"


async def test_all_that_it_keeps_of_the_store_would_be_set_aside_by_a_repair(
    config: NodeConfig,
) -> None:
    async with Node(config):
        await put_and_get(config)
    kept = {entry.name for entry in config.data_dir.iterdir()}
    # Of the map there is a file once it is another one than the configuration gives.
    assert kept | {MAP_FILE} == {IDENTITY_FILE, MEMBERSHIP_FILE, LOCK_FILE, *PARTS}


async def test_lost_data_is_answered_by_the_command_that_repairs_it(
    config: NodeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config.data_dir.mkdir()
    (config.data_dir / "identity.json").write_text("junk")
    try:
        assert await process._serve(config, Path("n1.toml")) == EXIT_STARTUP
    finally:
        for number in process.STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
    (line,) = capsys.readouterr().err.splitlines()
    assert "identity.json is damaged" in line
    assert line.endswith("kv repair --config n1.toml)")


async def test_a_log_that_is_gone_leaves_nothing_behind(config: NodeConfig) -> None:
    async with Node(config):
        await put_and_get(config)
    shutil.rmtree(config.data_dir / "wal")
    shutil.rmtree(config.data_dir / "engine")
    with pytest.raises(CorruptionError, match="the log is gone"):
        await Node(config).__aenter__()
    assert_nothing_is_left(config)


async def test_a_stop_that_hangs_is_cut_short_and_said(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    async with Node(config):
        with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
            patched.setattr(node_module, "STOP_S_MAX", 0.01)
            stuck = Node(config)
            stuck._resources.push_async_callback(hang, stuck)
            await stuck.__aexit__(None, None, None)
    assert "stopping took over" in caplog.text


async def test_whoever_asks_for_a_shard_that_is_elsewhere_is_shown_the_way(
    config: NodeConfig,
) -> None:
    other = NodeAddress(NodeId("n2"), "127.0.0.1:9")
    cluster = replace(config.cluster, nodes=(config.address, other), shards=8)
    placed = bootstrap(cluster).replicas
    elsewhere = next(shard for shard, held in enumerate(placed) if held[0].node == other.id)
    request = ReadRequest(0, ShardId(elsewhere), ReadMode.LINEARIZABLE, [b"k"], Revision(0))
    async with Node(replace(config, cluster=cluster)) as node:
        error = ask(node, encode_read(request))
    assert isinstance(error, kvstore.errors.NotLeader)
    assert (error.leader, error.address, error.map_version) == ("n2", "127.0.0.1:9", 1)
