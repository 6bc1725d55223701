"""What is still to move and what holds it up, from a map and who answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvstore.cli.movement import Movement
from kvstore.cli.outlook import Outlook
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import META_GROUP, STAY_MAX, GroupId, NodeId, ReplicaId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import NodeState, Replica, ShardMap, bootstrap

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))
NODES = (N1, N2, N3, N4, N5)
G1, G2 = GroupId(1), GroupId(2)


def founded(nodes: int, shards: int = 2, zones: str = "") -> ShardMap:
    """``zones``: a letter for each node."""
    members = tuple(
        NodeAddress(NodeId(f"n{i}"), f"h:{i}", zone=zones[i - 1 : i]) for i in range(1, nodes + 1)
    )
    return bootstrap(ClusterConfig("c", members, shards=shards, replicas=3))


def draining(node: NodeId, nodes: int = 3, **more: Any) -> ShardMap:
    """The founders hold all, and ``n4`` nothing."""
    shard_map = changes.admit(founded(nodes, **more), N4, "h:4", 1.0, "")
    return changes.set_state(shard_map, node, NodeState.DRAINING)


def says(name: str, leads_meta: bool = False) -> dict[str, Any]:
    meta = {"role": "leader" if leads_meta else "follower", "term": 1, "bytes": 70}
    rows = [
        {"id": shard, "role": "leader" if name == "n2" else "follower", "term": 1, "bytes": 2000}
        for shard in (0, 1)
    ]
    return {"node": {"id": name}, "shards": rows, "meta": meta}


def outlook(shard_map: ShardMap, *names: str, leader: str = "n2") -> Outlook:
    return Outlook(shard_map, [says(name, leads_meta=name == leader) for name in names])


def waiting(group: GroupId, why: str = "", total: int | None = 2000) -> Movement:
    return Movement(group, "n4", "n1", "waiting", 0, total, why=why, is_begun=False)


# -- what is listed ---------------------------------------------------------------------------


def test_where_all_is_as_it_should_be_nothing_moves() -> None:
    assert outlook(founded(3), "n1", "n2", "n3").moves() == []


def test_what_is_wanted_and_has_not_begun_waits_for_its_turn() -> None:
    found = outlook(draining(N1), "n1", "n2", "n3", "n4").moves()
    assert found == [waiting(META_GROUP, total=70), waiting(G1), waiting(G2)]
    shown = found[1].to_json()
    assert (shown["stage"], shown["under_way"], shown["why"]) == ("waiting", False, None)


def test_what_is_under_way_stands_before_what_waits() -> None:
    begun = changes.begin(draining(N1), G2, N4, N1)
    found = outlook(begun, "n1", "n2", "n3", "n4").moves()
    assert [(move.group, move.is_begun) for move in found] == [
        *((G2, True), (META_GROUP, False), (G1, False)),
    ]


@pytest.mark.parametrize("is_rebalancing", [False, True])
def test_what_only_the_load_asks_for_is_listed_where_it_is_to_be(is_rebalancing: bool) -> None:
    grown = changes.admit(founded(3), N4, "h:4", 1.0, "")
    seen = outlook(replace(grown, is_rebalancing=is_rebalancing), "n1", "n2", "n3", "n4")
    assert bool(seen.moves()) is is_rebalancing
    assert seen.for_balance() > 0


def test_what_is_under_way_for_balance_counts_too() -> None:
    grown = replace(changes.admit(founded(3), N4, "h:4", 1.0, ""), is_rebalancing=True)
    before = outlook(grown, "n1").for_balance()
    begun = changes.begin(grown, G1, N4, N1)
    assert outlook(begun, "n1").for_balance() == before
    assert outlook(draining(N1), "n1").for_balance() == 0


# -- what holds it up ---------------------------------------------------------------------------


def test_who_is_to_take_it_does_not_answer() -> None:
    seen = outlook(draining(N1), "n1", "n2", "n3")
    why = "n4 does not answer"
    assert seen.moves() == [waiting(META_GROUP, why, total=70), waiting(G1, why), waiting(G2, why)]
    assert seen.held_up(N1) == "meta and shards 0, 1: n4 does not answer"
    assert seen.moves()[0].to_json()["why"] == why


def test_a_majority_does_not_answer() -> None:
    seen = outlook(draining(N1), "n2", "n4")
    assert seen.held_up(N1) == "meta and shards 0, 1: no majority while n1, n3 do not answer"


def test_no_leader_of_the_meta_group_answers() -> None:
    seen = outlook(draining(N1), "n1", "n2", "n4", leader="n3")
    why = "no leader of the meta group answers"
    assert seen.held_up(N1) == f"meta and shards 0, 1: {why}, nor does n3 of it"
    assert {move.why for move in seen.moves()} == {f"{why}, nor does n3 of it"}
    begun = draining(N1)
    for group in (META_GROUP, G1, G2):
        begun = changes.begin(begun, group, N4, N1)
    assert {move.why for move in outlook(begun, "n1", "n2", "n4").moves()} == {""}, "they go on"
    unsettled = outlook(begun, "n1", "n3", "n4", leader="n2").held_up(N1)
    assert unsettled == f"meta and shards 0, 1: {why}, nor does n2 of it"
    removed = changes.set_state(founded(3), N1, NodeState.REMOVING)
    empty = replace(removed, replicas=((),) * 2, meta=())
    assert outlook(empty, "n2", leader="n3").held_up(N1) == why


def test_of_nodes_of_an_older_version_nobody_knows_who_leads_the_meta_group() -> None:
    told = [{key: row for key, row in says(n).items() if key != "meta"} for n in ("n1", "n2", "n4")]
    assert Outlook(draining(N1), told).held_up(N1) == ""


def test_a_change_needs_a_majority_after_it_too() -> None:
    five = replace(founded(5), meta=tuple(Replica(ReplicaId(i), n) for i, n in enumerate(NODES)))
    begun = changes.begin(changes.set_state(five, N4, NodeState.DRAINING), META_GROUP, None, N4)
    names = ("n2", "n3", "n4")
    assert outlook(begun, *names).moves()[0].why == "no majority while n1, n5 do not answer"
    assert outlook(begun, *names, "n5").moves()[0].why == ""
    back = changes.cancel(begun, begun.changes[0])
    assert outlook(back, *names).moves()[0].why == "", "it has one as it was"


def test_a_move_under_way_is_held_up_by_who_does_not_answer() -> None:
    begun = draining(N1)
    for group in (META_GROUP, G1, G2):
        begun = changes.begin(begun, group, N4, N1)
    seen = outlook(begun, "n1", "n2", "n3")
    assert [(move.stage, move.why) for move in seen.moves()] == [
        ("waiting", "n4 does not answer"),
    ] * 3
    assert seen.held_up(N1) == "meta and shards 0, 1: n4 does not answer"
    back = changes.cancel(begun, begun.changes[0])
    going_back = outlook(back, "n1", "n2", "n3").moves()[0]
    assert (going_back.stage, going_back.why) == ("going back", ""), "that needs no newcomer"


def test_nothing_is_held_up_while_anything_can_go() -> None:
    seen = outlook(draining(N1), "n1", "n2", "n3", "n4")
    assert seen.held_up(N1) == ""
    five = changes.admit(draining(N1), N5, "h:5", 1.0, "")
    split = outlook(five, "n1", "n2", "n3", "n5")
    targets = {move.add for move in split.moves() if not move.why}
    assert targets == {"n5"}
    assert split.held_up(N1) == ""


def test_a_shard_whose_ids_are_used_up_stays() -> None:
    begun = draining(N1)
    used_up = replace(begun, stays=(0, STAY_MAX, STAY_MAX), meta=begun.meta[1:])
    assert outlook(used_up, "n1", "n2", "n3", "n4").held_up(N1) == (
        f"shards 0, 1: moved {STAY_MAX} times, as often as can be"
    )


def test_many_shards_are_counted() -> None:
    many = draining(N1, shards=16)
    assert outlook(many, "n1", "n2", "n3").held_up(N1) == ("meta and 16 shards: n4 does not answer")


# -- zones ----------------------------------------------------------------------------------------


def in_zones(zones: str, gone: NodeId, shards: int = 8) -> tuple[int, int]:
    founders = founded(len(zones), shards, zones)
    return outlook(changes.set_state(founders, gone, NodeState.DRAINING), "n1").crowded(gone)


@pytest.mark.parametrize(
    ("zones", "gone", "crowded"),
    [
        ("aabc", N4, (8, 2)),
        ("aabc", N3, (8, 2)),
        ("aabbc", N5, (8, 2)),
        ("aabc", N1, (0, 0)),
        ("aabcd", N5, (0, 0)),
        ("aaabb", N5, (0, 0)),
        ("aaaaa", N5, (0, 0)),
    ],
)
def test_draining_the_last_of_a_zone_may_cost_the_zone_rule(
    zones: str, gone: NodeId, crowded: tuple[int, int]
) -> None:
    assert in_zones(zones, gone) == crowded


def test_without_zones_no_rule_is_given_up() -> None:
    shard_map = changes.set_state(founded(4), N4, NodeState.REMOVING)
    assert outlook(shard_map, "n1").crowded(N4) == (0, 0)


def test_it_costs_the_same_however_far_it_is() -> None:
    founders = founded(4, 8, "aabc")
    begun = changes.set_state(founders, N4, NodeState.DRAINING)
    for group in begun.held_by(N4):
        if group != META_GROUP:
            held = {replica.node for replica in begun.members(group)}
            comes = next(n for n in (N1, N2, N3) if n not in held)
            begun = changes.begin(begun, group, comes, N4)
    assert outlook(begun, "n1").crowded(N4) == (8, 2)
