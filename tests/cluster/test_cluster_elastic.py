"""Real clusters that grow: what comes to a new node, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster_harness import WAIT_S, Load, RunningCluster, kv, made, wait_for

from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.ports import free_base_port
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from kvstore.sharding.shard_map import ShardMap

N4 = NodeId("n4")


class Joiner:
    """A node that is none of the cluster's first ones; its process is ended by its own id."""

    def __init__(self, directory: Path, cluster: RunningCluster) -> None:
        port = free_base_port(1, random.Random())
        self.address = f"127.0.0.1:{port}"
        self._log = directory / "n4.log"
        self._config = directory / "n4.toml"
        self._seeds = cluster.endpoints
        self._config.write_text(
            f'[node]\nid = "{N4}"\ndata_dir = "n4"\naddress = "{self.address}"\n'
            f'[cluster]\nid = "{cluster.cluster.layout.spec.config().id}"\n'
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "kvstore.cli", "node", "start"]
        options = ["--config", str(self._config), "--join", self._seeds]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *options], stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_S)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def comings(self) -> int:
        """How many replicas it has taken in, over all its starts."""
        said = self._log.read_text() if self._log.exists() else ""
        return said.count("comes to this node")


@contextmanager
def joiner(directory: Path, cluster: RunningCluster) -> Iterator[Joiner]:
    node = Joiner(directory, cluster)
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture
async def one_by_one(tmp_path: Path) -> AsyncIterator[RunningCluster]:
    """Three nodes that serve, of which a newcomer takes over much, and never two at a time."""
    with made(tmp_path / "kv", Wanted(nodes=3, shards=8, base_port=0)) as running:
        for node in running.nodes:
            with node.files.config_file.open("a", encoding="utf-8") as file:
                file.write("\n[sharding]\nmoves_max = 1\n")
        await running.start()
        yield running


async def map_of(cluster: RunningCluster) -> ShardMap:
    async with cluster.connect() as store:
        return await store.shard_map()


def load_of(shard_map: ShardMap) -> dict[str, int]:
    held = {node.id: 0 for node in shard_map.nodes}
    for replicas in shard_map.replicas:
        for replica in replicas:
            held[replica.node] += 1
    return dict(sorted(held.items()))


async def is_level(cluster: RunningCluster) -> bool:
    shard_map = await map_of(cluster)
    held = load_of(shard_map)
    return N4 in held and not shard_map.changes and max(held.values()) - min(held.values()) <= 1


async def is_on_its_way(cluster: RunningCluster) -> bool:
    """Whether a replica is being moved to n4 right now."""
    adds = [change.add for change in (await map_of(cluster)).changes]
    return any(add is not None and add.node == N4 for add in adds)


async def verify(directory: Path, endpoints: str) -> None:
    """The replicas of each shard are equal."""
    done = await asyncio.to_thread(kv, "verify", "--endpoints", endpoints, cwd=directory)
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode() + said
    assert "all equal" in said


async def test_who_joins_under_load_gets_its_share_and_nobody_notices(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    with joiner(tmp_path, cluster) as n4:
        async with Load(cluster) as load:
            await load.go_on(2000)
            n4.start()
            await wait_for(lambda: is_level(cluster), "replicas have come to n4")
            assert load_of(await map_of(cluster)) == dict.fromkeys(("n1", "n2", "n3", "n4"), 3)
            await load.go_on(500)
            assert load.unknown == 0, "a planned change is no error"
            n4.kill()
            await load.go_on(200)
            n4.start()
            await load.go_on(200)
        await load.check()
        await verify(tmp_path, f"{cluster.endpoints},{n4.address}")


async def test_replicas_come_to_a_node_whatever_kills_it_on_the_way(
    one_by_one: RunningCluster, tmp_path: Path
) -> None:
    cluster = one_by_one
    with joiner(tmp_path, cluster) as n4:
        async with Load(cluster) as load:
            await load.go_on(2000)
            interrupted = 0
            for number in range(1, 6):
                before = n4.comings()
                n4.start()

                async def is_in_the_middle(before: int = before) -> bool:
                    return n4.comings() > before and await is_on_its_way(cluster)

                async def is_time(middle: Callable[[], Awaitable[bool]] = is_in_the_middle) -> bool:
                    return await middle() or await is_level(cluster)

                await wait_for(is_time, f"the start {number} of n4 has taken something in")
                interrupted += await is_in_the_middle()
                n4.kill()
            assert interrupted >= 2, "else nothing was killed on the way"
            n4.start()
            await wait_for(lambda: is_level(cluster), "replicas have come to n4")
            await load.go_on(200)
        await load.check()
        await verify(tmp_path, f"{cluster.endpoints},{n4.address}")


@pytest.mark.parametrize("whose", ["the meta group's leader", "everybody"])
async def test_replicas_move_on_after_others_are_killed_on_the_way(
    cluster: RunningCluster, tmp_path: Path, whose: str
) -> None:
    with joiner(tmp_path, cluster) as n4:
        async with Load(cluster) as load:
            await load.go_on(2000)
            n4.start()
            await wait_for(lambda: is_on_its_way(cluster), "something is on its way to n4")
            leaders = [node for node in cluster.nodes if steers(node)]
            victims = list(cluster.nodes) if whose == "everybody" else leaders
            assert victims
            for node in victims:
                node.send(signal.SIGKILL)
            for node in victims:
                await wait_for(is_dead(node), f"{node.id} is dead")
            await cluster.start()
            await wait_for(lambda: is_level(cluster), "replicas have come to n4")
            await load.go_on(200)
        await load.check()
        await verify(tmp_path, f"{cluster.endpoints},{n4.address}")


def holds(shard_map: ShardMap, node: str) -> bool:
    return any(r.node == node for members in (shard_map.meta, *shard_map.replicas) for r in members)


async def test_a_node_that_stays_dead_is_replaced_and_gets_its_share_again_when_it_is_back(
    new_cluster: RunningCluster, tmp_path: Path
) -> None:
    for node in new_cluster.nodes:
        with node.files.config_file.open("a", encoding="utf-8") as file:
            file.write("\n[sharding]\nreplace_after_s = 1.5\n")
    await new_cluster.start()
    with joiner(tmp_path, new_cluster) as n4:
        n4.start()
        await wait_for(lambda: is_level(new_cluster), "replicas have come to n4")
        async with Load(new_cluster) as load:
            await load.go_on(500)
            victim = new_cluster.node("n2")
            victim.send(signal.SIGKILL)
            await wait_for(is_dead(victim), "n2 is dead")

            async def is_replaced() -> bool:
                shard_map = await map_of(new_cluster)
                return not holds(shard_map, "n2") and not shard_map.changes

            await wait_for(is_replaced, "nothing is on n2 any more")
            await load.go_on(200)
            await new_cluster.restart(victim)
            await wait_for(lambda: is_level(new_cluster), "n2 has its share again")
            await load.go_on(200)
        await load.check()
        await verify(tmp_path, f"{new_cluster.endpoints},{n4.address}")


async def test_no_caller_notices_that_a_node_is_drained_and_removed(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """Clients read, write and scan all the while; that nothing fails is asserted of each call."""
    with joiner(tmp_path, cluster) as n4:
        n4.start()
        await wait_for(lambda: is_level(cluster), "replicas have come to n4")
        is_over = False

        async def read() -> int:
            reads = 0
            async with cluster.connect() as store:
                await store.put("read", b"always")
                while not is_over:
                    item = await store.get("read")
                    assert item is not None
                    assert item.value == b"always"
                    assert [found.key async for found in store.scan("read")] == [b"read"]
                    reads += 1
            return reads

        async with Load(cluster) as load:
            await load.go_on(500)
            reading = asyncio.create_task(read())
            for order in (("drain", "n1"), ("activate", "n1"), ("remove", "n4")):
                endpoints = f"{cluster.endpoints},{n4.address}"
                done = await asyncio.to_thread(
                    kv, "node", *order, "--endpoints", endpoints, "--timeout", "60", cwd=tmp_path
                )
                assert done.returncode == 0, done.stderr.decode()
            await load.go_on(200)
            is_over = True
            assert await reading > 50
            assert load.unknown == 0, "a planned change is no error"
        await load.check()
        assert not holds(await map_of(cluster), N4)
        await verify(tmp_path, cluster.endpoints)


def steers(node: Any) -> bool:
    """Whether it leads the meta group, by the last that its own log says of that."""
    said = node.files.log_file.read_text().splitlines()
    roles = [line for line in said if "the meta group: " in line and " in term " in line]
    return bool(roles) and "the meta group: leader" in roles[-1]


def is_dead(node: Any) -> Any:
    async def check() -> bool:
        return bool(node.state().name == "DEAD")

    return check
