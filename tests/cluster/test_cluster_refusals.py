"""A node never starts half: one clear line and exit code 2."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from cluster_harness import RunningCluster, kv, made

from kvstore.cli.launcher.cluster import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvstore.cli.launcher.node import Node


@pytest.fixture
def single(tmp_path: Path) -> Iterator[RunningCluster]:
    """A cluster of one node, not started."""
    with made(tmp_path / "kv", Wanted(nodes=1, shards=2, base_port=0)) as running:
        yield running


def refusal(node: Node) -> str:
    """The line with which ``kv node start`` ends."""
    done = kv(*node.arguments, cwd=node.files.directory)
    assert done.returncode == 2, done.stderr.decode()
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    complaints = [line for line in lines if " INFO " not in line and " WARNING " not in line]
    assert len(complaints) == 1, lines
    return complaints[0]


def test_a_port_in_use(single: RunningCluster) -> None:
    (node,) = single.nodes
    host, _, port = node.files.address.rpartition(":")
    with socket.create_server((host, int(port))):
        assert node.files.address in refusal(node)


async def test_a_data_directory_in_use(single: RunningCluster) -> None:
    await single.start()
    (node,) = single.nodes
    assert str(node.files.data_dir) in refusal(node)
    async with single.connect() as store:
        await store.put("still", b"here")


async def test_a_data_directory_of_another_cluster(single: RunningCluster) -> None:
    await single.start()
    await single.stop()
    (node,) = single.nodes
    edit(node, single.cluster.layout.spec.id, "another-cluster")
    assert "another-cluster" in refusal(node)


async def test_a_data_directory_of_another_node(single: RunningCluster) -> None:
    await single.start()
    await single.stop()
    (node,) = single.nodes
    edit(node, '"n1"', '"n7"')
    line = refusal(node)
    assert "n1" in line
    assert "n7" in line


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shards = 2", "shards = 3", "cluster.shards"),
        ("shards = 2", "shard = 2", "cluster.shard"),
        ('id = "n1"', 'id = "n2"', "n2"),
        ("[node]", "[node", "not TOML"),
        ("[node]", "[node]\nlog_level = 5", "node.log_level"),
    ],
)
def test_a_broken_configuration(single: RunningCluster, old: str, new: str, said: str) -> None:
    (node,) = single.nodes
    text = node.files.config_file.read_text()
    node.files.config_file.write_text(text.replace(old, new, 1))
    line = refusal(node)
    assert said in line
    assert "node.toml" in line


def test_a_data_directory_that_cannot_be_made(single: RunningCluster) -> None:
    (node,) = single.nodes
    node.files.data_dir.write_text("a file where a directory should be")
    assert str(node.files.data_dir) in refusal(node)


def edit(node: Node, old: str, new: str) -> None:
    path = node.files.config_file
    path.write_text(path.read_text().replace(old, new))
