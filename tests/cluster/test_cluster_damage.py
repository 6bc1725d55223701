"""Real nodes on damaged disks: they stop or refuse in one line, and never serve a wrong value."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from cluster_harness import WAIT_S, RunningCluster, kv, made, wait_for

from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.process import State
from kvstore.config import load
from kvstore.errors import Unavailable
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.messages import GroupConfig, SnapshotMeta
from kvstore.server.data_directory import owner_of
from kvstore.server.repair import Repair
from kvstore.storage import snapshot_stream
from kvstore.storage.renewal import open_renewal
from kvstore.storage.snapshot_manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import kvstore
    from kvstore.cli.launcher.node import Node

KEYS = 400
VALUE = random.Random(1).randbytes(2000)
EXPECTED = [VALUE + b"%d" % number for number in range(KEYS)]
FATAL = "this node stops at once: "


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningCluster, Path]]:
    """One node after a clean stop, all data in its engine, and a copy of its data directory."""
    directory = tmp_path_factory.mktemp("damage")
    with made(directory / "kv", Wanted(nodes=1, shards=1, base_port=0)) as running:
        yield running, directory / "copy"


@pytest.fixture
async def node(stopped: tuple[RunningCluster, Path]) -> Node:
    running, copy = stopped
    (node,) = running.nodes
    if not copy.exists():
        await running.start()
        async with running.connect() as store:
            for number, value in enumerate(EXPECTED):
                await store.put(f"key-{number:04}", value)
        assert await running.stop() == []
        shutil.copytree(node.files.data_dir, copy)
    shutil.rmtree(node.files.data_dir)
    shutil.copytree(copy, node.files.data_dir)
    return node


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def lose_the_end(log: Path) -> None:
    """As a disk does that lied about its syncs, or an older copy: no trace of what followed."""
    data = log.read_bytes()
    half = len(data.rstrip(b"\0")) // 2
    log.write_bytes(data[:half] + bytes(len(data) - half))


def one(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


def half_installed(data_dir: Path) -> Path:
    """As after a crash in the middle of an installation: staged stream and manifest."""
    directory = data_dir / "snapshots"
    staging = directory / "g1.staging"
    staging.write_bytes(b"".join(snapshot_stream.encode([(b"\0key", b"value")])))
    config = GroupConfig(voters=(ReplicaId(1),))
    meta = SnapshotMeta(LogIndex(10_000), Term(3), config)
    manifest = Manifest(meta, staging.stat().st_size)
    (directory / "g1.manifest").write_bytes(manifest.encode())
    return directory


START_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a table cut short": (lambda at: cut(one(at, "engine/*.sst"), 5000), ".sst: offset 5000: "),
    "a table's end flipped": (lambda at: flip(one(at, "engine/*.sst"), -4), ".sst: offset "),
    "a table that is gone": (lambda at: one(at, "engine/*.sst").unlink(), ".sst: offset 0: "),
    "the manifest flipped": (lambda at: flip(one(at, "engine/MANIFEST-*"), 9), "/MANIFEST-"),
    "the manifest gone": (lambda at: one(at, "engine/MANIFEST-*").unlink(), "/MANIFEST-"),
    "the pointer flipped": (lambda at: flip(at / "engine/CURRENT", 12), "/engine"),
    "the pointer gone": (lambda at: (at / "engine/CURRENT").unlink(), "/engine"),
    "the engine emptied": (lambda at: cut(one(at, "engine/MANIFEST-*"), 60), "/engine"),
    "the log flipped": (lambda at: flip(one(at, "wal/*.wal"), 600), ".wal: offset "),
    "the log cut": (lambda at: cut(one(at, "wal/*.wal"), 600), ".wal: offset "),
    "the log's end lost": (
        lambda at: lose_the_end(one(at, "wal/*.wal")),
        "it is an older copy, or its end is lost",
    ),
    "the log gone": (lambda at: shutil.rmtree(at / "wal"), ".wal: offset 0: the log is gone"),
    "a snapshot flipped": (
        lambda at: flip(half_installed(at) / "g1.staging", 20),
        "g1.staging: offset ",
    ),
    "a snapshot gone": (lambda at: (half_installed(at) / "g1.staging").unlink(), "g1.staging"),
    "a manifest flipped": (
        lambda at: flip(half_installed(at) / "g1.manifest", 20),
        "g1.manifest: offset 0: ",
    ),
    "the identity flipped": (lambda at: flip(at / "identity.json", 60), "identity.json"),
    "the identity gone": (lambda at: (at / "identity.json").unlink(), "identity.json"),
}


def examine(node: Node) -> str | None:
    """What ``kv repair`` finds, which would not go on with a cluster of one node."""
    settings = load(node.files.config_file)
    held = open_renewal(settings.data_dir, owner_of(settings))
    try:
        return Repair(settings, held).examine(lambda _text: None)
    finally:
        held.release()


@pytest.mark.parametrize("name", START_DAMAGE)
def test_a_damaged_node_does_not_start_and_says_why(node: Node, name: str) -> None:
    damage, said = START_DAMAGE[name]
    damage(node.files.data_dir)
    done = kv(*node.arguments, cwd=node.files.directory)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2, lines
    complaints = [line for line in lines if " INFO " not in line and " WARNING " not in line]
    assert len(complaints) == 1, lines
    assert complaints[0].startswith("n1: cannot start: ")
    assert said in complaints[0]
    assert f"kv repair --config {node.files.config_file})" in complaints[0]
    found = examine(node)
    assert found is not None, "a repair sees it as well"
    assert said in found


async def test_a_lost_engine_comes_back_from_a_log_that_has_everything(
    stopped: tuple[RunningCluster, Path], node: Node
) -> None:
    running, _ = stopped
    shutil.rmtree(node.files.data_dir / "engine")
    await running.start()
    async with running.connect() as store:
        assert [item.value async for item in store.scan()] == EXPECTED
    assert await running.stop() == []


@pytest.mark.parametrize("how", ["get", "scan"])
async def test_a_damaged_block_stops_the_node_that_reads_it(
    stopped: tuple[RunningCluster, Path], node: Node, how: str
) -> None:
    running, _ = stopped
    table = one(node.files.data_dir, "engine/*.sst")
    flip(table, table.stat().st_size // 2)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kvstore.cli", *node.arguments),
        cwd=node.files.directory,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with running.connect(timeout_s=WAIT_S) as store:
            await store.put("it", "serves")
        async with running.connect(timeout_s=3.0) as store:
            with pytest.raises(Unavailable):
                await (scan_all(store) if how == "scan" else get_all(store))
        async with asyncio.timeout(WAIT_S):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in said
    (line,) = [line for line in said.decode().splitlines() if FATAL in line]
    assert f"{table}: offset " in line


async def scan_all(store: kvstore.Client) -> None:
    """Whatever comes is right, in order, up to where the answers end."""
    expected = iter(EXPECTED)
    async for item in store.scan("key-"):
        assert item.value == next(expected)


async def get_all(store: kvstore.Client) -> None:
    for number, value in enumerate(EXPECTED):
        item = await store.get(f"key-{number:04}")
        assert item is not None
        assert item.value == value


async def test_the_others_go_on_without_it(cluster: RunningCluster) -> None:
    """Of three replicas one finds damage, at its start or later: clients miss nothing."""
    async with cluster.connect() as store:
        for number, value in enumerate(EXPECTED):
            await store.put(f"key-{number:04}", value)
        victim = cluster.nodes[0]
        assert await cluster.stop(victim) == []
        table = one(victim.files.data_dir, "engine/*.sst")
        flip(table, table.stat().st_size // 2)
        victim.start()

        # What no leader reads lies there unnoticed until replicas are compared.
        await asyncio.to_thread(
            kv, "verify", "--dir", str(cluster.directory), cwd=cluster.directory
        )

        async def is_gone() -> bool:
            await get_all(store)
            return victim.state() is not State.RUNNING

        await wait_for(is_gone, "the damaged node has stopped")
        await store.put("after", b"all")
    log = victim.files.log_file.read_text()
    assert f"{table}: offset " in log
    assert log.count(FATAL) + log.count("cannot start: ") == 1
    assert "Traceback" not in log
    assert all(node.state() is State.RUNNING for node in cluster.nodes[1:])
