"""What a person orders of a cluster of real processes: weights, balance, a dead node's removal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster_harness import WAIT_S, kv
from local_cluster import WAIT, local_cluster

from kvstore.cli.launcher.cluster import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_cluster import Local


def holdings(local: Local) -> Counter[str]:
    """How many replicas each node has."""
    return Counter(node for shard in local.shards() for node in shard["replicas"])


def leaders(local: Local) -> Counter[str]:
    return Counter(shard["leader"] for shard in local.shards())


def is_within(counts: Counter[str], shares: dict[str, float], by: float) -> bool:
    """Whether ``counts`` are of those nodes alone, each at most ``by`` from its share."""
    return counts.keys() <= shares.keys() and all(
        abs(counts[node] - share) <= by for node, share in shares.items()
    )


def test_a_node_of_weight_2_gets_twice_the_replicas(tmp_path: Path) -> None:
    with local_cluster(tmp_path, Wanted(nodes=4, shards=16, replicas=2)) as local:
        asyncio.run(local.fill())
        assert local.held("n2") <= 9, "no node has more than a tenth more than its share"
        said = local.ok("node", "weight", "n2", "2")
        assert said.startswith("n2 has the weight 2 from now on; ")
        assert said.endswith("replicas move for that: kv moves -f\n")
        shares = {"n1": 32 / 5, "n2": 64 / 5, "n3": 32 / 5, "n4": 32 / 5}
        local.wait(lambda: is_within(holdings(local), shares, by=1), f"replicas as {shares}")
        assert local.ok("moves", "-f").endswith("nothing moves\n")
        assert is_within(holdings(local), shares, by=1)
        assert local.has_all_keys()


def test_nothing_moves_for_balance_alone_before_it_is_ordered(tmp_path: Path) -> None:
    config = "\n[sharding]\nbalances = false\n"
    with local_cluster(tmp_path, Wanted(shards=4), config) as local:
        asyncio.run(local.fill())
        local.ok("cluster", "add")
        planned = local.json("rebalance", "--plan")
        assert not planned["is_ordered"]
        assert [move["to"] for move in planned["moves"]] == ["n4"] * 3, "its share of 12"
        assert local.ok("moves", "-f").endswith("nothing moves\n")
        assert local.held("n4") == 0
        said = local.ok("node", "weight", "n4", "1")
        assert said.endswith("sharding.balances is off, kv rebalance --now lets them\n")
        assert local.json("rebalance", "--plan") == planned
        ordered = local.json("rebalance", "--now")
        assert ordered["is_ordered"]
        assert ordered["moves"] == planned["moves"]
        share = dict.fromkeys(("n1", "n2", "n3", "n4"), 3.0)
        local.wait(lambda: is_within(holdings(local), share, by=0), "n4 has its share")
        assert local.ok("moves", "-f").endswith("nothing moves\n")
        assert local.ok("rebalance", "--plan") == "nothing would move: it is even\n"
        assert local.has_all_keys()


def test_leaders_have_their_shares_again_after_a_restart_of_everything(tmp_path: Path) -> None:
    with local_cluster(tmp_path, Wanted(shards=8)) as local:
        asyncio.run(local.fill())
        local.ok("node", "weight", "n3", "2")
        shares = {"n1": 2.0, "n2": 2.0, "n3": 4.0}
        local.ok("cluster", "down")
        for node in ("n1", "n2"):
            local.ok("cluster", "restart", node, *WAIT)
        local.wait(lambda: is_within(leaders(local), {"n1": 4, "n2": 4}, by=4), "two lead all")
        local.ok("cluster", "up", *WAIT)
        local.wait(lambda: is_within(leaders(local), shares, by=1), f"leaders as {shares}")
        assert local.has_all_keys()


# -- a dead node is removed -----------------------------------------------------------------------


@contextmanager
def started(local: Local, node: str) -> Iterator[Path]:
    """A process of ``node``, whatever the launcher thinks of that; what it says."""
    directory = local.directory / ".kv" / node
    said = local.directory / f"{node}-again.log"
    command = [sys.executable, "-m", "kvstore.cli", "node", "start"]
    with said.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--config", str(directory / "node.toml")], stdout=log, stderr=log
        )
    try:
        yield said
    finally:
        process.kill()
        process.wait(WAIT_S)


def seen_as(local: Local, node: str) -> dict[str, str]:
    """In which state each node that answers has ``node`` among the members."""
    views = local.json("members", "--from", "all")["views"].items()
    return {by: row["state"] for by, view in views for row in view if row["id"] == node}


def test_a_dead_node_is_removed_by_force_and_cannot_come_back(local: Local) -> None:
    asyncio.run(local.fill())
    local.ok("cluster", "kill", "n3")
    assert "insist (--force)" in local.fails(2, "node", "remove", "n3")
    assert local.states()["n3"] == "dead"
    removed = local.ok("node", "remove", "n3", "--force", *WAIT)
    assert removed.startswith("n3 is no member any more")
    assert removed.endswith("it did not run\n")
    assert local.states() == dict.fromkeys(("n1", "n2"), "running")
    assert [sorted(shard["replicas"]) for shard in local.shards()] == [["n1", "n2"]] * 4
    local.ok("put", "after", "it went on", *WAIT)
    assert local.has_all_keys()

    assert "n3 was removed from this cluster" in local.fails(2, "cluster", "restart", "n3")
    with started(local, "n3") as said:
        local.wait(lambda: "removed from cluster" in said.read_text(), "n3 is told")
        asked = ("--endpoints", local.address(3), "--timeout", "1")
        refused = kv("get", "after", *asked, cwd=local.directory)
        assert refused.returncode == 3
        assert b"n3 was removed from this cluster" in refused.stderr
        local.wait(lambda: seen_as(local, "n3") == {"n1": "removed", "n2": "removed"}, "all know")
        assert [sorted(shard["replicas"]) for shard in local.shards()] == [["n1", "n2"]] * 4
        assert local.ok("get", "after") == "it went on\n"
