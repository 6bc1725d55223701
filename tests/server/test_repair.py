"""What a repair finds in a data directory, and what it refuses to do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvstore.config import MIB, ClusterConfig, EngineConfig, NodeAddress, NodeConfig, WalConfig
from kvstore.errors import (
    CorruptionError,
    DataDirectoryError,
    Internal,
    InvalidArgument,
    KVError,
    StartupError,
)
from kvstore.ids import GroupId, NodeId, ReplicaId, Term
from kvstore.server import repair
from kvstore.server.advice import advice
from kvstore.server.data_directory import open_data_directory
from kvstore.storage import records, renewal
from kvstore.storage.files import OsFiles
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.wal import open_wal

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW_S = 1_700_000_000
NODES = tuple(NodeAddress(NodeId(n), f"127.0.0.1:{i}") for i, n in enumerate(("n1", "n2", "n3"), 1))


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        node_id=NodeId("n1"),
        data_dir=tmp_path / "data",
        cluster=ClusterConfig("c", NODES, shards=2, replicas=3),
        wal=WalConfig(segment_bytes=MIB, live_bytes_max=4 * MIB, reserve_bytes=64 * 1024),
    )


def used(config: NodeConfig, *written: bytes) -> Path:
    """Let a node have run there whose log holds these records; the log's first segment."""
    open_data_directory(config).release()
    RocksEngine(config.data_dir / "engine", EngineConfig()).close()
    asyncio.run(write(config, written))
    return config.data_dir / "wal" / "0000000000000001.wal"


async def write(config: NodeConfig, written: Sequence[bytes]) -> None:
    wal, _ = await open_wal(
        config.data_dir / "wal",
        cluster_id="c",
        node_id=config.node_id,
        config=config.wal,
        on_fatal=lambda error: None,
        on_disk_full=lambda full: None,
    )
    for record in written:
        durable = asyncio.Event()
        wal.append([record], durable.set)
        await durable.wait()
    await wal.close()


VOTES = [records.encode_hard_state(GroupId(1), Term(n), ReplicaId(2)) for n in range(1, 9)]


def examine(config: NodeConfig) -> str | None:
    told: list[str] = []
    with repair.opened(config) as held:
        return held.examine(told.append)


def test_a_log_with_votes_is_worth_keeping(config: NodeConfig) -> None:
    used(config, *VOTES)
    assert examine(config) is None
    assert examine(config) is None, "looking changes nothing"
    open_data_directory(config).release()


def test_a_node_that_never_took_part_has_nothing_to_lose(config: NodeConfig) -> None:
    used(config)
    found = examine(config)
    assert found is not None
    assert "holds no data: it is new, or it was lost" in found


def test_a_flipped_bit_in_the_log(config: NodeConfig) -> None:
    segment = used(config, *VOTES)
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    found = examine(config)
    assert found is not None
    assert f"{segment}: offset " in found


def test_a_torn_end_of_the_log_is_no_damage(config: NodeConfig) -> None:
    segment = used(config, *VOTES)
    data = segment.read_bytes()
    written = len(data.rstrip(b"\0"))
    segment.write_bytes(data[: written - 5] + bytes(len(data) - written + 5))
    assert examine(config) is None


def test_a_damaged_manifest_of_a_snapshot(config: NodeConfig) -> None:
    used(config, *VOTES)
    manifest = config.data_dir / "snapshots" / "g1.manifest"
    manifest.parent.mkdir()
    manifest.write_bytes(b"junk")
    found = examine(config)
    assert found is not None
    assert str(manifest) in found


def test_a_damaged_block_of_the_engine_which_no_start_would_notice(config: NodeConfig) -> None:
    used(config, *VOTES)
    engine = RocksEngine(config.data_dir / "engine", EngineConfig())
    batch = engine.batch()
    for number in range(200):
        batch.put(b"\0\1\x7f%d" % number, b"value" * 20)
    engine.write(batch)
    engine.flush()
    engine.close()
    (table,) = (config.data_dir / "engine").glob("*.sst")
    data = bytearray(table.read_bytes())
    data[100] ^= 0xFF
    table.write_bytes(data)
    found = examine(config)
    assert found is not None
    assert table.name in found


def test_a_log_of_another_node_is_no_damage_but_a_mistake(config: NodeConfig) -> None:
    used(config, *VOTES)
    other = replace(config, node_id=NodeId("n2"), data_dir=config.data_dir.with_name("n2"))
    used(other, *VOTES)
    segment = "wal/0000000000000001.wal"
    (other.data_dir / segment).replace(config.data_dir / segment)
    with pytest.raises(DataDirectoryError, match="belongs to node n2"):
        examine(config)


@pytest.mark.parametrize("part", ["wal", "wal/0000000000000001.wal", "identity.json"])
def test_what_cannot_be_looked_at_is_not_known_to_be_lost(config: NodeConfig, part: str) -> None:
    """As with a missing permission; a link to itself cannot be read by root either."""
    used(config, *VOTES)
    identity = open_data_directory(config)
    identity.begin_log()
    identity.release()
    path = config.data_dir / part
    path.rename(config.data_dir.with_name("elsewhere"))
    path.symlink_to(path)
    with pytest.raises(DataDirectoryError, match=f"{path} cannot be read: ") as caught:
        examine(config)
    assert advice(caught.value) == ""


def test_an_engine_that_fails_is_no_proof_of_damage(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(config, *VOTES)

    def broken(*_: object) -> None:
        raise Internal("the engine failed: permission denied")

    monkeypatch.setattr(RocksEngine, "__init__", broken)
    with pytest.raises(Internal, match="permission denied"):
        examine(config)


def test_after_a_repair_the_directory_is_that_of_a_later_life(config: NodeConfig) -> None:
    used(config, *VOTES)
    with repair.opened(config) as held:
        renewed = held.renew(NOW_S, keep=True)
    assert renewed.set_aside == config.data_dir / f"damaged-{NOW_S}"
    identity = open_data_directory(config)
    assert identity.life == NOW_S
    identity.release()
    with repair.opened(config) as held:
        renewed = held.renew(NOW_S, keep=False)
    assert renewed.set_aside is not None
    assert not renewed.set_aside.exists()
    assert renewed.life == NOW_S + 1


@pytest.mark.parametrize(("replicas", "said"), [(1, "1 replica:"), (2, "2 replicas:")])
def test_what_could_never_come_back_is_not_given_up(
    config: NodeConfig, replicas: int, said: str
) -> None:
    few = replace(config, cluster=replace(config.cluster, replicas=replicas))
    with pytest.raises(InvalidArgument, match=f"each shard has {said} without this node's"):
        examine(few)
    assert not config.data_dir.exists()


def test_a_disk_that_fails_is_said_and_another_try_finishes(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(config, *VOTES)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched, repair.opened(config) as held:
        patched.setattr(OsFiles, "sync_directory", broken)
        with pytest.raises(
            StartupError, match=r"^n1 could not be repaired: .*: Input/output error; try"
        ):
            held.renew(NOW_S, keep=True)
    with repair.opened(config) as held:
        held.renew(NOW_S, keep=True)
    open_data_directory(config).release()


def test_what_cannot_be_removed_is_said(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(config, *VOTES)

    def broken(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "old/wal")

    monkeypatch.setattr(renewal, "discard", broken)
    with (
        repair.opened(config) as held,
        pytest.raises(
            StartupError, match=r"n1 is repaired, but .* removed: old/wal: Permission denied"
        ),
    ):
        held.renew(NOW_S, keep=False)
    open_data_directory(config).release()


@pytest.mark.parametrize(
    ("error", "file", "words"),
    [
        (CorruptionError("damaged", file="f", offset=1), Path("n1.toml"), "--config n1.toml)"),
        (CorruptionError("damaged", file="f", offset=1), Path("my n1.toml"), "'my n1.toml')"),
        (CorruptionError("damaged", file="f", offset=1), None, "--config FILE)"),
        (DataDirectoryError("lost", is_repairable=True), Path("n1.toml"), "kv repair --config"),
        (DataDirectoryError("in use"), Path("n1.toml"), ""),
        (StartupError("port in use"), Path("n1.toml"), ""),
        (Internal("a bug"), Path("n1.toml"), ""),
    ],
)
def test_only_lost_or_damaged_data_is_answered_by_a_repair(
    error: KVError, file: Path | None, words: str
) -> None:
    said = advice(error, file)
    assert words in said
    assert bool(said) == bool(words)
