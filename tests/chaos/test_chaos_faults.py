"""Whether a fault bit is not taken on trust: what happened is told from what did not."""

from __future__ import annotations

import asyncio
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from chaos import disk_faults, target
from chaos.cluster import Cluster, Node
from chaos.disk_faults import failed_sync
from chaos.history import History
from chaos.process_faults import kill_leader
from chaos.shim import Shim
from chaos.target import Target
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FakeNode(Node):
    """A process that only waits."""

    def start(self) -> None:
        assert not self.is_up
        if self.process is not None:
            self.exit_codes.append(self.process.returncode)
        self.process = subprocess.Popen(["sleep", "60"])


class FakeCluster(Cluster):
    """Three such processes; who leads is told by the test."""

    def __init__(self, directory: Path) -> None:
        self.rng = random.Random(1)
        self.nodes = [self._node(directory, f"n{number}") for number in (1, 2, 3)]
        self.after_a_death: dict[int, str] = {}

    @staticmethod
    def _node(directory: Path, name: str) -> Node:
        shim = Shim(directory / "none", directory, directory, directory / f"{name}.control")
        return FakeNode(NodeId(name), 1, directory, shim)

    async def leaders(self) -> dict[int, str]:
        has_died = any(node.exit_codes for node in self.nodes)
        return self.after_a_death if has_died else {0: "n2", 1: "n2", 2: "n3"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    for module, name in (
        (disk_faults, "DEATH_WAIT_S"),
        (disk_faults, "WAIT_S"),
        (target, "ELECTION_WAIT_S"),
    ):
        monkeypatch.setattr(module, name, 0.2)
    cluster = FakeCluster(tmp_path)
    for node in cluster.nodes:
        node.start()
    yield cluster
    for node in cluster.nodes:
        assert node.process is not None
        node.process.kill()
        node.process.wait()


@pytest.mark.parametrize(
    ("afterwards", "bit"),
    [
        ({0: "n1", 1: "n3", 2: "n3"}, True),
        ({0: "n2", 1: "n2", 2: "n3"}, False),
        ({2: "n3"}, False),
    ],
    ids=["others were elected", "it leads again", "nobody was elected"],
)
async def test_the_death_of_a_leader_counts_if_others_were_elected(
    cluster: FakeCluster, afterwards: dict[int, str], bit: bool
) -> None:
    cluster.after_a_death = afterwards
    outcome = await kill_leader(Target(cluster, History(3), random.Random(3)))
    assert outcome.what.startswith("n2, leader of 2 shards")
    assert outcome.bit is bit


async def test_a_sync_that_did_not_fail_does_not_excuse_a_later_death(
    cluster: FakeCluster,
) -> None:
    outcome = await failed_sync(Target(cluster, History(3), random.Random(1)))
    assert not outcome.bit
    node = cluster.node("n2")
    assert node.is_up
    assert not node.is_death_expected
    assert not node.complaints


async def test_a_process_that_survives_a_failed_sync_is_a_problem(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.node("n2")
    monkeypatch.setattr(node, "clear_fault", lambda: False)  # as if the sync had failed
    outcome = await failed_sync(Target(cluster, History(3), random.Random(1)))
    assert not outcome.bit
    assert node.complaints == ["n2 lives on after a failed sync in /wal/"]


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_process_that_dies_of_something_else_than_a_failed_sync_is_a_problem(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, has_failed: bool
) -> None:
    node = cluster.node("n2")
    monkeypatch.setattr(node, "clear_fault", lambda: not has_failed)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(node, "set_fault", lambda text: loop.call_soon(kill_and_wait, node))
    outcome = await failed_sync(Target(cluster, History(3), random.Random(1)))
    assert not outcome.bit
    said = "a sync has failed" if has_failed else "no sync has failed"
    assert node.complaints == [f"n2 ended with exit code -9, and {said} in /wal/"]


def kill_and_wait(node: Node) -> None:
    """As the kernel does when memory is short."""
    assert node.process is not None
    node.process.kill()
    node.process.wait()


def test_a_process_recovers_once_it_has_its_files_open(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    node = Node(NodeId("n1"), 1, tmp_path / "n1", None)
    assert not node.has_files_open()
    node.process = cluster.node("n1").process
    assert not node.has_files_open()
    node.data_dir.mkdir(parents=True)
    with (node.data_dir / "file").open("wb") as file:
        node.process = subprocess.Popen(["sleep", "60"], stdout=file)
    try:
        assert node.has_files_open()
    finally:
        kill_and_wait(node)
    assert not node.has_files_open()
