"""Killing, pausing, stopping and joining nodes, as ``kv members`` and ``kv events`` show it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cluster_harness import WAIT_S, RunningCluster, kv, wait_for

from kvstore.cli.launcher.ports import free_base_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def ask(running: RunningCluster, *arguments: str, endpoints: str = "") -> list[Any]:
    """The JSON lines of a command."""
    options = ("--endpoints", endpoints or running.endpoints, "-o", "json")
    done = await asyncio.to_thread(kv, *arguments, *options, cwd=running.directory)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


async def views(running: RunningCluster, endpoints: str = "") -> dict[str, dict[str, Any]]:
    """By node, how it sees each member."""
    (said,) = await ask(running, "members", "--from", "all", endpoints=endpoints)
    return {node: {row["id"]: row for row in members} for node, members in said["views"].items()}


async def all_see(running: RunningCluster, observers: set[str], states: dict[str, str]) -> None:
    """Wait until each of ``observers`` has the members in ``states``, and no others."""

    async def do_they() -> bool:
        seen = await views(running)
        found = {n: {m: row["state"] for m, row in view.items()} for n, view in seen.items()}
        return all(found.get(observer) == states for observer in observers)

    await wait_for(do_they, f"{observers} see {states}")


async def test_a_killed_node_is_dead_and_comes_back_in_a_later_incarnation(
    cluster: RunningCluster,
) -> None:
    alive = {"n1": "alive", "n2": "alive", "n3": "alive"}
    await all_see(cluster, set(alive), alive)
    before = (await views(cluster))["n1"]["n2"]
    cluster.node("n2").kill()
    await all_see(cluster, {"n1", "n3"}, alive | {"n2": "dead"})
    await cluster.restart(cluster.node("n2"))
    await all_see(cluster, set(alive), alive)
    after = (await views(cluster))["n1"]["n2"]
    assert after["incarnation"] > before["incarnation"]
    assert after["address"] == before["address"]
    events = [e["event"] for e in await ask(cluster, "events") if e["node"] == "n2"]
    assert events[0] == "joined"
    assert events[-3:] == ["suspected", "died", "joined"]


async def test_a_stopped_node_has_left_and_is_not_taken_for_dead(cluster: RunningCluster) -> None:
    alive = {"n1": "alive", "n2": "alive", "n3": "alive"}
    await all_see(cluster, set(alive), alive)
    assert await cluster.stop(cluster.node("n3")) == []
    await all_see(cluster, {"n1", "n2"}, alive | {"n3": "left"})
    events = [e["event"] for e in await ask(cluster, "events") if e["node"] == "n3"]
    assert "died" not in events


async def test_a_paused_node_is_dead_until_it_speaks_for_itself(cluster: RunningCluster) -> None:
    alive = {"n1": "alive", "n2": "alive", "n3": "alive"}
    await all_see(cluster, set(alive), alive)
    cluster.node("n1").send(signal.SIGSTOP)
    await all_see(cluster, {"n2", "n3"}, alive | {"n1": "dead"})
    cluster.node("n1").send(signal.SIGCONT)
    await all_see(cluster, set(alive), alive)
    seen = await views(cluster)
    assert {view["n2"]["state"] for view in seen.values()} == {"alive"}
    events = await ask(cluster, "events")
    assert not [e for e in events if e["event"] == "died" and e["node"] != "n1"], (
        "it accuses nobody"
    )


@contextmanager
def joining(directory: Path, cluster_id: str, node_id: str, seeds: str) -> Iterator[str]:
    """A process that joins; its address. It is killed at the end."""
    port = free_base_port(1, random.Random())
    config = directory / f"{node_id}.toml"
    config.write_text(
        f'[node]\nid = "{node_id}"\ndata_dir = "{node_id}"\naddress = "127.0.0.1:{port}"\n'
        f'[cluster]\nid = "{cluster_id}"\n'
    )
    with (directory / f"{node_id}.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "kvstore.cli",
                "node",
                "start",
                "--config",
                str(config),
                "--join",
                seeds,
            ],
            stderr=log,
        )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(WAIT_S)


def log_of(directory: Path, node_id: str) -> str:
    return (directory / f"{node_id}.log").read_text()


async def test_a_node_joins_through_one_seed_and_serves_whoever_asks_it(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    cluster_id = cluster.cluster.layout.spec.config().id
    seed = cluster.node("n2").files.address
    with joining(tmp_path, cluster_id, "n4", f"127.0.0.1:1,{seed}") as address:
        states = dict.fromkeys(("n1", "n2", "n3", "n4"), "alive")
        await all_see(cluster, set(states), states)
        seen = (await views(cluster))["n1"]["n4"]
        assert (seen["address"], seen["weight"]) == (address, 1.0)

        async def has_the_map() -> bool:
            return (await views(cluster, address))["n4"]["n4"]["map_version"] > 1

        await wait_for(has_the_map, "it has pulled a shard map, that in which it is a member")
        options = ("--endpoints", address)
        put = await asyncio.to_thread(kv, "put", "a", "b", *options, cwd=tmp_path)
        assert put.returncode == 0, put.stderr

        async def has_complained() -> bool:
            return "the seed 127.0.0.1:1 does not answer" in log_of(tmp_path, "n4")

        await wait_for(has_complained, "it says which seed does not answer")
    await all_see(cluster, {"n1", "n2", "n3"}, states | {"n4": "dead"})


async def test_seeds_of_another_cluster_and_a_taken_name_have_no_effect(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    cluster_id = cluster.cluster.layout.spec.config().id
    alive = {"n1": "alive", "n2": "alive", "n3": "alive"}
    await all_see(cluster, set(alive), alive)
    seeds = cluster.endpoints

    async def says(node_id: str, words: str) -> None:
        async def does_it() -> bool:
            return words in log_of(tmp_path, node_id)

        await wait_for(does_it, f"{node_id} says {words!r}")

    with joining(tmp_path, "another", "n5", seeds), joining(tmp_path, cluster_id, "n2", seeds):
        await says("n5", f"this is cluster {cluster_id!r}, not 'another'")
        await says("n2", "another data directory")
        await all_see(cluster, set(alive), alive)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a node to ask"),
        (["--join", "nowhere"], "seed 'nowhere' is not host:port"),
    ],
)
def test_a_node_that_joins_must_know_whom_to_ask(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    config = tmp_path / "n4.toml"
    config.write_text(
        '[node]\nid = "n4"\ndata_dir = "d"\naddress = "127.0.0.1:1"\n[cluster]\nid = "c"\n'
    )
    done = kv("node", "start", "--config", str(config), *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert words in line
