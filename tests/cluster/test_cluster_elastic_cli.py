"""Growing and shrinking a cluster of real processes by the commands that a person has."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from cluster_harness import kv
from local_cluster import WAIT

if TYPE_CHECKING:
    from local_cluster import Local


def test_a_cluster_grows_and_shrinks_by_commands(local: Local) -> None:
    asyncio.run(local.fill())
    line = local.fails(2, "node", "remove", "n1")
    assert "without n1 there are 2 nodes for the 3 replicas of each shard" in line

    added = local.json("cluster", "add", "--zone", "b")
    assert (added["id"], added["state"]) == ("n4", "running")
    assert added["address"] == f"127.0.0.1:{local.base_port + 4}"
    assert local.ok("moves", "-f").endswith("nothing moves\n")
    assert local.held("n4") > 0
    assert local.json("rebalance", "--plan")["moves"] == []
    assert "is not a weight" in local.fails(2, "node", "weight", "n4", "0")

    assert "n4 holds nothing any more" in local.ok("node", "drain", "n4", *WAIT)
    assert local.held("n4") == 0
    local.ok("node", "activate", "n4")
    assert local.ok("moves", "-f").endswith("nothing moves\n")
    assert local.held("n4") > 0

    shard = local.json("shards")["shards"][0]
    assert (shard["arc"], shard["state"]) == ({"first": "00", "last": "3f"}, "ok")
    heir = next(node for node in shard["replicas"] if node != shard["leader"])
    assert local.ok("transfer", "0", heir, *WAIT) == f"shard 0 is led by {heir}\n"
    (stranger,) = {"n1", "n2", "n3", "n4"} - set(shard["replicas"])
    line = local.fails(2, "transfer", "0", stranger)
    assert f"{', '.join(sorted(shard['replicas']))} have one" in line

    removed = local.ok("node", "remove", "n1", *WAIT)
    assert removed.startswith("n1 is no member any more")
    assert removed.endswith("it was stopped\n")
    assert local.states() == dict.fromkeys(("n2", "n3", "n4"), "running")
    assert "n1 was removed already" in local.fails(2, "node", "remove", "n1")
    assert "n1 was removed from this cluster" in local.fails(2, "cluster", "restart", "n1")
    assert local.has_all_keys()

    local.ok("cluster", "down")
    local.ok("cluster", "up")
    assert local.states() == dict.fromkeys(("n2", "n3", "n4"), "running")
    assert local.has_all_keys()
    assert local.json("cluster", "add")["id"] == "n5"
    local.ok("cluster", "down")
    local.ok("cluster", "clean")
    assert list(local.directory.iterdir()) == []


def test_what_was_removed_from_elsewhere_is_not_started_for_long(local: Local) -> None:
    local.ok("cluster", "add")
    endpoint = ("--endpoints", f"127.0.0.1:{local.base_port + 2}")
    removed = kv("node", "remove", "n4", *endpoint, *WAIT, cwd=local.directory)
    assert removed.returncode == 0
    assert removed.stderr == b"kv: note: if n4 still runs, it can be stopped\n"
    local.ok("cluster", "kill", "n4")
    up = kv("cluster", "up", cwd=local.directory)
    assert up.returncode == 0
    assert up.stderr == b"kv: note: n4 is no member any more; it was stopped\n"
    assert local.states() == dict.fromkeys(("n1", "n2", "n3"), "running")


def test_a_node_that_cannot_start_leaves_nothing_behind(local: Local) -> None:
    with socket.create_server(("127.0.0.1", local.base_port + 4)):
        line = local.fails(2, "cluster", "add")
    assert line.startswith("kv: n4 could not start: ")
    assert set(local.states()) == {"n1", "n2", "n3"}
    assert not (local.directory / ".kv" / "n4").exists()
    assert local.json("cluster", "add")["id"] == "n4"


def test_a_node_that_nobody_admits_leaves_nothing_but_its_name(local: Local) -> None:
    for node in ("n1", "n2"):
        local.ok("cluster", "pause", node)
    line = local.fails(3, "cluster", "add", "--timeout", "4")
    assert line.startswith("kv: not ready after 4 s: n4 is not a member yet (its last words: ")
    assert set(local.states()) == {"n1", "n2", "n3"}
    for node in ("n1", "n2"):
        local.ok("cluster", "resume", node)
    assert local.json("cluster", "add")["id"] in ("n4", "n5"), "n5 if anybody has met n4"


def test_a_cluster_that_does_not_run_takes_no_node(local: Local) -> None:
    local.ok("cluster", "down")
    assert local.fails(3, "cluster", "add") == "kv: the cluster does not run (kv cluster up)"
