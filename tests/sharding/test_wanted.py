"""What is wanted and has not begun, as whoever only has the map sees it."""

from __future__ import annotations

from dataclasses import replace

from kvstore.config import ClusterConfig, NodeAddress, ShardingConfig
from kvstore.ids import META_GROUP, NodeId
from kvstore.sharding import changes
from kvstore.sharding.known import Known, Seen
from kvstore.sharding.shard_map import NodeState, ShardMap, bootstrap
from kvstore.sharding.steering import Moving, next_map, wanted_in_meta

N1, N2, N3, N4 = NODES = tuple(NodeId(f"n{number}") for number in range(1, 5))


def of_four() -> ShardMap:
    """The meta group is on the first three."""
    members = tuple(NodeAddress(node, f"h:{node}") for node in NODES)
    return bootstrap(ClusterConfig("c", members, shards=8, replicas=3))


def seen(*alive: NodeId) -> Known:
    return Known({n: Seen(f"h:{n}", 1.0, "", n in alive) for n in NODES}, {}, ShardingConfig())


def test_what_the_meta_group_wants_is_what_it_begins_with() -> None:
    assert wanted_in_meta(of_four(), seen(*NODES)) is None, "it is as it should be"
    draining = changes.set_state(of_four(), N2, NodeState.DRAINING)
    wanted = wanted_in_meta(draining, seen(*NODES))
    assert wanted == Moving(META_GROUP, N4, N2, for_balance=False)
    begun = next_map(draining, seen(*NODES))
    assert begun is not None
    change = begun.change_of(META_GROUP)
    assert change is not None
    assert (change.add and change.add.node, change.remove and change.remove.node) == (N4, N2)
    assert wanted_in_meta(begun, seen(*NODES)) is None, "it is under way"


def test_one_that_lives_is_not_let_go_while_nobody_can_come() -> None:
    draining = changes.set_state(of_four(), N2, NodeState.DRAINING)
    assert wanted_in_meta(draining, seen(N1, N2, N3)) is None
    assert wanted_in_meta(draining, seen(N1, N3)) == Moving(META_GROUP, None, N2, False)


def test_one_that_is_one_too_many_only_goes() -> None:
    draining = changes.set_state(of_four(), N3, NodeState.DRAINING)
    two = replace(draining, nodes=tuple(node for node in draining.nodes if node.id != N4))
    assert wanted_in_meta(two, seen(*NODES)) == Moving(META_GROUP, None, N3, False)
