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
from cluster_harness import WAIT_S, Load, RunningCluster, kv, wait_for

from kvstore.cli.launcher.ports import free_base_port
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from collections.abc import Iterator
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

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


@contextmanager
def joiner(directory: Path, cluster: RunningCluster) -> Iterator[Joiner]:
    node = Joiner(directory, cluster)
    try:
        yield node
    finally:
        node.kill()


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


async def holds_something(cluster: RunningCluster) -> bool:
    return load_of(await map_of(cluster)).get(N4, 0) > 0


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
    cluster: RunningCluster, tmp_path: Path
) -> None:
    with joiner(tmp_path, cluster) as n4:
        async with Load(cluster) as load:
            await load.go_on(2000)
            for number in range(1, 6):
                n4.start()

                async def has_begun(number: int = number) -> bool:
                    comings = n4.said().count("comes to this node")
                    return comings >= number or await is_level(cluster)

                await wait_for(has_begun, f"the start {number} of n4 has taken something in")
                n4.kill()
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
            await wait_for(lambda: holds_something(cluster), "something has come to n4")
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
