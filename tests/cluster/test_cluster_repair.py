"""A node that lost its data comes back through the others, and is a real voter again."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from cluster_harness import Load, RunningCluster, kv, wait_for

from kvstore.storage.segment_files import SEGMENT_NAME

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

    from kvstore.cli.launcher.node import Node


@pytest.fixture
async def short_logs(new_cluster: RunningCluster) -> RunningCluster:
    """Three nodes that keep so little of their logs that whoever lags gets a snapshot."""
    for node in new_cluster.nodes:
        with node.files.config_file.open("a") as config:
            config.write("\n[raft]\nlog_bytes_max = 16384\n")
    await new_cluster.start()
    return new_cluster


async def kv_of(node: Node, *arguments: str, stdin: bytes = b"") -> CompletedProcess[bytes]:
    return await asyncio.to_thread(kv, *arguments, cwd=node.files.directory, stdin=stdin)


async def repair(node: Node, *options: str) -> dict[str, Any]:
    """Repair without a question; what it said."""
    config = str(node.files.config_file)
    done = await kv_of(node, "repair", "--config", config, "--yes", "-o", "json", *options)
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    return said


async def refusal(node: Node, *arguments: str) -> str:
    """The line with which a command ends that does nothing."""
    done = await kv_of(node, *arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == b""
    return done.stderr.decode().splitlines()[-1]


def flip_a_byte(node: Node) -> Path:
    """Damage the log where no crash could have: in the middle of what was synced."""
    segment = min(p for p in (node.files.data_dir / "wal").iterdir() if SEGMENT_NAME.match(p.name))
    data = bytearray(segment.read_bytes())
    written = len(bytes(data).rstrip(b"\0"))
    data[written // 2] ^= 0x01
    segment.write_bytes(data)
    return segment


async def log_says(node: Node, words: str) -> None:
    async def is_said() -> bool:
        return words in node.files.log_file.read_text()

    await wait_for(is_said, f"the log of {node.id} says {words!r}")


async def is_coming_back(cluster: RunningCluster, node: Node) -> bool:
    """Whether the leader of some shard has taken ``node`` in."""
    words = f"{node.id} comes back as a learner"
    return any(words in other.files.log_file.read_text() for other in cluster.nodes)


async def assert_whole(cluster: RunningCluster) -> None:
    """Every node is a voter of every shard."""

    async def is_whole() -> bool:
        view = (await cluster.survey()).view
        return view.is_led and not view.missing()

    await wait_for(is_whole, "nothing is missing")


async def leads_again(cluster: RunningCluster, node: Node) -> bool:
    return any(shard.leader == node.id for shard in (await cluster.survey()).view.shards)


async def assert_others_are_not_needed(cluster: RunningCluster, repaired: Node, load: Load) -> None:
    """With another node dead, the repaired one is half of every majority."""
    victim = next(node for node in cluster.nodes if node is not repaired)
    victim.kill()
    await load.go_on(100)
    await cluster.restart(victim)


async def test_a_damaged_node_is_refused_repaired_and_a_voter_again(
    cluster: RunningCluster,
) -> None:
    node = cluster.node("n3")
    async with Load(cluster) as load:
        await load.go_on(200)
        node.kill()
        segment = flip_a_byte(node)
        line = await refusal(node, *node.arguments)
        assert f"{segment}: offset " in line
        assert f"kv repair --config {node.files.config_file}" in line
        said = await repair(node)
        assert f"{segment}: offset " in said["found"]
        await load.go_on(100)
        await cluster.restart(node)
        await log_says(node, "votes in all its groups")
        await assert_whole(cluster)
        await wait_for(lambda: leads_again(cluster, node), "it leads its shards again")
        await assert_others_are_not_needed(cluster, node, load)
    await load.check()


async def test_it_catches_up_by_snapshot_too_and_can_be_repaired_again(
    short_logs: RunningCluster,
) -> None:
    cluster, node = short_logs, short_logs.node("n2")
    lives = []
    async with Load(cluster) as load:
        for _ in range(2):
            await load.go_on(500)
            await cluster.stop(node)
            lives.append((await repair(node, "--force"))["life"])
            await cluster.restart(node)
        await log_says(node, "is in force")
        await assert_others_are_not_needed(cluster, node, load)
    assert lives[1] > lives[0]
    assert len(list(node.files.data_dir.glob("damaged-*"))) == 2
    await load.check()


async def test_two_repairs_in_a_row_before_it_was_back(cluster: RunningCluster) -> None:
    node = cluster.node("n1")
    async with Load(cluster) as load:
        await load.go_on(100)
        node.kill()
        flip_a_byte(node)
        first = await repair(node)
        node.start()
        await wait_for(lambda: is_coming_back(cluster, node), "a leader takes it in")
        node.kill()
        second = await repair(node, "--force", "--discard")
        assert second["life"] > first["life"]
        assert second["set_aside"] is None
        await cluster.restart(node)
        await assert_others_are_not_needed(cluster, node, load)
    await load.check()


async def test_a_wiped_node_is_turned_away_until_it_is_repaired(cluster: RunningCluster) -> None:
    node, *others = reversed(cluster.nodes)
    async with Load(cluster) as load:
        await load.go_on(100)
        node.kill()
        shutil.rmtree(node.files.data_dir)
        node.start()
        await log_says(node, "let the others give its data again: kv repair --config FILE")
        for other in others:
            await log_says(other, f"{node.id} comes with another data directory than before")
        await load.go_on(100)
        await cluster.stop(node)
        said = await repair(node)
        assert "holds no data" in said["found"]
        await cluster.restart(node)
        await assert_others_are_not_needed(cluster, node, load)
    await load.check()


async def test_a_lost_directory_can_be_repaired_before_any_start(
    cluster: RunningCluster,
) -> None:
    node = cluster.node("n2")
    async with Load(cluster) as load:
        await load.go_on(100)
        node.kill()
        shutil.rmtree(node.files.data_dir)
        said = await repair(node)
        assert "is not there" in said["found"]
        assert said["set_aside"] is None
        await cluster.restart(node)
        await assert_others_are_not_needed(cluster, node, load)
    await load.check()


async def test_the_old_disk_is_turned_away_when_it_is_brought_back(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    node, *others = reversed(cluster.nodes)
    data_dir, old_disk, new_disk = node.files.data_dir, tmp_path / "old", tmp_path / "new"
    async with Load(cluster) as load:
        await load.go_on(100)
        await cluster.stop(node)
        shutil.copytree(data_dir, old_disk)
        await repair(node, "--force", "--discard")
        await cluster.restart(node)
        await cluster.stop(node)
        data_dir.rename(new_disk)
        old_disk.rename(data_dir)
        node.start()
        await log_says(node, "given up for good: do not start it")
        for other in others:
            await log_says(other, "n3 was repaired and lives on in another data directory")
        await load.go_on(100)
        await cluster.stop(node)
        shutil.rmtree(data_dir)
        new_disk.rename(data_dir)
        await cluster.restart(node)
        await assert_others_are_not_needed(cluster, node, load)
    await load.check()


async def test_the_last_copy_of_a_majority_is_not_given_up(cluster: RunningCluster) -> None:
    repaired, damaged, away = cluster.nodes
    async with Load(cluster) as load:
        await load.go_on(100)
    await cluster.stop()
    segment = damaged.files.data_dir / "wal" / "0000000000000001.wal"
    whole = segment.read_bytes()
    flip_a_byte(damaged)
    await repair(repaired, "--force")
    # Without a majority of the others it stays without a vote.
    repaired.start()

    async def answers() -> bool:
        return (await cluster.survey()).view.reachable == 1

    await wait_for(answers, "the repaired node answers")
    command = ("repair", "--config", str(damaged.files.config_file), "--yes")
    line = await refusal(damaged, *command)
    assert "repaired and still without a vote in shards 0, 1, 2, 3: n1;" in line
    assert "restore the data of n2 from a copy" in line
    assert list(damaged.files.data_dir.glob("damaged-*")) == []
    segment.write_bytes(whole)
    damaged.start()
    await cluster.restart(away)
    await assert_whole(cluster)
    await load.check()


async def test_what_is_not_repaired(cluster: RunningCluster) -> None:
    node = cluster.node("n3")
    command = ("repair", "--config", str(node.files.config_file), "--yes")
    for options in ((), ("--force",)):
        assert "in use by another process" in await refusal(node, *command, *options)
    await cluster.stop(node)
    assert "nothing is wrong with" in await refusal(node, *command)
    declined = await kv_of(node, *command[:-1], "--force", stdin=b"n\n")
    assert declined.returncode == 130
    assert b"nothing was changed" in declined.stderr
    await cluster.restart(node)
    assert list(node.files.data_dir.glob("damaged-*")) == []
    await assert_whole(cluster)
