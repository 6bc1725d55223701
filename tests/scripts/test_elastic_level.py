"""When replicas rest, what has come to whom, and what would be ideal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from elasticity.level import (
    bytes_ideal,
    bytes_moved,
    copies_come,
    held_by,
    max_over_mean,
    misled,
    unrest,
)

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, NodeId, ShardId, replica_id
from kvstore.sharding.placement import placement
from kvstore.sharding.shard_map import (
    Change,
    MapNode,
    NodeState,
    Replica,
    ShardMap,
    bootstrap,
)

SHARDS = 8
NAMES = ("n1", "n2", "n3")


def founded(*names: str) -> ShardMap:
    nodes = tuple(NodeAddress(NodeId(name), f"{name}:1") for name in names)
    return bootstrap(ClusterConfig("c", nodes, shards=SHARDS))


def levelled(shard_map: ShardMap) -> ShardMap:
    """As it is once the load was made even."""
    current = [[replica.node for replica in replicas] for replicas in shard_map.replicas]
    placed = placement(shard_map.nodes, SHARDS, 3, current, is_exact=True)
    ids = {node.id: replica_id(node.number, 0) for node in shard_map.nodes}
    replicas = tuple(tuple(Replica(ids[node], node) for node in held) for held in placed)
    return replace(shard_map, replicas=replicas)


def test_a_founded_cluster_rests() -> None:
    assert unrest(founded(*NAMES), NAMES) == ""


def test_who_is_not_there_or_not_wanted_is_no_rest() -> None:
    assert "n1, n2, n3 are active, not n1, n2, n3, n4" in unrest(founded(*NAMES), (*NAMES, "n4"))
    assert unrest(founded(*NAMES, "n4"), NAMES)


def test_what_is_under_way_is_no_rest() -> None:
    shard_map = founded(*NAMES)
    change = Change(GroupId(1), None, None, 1)
    assert unrest(replace(shard_map, changes=(change,)), NAMES) == "1 changes are under way"
    assert unrest(replace(shard_map, is_rebalancing=True), NAMES)


def test_a_meta_group_that_is_to_grow_is_no_rest() -> None:
    names = (*NAMES, "n4", "n5")
    shard_map = levelled(founded(*names))
    assert unrest(shard_map, names) == ""
    assert "meta group" in unrest(replace(shard_map, meta=shard_map.meta[:3]), names)


def test_a_node_without_its_share_is_no_rest() -> None:
    shard_map = founded(*NAMES)
    newcomer = MapNode(NodeId("n4"), 4, "n4:1")
    grown = replace(shard_map, nodes=(*shard_map.nodes, newcomer))
    assert "holds" in unrest(grown, (*NAMES, "n4"))


def test_what_is_left_on_a_lost_node_is_no_rest() -> None:
    names = (*NAMES, "n4")
    shard_map = founded(*names)
    lost = tuple(
        replace(node, state=NodeState.LOST) if node.id == "n4" else node for node in shard_map.nodes
    )
    assert unrest(replace(shard_map, nodes=lost), NAMES)


def test_held_by_counts_replicas_and_names_who_has_none() -> None:
    shard_map = founded(*NAMES)
    newcomer = MapNode(NodeId("n4"), 4, "n4:1")
    grown = replace(shard_map, nodes=(*shard_map.nodes, newcomer))
    assert held_by(grown) == {"n1": SHARDS, "n2": SHARDS, "n3": SHARDS, "n4": 0}


def test_misled_are_shards_of_others_or_of_nobody() -> None:
    shard_map = founded(*NAMES)
    leaders = {shard: str(held[0].node) for shard, held in enumerate(shard_map.replicas)}
    assert misled(shard_map, leaders) == []
    leaders[3] = "n9"
    del leaders[5]
    assert misled(shard_map, leaders) == [3, 5]


def test_bytes_that_have_moved_are_of_the_copies_that_have_set_out() -> None:
    before = founded(*NAMES)
    once = replace(before, stays=(1, 0, 1, 2, 0, 0, 0, 0, 0))
    twice = replace(once, stays=(1, 1, 1, 3, 0, 0, 0, 0, 0))
    sizes = {shard: 100 * (shard + 1) for shard in range(SHARDS)}
    assert {s: n for s, n in copies_come(before, once).items() if n} == {1: 1, 2: 2}
    assert bytes_moved(copies_come(before, once), sizes) == 200 + 2 * 300
    assert bytes_moved(copies_come(once, twice), sizes) == 100 + 300
    assert bytes_moved(copies_come(before, before), sizes) == 0
    assert copies_come(before, once)[ShardId(0)] == 0, "the meta group counts for itself"


def test_ideally_a_share_of_all_replicas_moves() -> None:
    assert bytes_ideal({0: 100, 1: 300}, 3, 1 / 4) == 300
    assert bytes_ideal({0: 100}, 3, 0.0) == 0


def test_max_over_mean() -> None:
    assert max_over_mean([5, 5]) == 1.0
    assert max_over_mean([3, 1]) == pytest.approx(1.5)
