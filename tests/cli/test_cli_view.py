from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvstore.cli.status import NODE_HEADER, _node_row, _shard_row
from kvstore.cli.view import ClusterView, ShardView, leaders_per_node, merge
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, NodeId, ReplicaId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import NodeState, Replica, ShardMap, bootstrap

NODES = tuple(NodeAddress(NodeId(f"n{i}"), f"127.0.0.1:740{i}") for i in (1, 2, 3))
MAP = bootstrap(ClusterConfig(id="c", nodes=NODES, shards=2, replicas=3))
ADDRESSES = [node.address for node in NODES]


def says(node: int, *shards: dict[str, Any]) -> dict[str, Any]:
    address = NODES[node - 1]
    return {
        "node": {"id": address.id, "address": address.address, "state": "serving"},
        "shards": [
            {"id": i, "role": "follower", "leader": None, "term": 1, "commit_index": 5}
            | {"applied_index": 5}
            | shard
            for i, shard in enumerate(shards)
        ],
    }


LEADS: dict[str, Any] = {"role": "leader"}
FOLLOWS: dict[str, Any] = {}


def test_a_healthy_cluster_misses_nothing() -> None:
    view = merge(MAP, [says(1, LEADS, FOLLOWS), says(2, FOLLOWS, LEADS), says(3, {}, {})])
    assert view.is_led
    assert view.missing() == []
    assert [shard.leader for shard in view.shards] == ["n1", "n2"]
    assert leaders_per_node(view) == {"n1": 1, "n2": 1}


def test_the_json_has_the_documented_fields() -> None:
    view = merge(MAP, [says(1, LEADS, LEADS), says(2, {}, {})])
    shown = view.to_json()
    assert shown["nodes"][2] == {
        "id": "n3",
        "address": "127.0.0.1:7403",
        "state": "unreachable",
        "map": {"state": "active", "weight": 1.0, "zone": "", "replicas": 2, "in_meta": True},
        "loop": None,
    }
    assert shown["meta"] == {"leader": None, "replicas": ["n1", "n2", "n3"]}
    assert shown["map_version"] == MAP.version
    shard = shown["shards"][0]
    assert shard["id"] == 0
    assert shard["leader"] == "n1"
    assert (shard["term"], shard["commit_index"], shard["applied_index"]) == (1, 5, 5)
    assert sorted(shard["replicas"]) == ["n1", "n2", "n3"]


def test_what_a_node_tells_of_its_loop_is_shown() -> None:
    told = {"beat_ms": 25.0, "recent": {"longest_ms": 3.1}}
    view = merge(MAP, [says(1, LEADS, LEADS) | {"loop": told}, says(2, {}, {}) | {"loop": {}}])
    assert [node["loop"] for node in view.to_json()["nodes"]] == [told, None, None]


def test_of_two_that_say_they_lead_the_newer_term_counts() -> None:
    deposed, elected = {**LEADS, "term": 3, "commit_index": 9}, {**LEADS, "term": 4}
    view = merge(MAP, [says(1, deposed, LEADS), says(2, elected, {}), says(3, {}, {})])
    assert (view.shards[0].leader, view.shards[0].term) == ("n2", 4)
    assert view.shards[0].commit_index == 5


def test_a_deposed_leader_does_not_count_while_the_new_term_has_none() -> None:
    view = merge(MAP, [says(1, {**LEADS, "term": 3}, LEADS), says(2, {"term": 4}, {})])
    assert view.shards[0].leader is None


def test_a_leader_that_does_not_answer_is_none_whatever_others_believe() -> None:
    believes = {"leader": "n1"}
    view = merge(MAP, [says(2, believes, believes), says(3, believes, believes)])
    assert [shard.leader for shard in view.shards] == [None, None]
    assert not view.is_led
    assert view.missing() == ["n1 (127.0.0.1:7401) does not answer", "no shard has a leader"]


def test_without_a_majority_it_says_so() -> None:
    view = merge(MAP, [says(3, FOLLOWS, FOLLOWS)])
    assert set(view.shards[0].unreachable) == {"n1", "n2"}
    assert not view.shards[0].has_majority
    assert view.missing()[-1] == "2 of 2 shards lack a majority of replicas"


@pytest.mark.parametrize(
    ("leader", "repaired"),
    [
        ({**LEADS, "learners": ["n3"]}, FOLLOWS),
        (LEADS, {"role": "learner"}),
    ],
    ids=["as its leader says", "as it says itself"],
)
def test_a_repaired_node_is_a_learner_and_no_part_of_a_majority(
    leader: dict[str, Any], repaired: dict[str, Any]
) -> None:
    view = merge(MAP, [says(1, leader, LEADS), says(2, {}, {}), says(3, repaired, {})])
    assert [shard.learners for shard in view.shards] == [("n3",), ()]
    assert view.shards[0].has_majority
    assert view.missing() == ["n3 was repaired and catches up: no vote yet in 1 of its shards"]
    assert [shard["learners"] for shard in view.to_json()["shards"]] == [["n3"], []]
    alone = merge(MAP, [says(1, leader, LEADS), says(3, repaired, {})])
    assert [shard.has_majority for shard in alone.shards] == [False, True]


def test_the_lag_is_that_of_the_slowest_replica_that_answers() -> None:
    ends = [{"last_index": end} for end in (9, 9, 4)]
    answers = [says(1, LEADS | ends[0], LEADS | ends[0]), says(2, ends[1], ends[1])]
    assert [shard.lag for shard in merge(MAP, answers).shards] == [0, 0]
    assert merge(MAP, [*answers, says(3, ends[2], {"last_index": 11})]).shards[0].lag == 5
    assert merge(MAP, [*answers, says(3, ends[2], {"last_index": 11})]).shards[1].lag == 0
    assert [shard.lag for shard in merge(MAP, [says(2, ends[1], ends[1])]).shards] == [None] * 2
    assert merge(MAP, [says(1, LEADS, LEADS)]).shards[0].lag is None, "of an older version"


def moving() -> ShardMap:
    """The copy of shard 0 on n1 is on its way to n4, which listens where n1 did, nearly."""
    admitted = changes.admit(MAP, NodeId("n4"), "127.0.0.1:7404", 1.0, "")
    return changes.begin(admitted, GroupId(1), NodeId("n4"), NodeId("n1"))


def test_whoever_comes_may_lead_before_the_map_says_that_it_has_come() -> None:
    newcomer = says(1, LEADS)
    newcomer["node"] |= {"id": "n4", "address": "127.0.0.1:7404"}
    view = merge(moving(), [says(2, {}, {}), says(3, {}, {}), newcomer])
    assert view.shards[0].leader == "n4"
    assert set(view.shards[0].replicas) == {"n1", "n2", "n3"}


def test_whoever_goes_was_not_repaired() -> None:
    leader = {**LEADS, "learners": ["n1"]}
    goes = {"role": "learner"}
    view = merge(moving(), [says(1, goes, {}), says(2, leader, LEADS), says(3, {}, {})])
    assert view.shards[0].learners == ()


def test_what_is_unusual_about_a_replica_stands_behind_its_node() -> None:
    shard = ShardView(0, "n1", 1, ("n1", "n2", "n3"), 5, 5, ("n2",), ("n3",))
    assert _shard_row(shard) == ["0", "n1", "1", "n1, n2?, n3 (learner)", "5", "5"]


def test_what_the_map_says_of_a_node_stands_beside_what_it_says_itself() -> None:
    admitted = changes.admit(MAP, NodeId("n4"), "127.0.0.1:7404", 2.5, "west")
    draining = changes.set_state(admitted, NodeId("n2"), NodeState.DRAINING)
    told = says(1, LEADS, LEADS) | {"meta": {"role": "follower", "term": 4}}
    deposed = says(2, {}, {}) | {"meta": {"role": "leader", "term": 3}}
    elected = says(3, {}, {}) | {"meta": {"role": "leader", "term": 4}}
    stranger = says(1)
    stranger["node"] |= {"id": "n9", "address": "127.0.0.1:7409"}
    view = merge(draining, [told, deposed, elected, stranger])
    assert view.meta_leader == "n3"
    rows = [dict(zip(NODE_HEADER, _node_row(view, node, 0), strict=True)) for node in view.nodes]
    shown = {row["node"]: [row[name] for name in NODE_HEADER[2:]] for row in rows}
    assert shown == {
        "n1": ["serving", "active", "1", "-", "2", "0", "member"],
        "n2": ["serving", "draining", "1", "-", "2", "0", "member"],
        "n3": ["serving", "active", "1", "-", "2", "0", "leader"],
        "n4": ["unreachable", "active", "2.5", "west", "0", "0", "-"],
        "n9": ["serving", "-", "-", "-", "-", "0", "-"],
    }
    assert view.to_json()["nodes"][-1]["map"] is None


def test_a_replica_on_its_way_is_not_held_yet() -> None:
    held = {node.id: node.in_map.replicas for node in merge(moving(), []).nodes if node.in_map}
    assert held == {"n1": 2, "n2": 2, "n3": 2, "n4": 0}


def test_when_nobody_answers_the_known_is_shown() -> None:
    view = merge(MAP, [], ADDRESSES)
    assert [node.state for node in view.nodes] == ["unreachable"] * 3
    assert [(shard.leader, shard.term, shard.commit_index) for shard in view.shards] == [
        (None, None, None)
    ] * 2


def test_with_addresses_only_it_still_names_them() -> None:
    view = merge(None, [], ADDRESSES)
    assert view == ClusterView(view.nodes, ())
    assert [(node.id, node.name) for node in view.nodes] == [(None, a) for a in ADDRESSES]
    assert view.missing()[-1] == "the shards are not known"
    assert not view.is_led


def test_a_shard_elsewhere_is_not_missed_on_a_node_without_it() -> None:
    replicas = ((Replica(ReplicaId(1), NodeId("n1")),), (Replica(ReplicaId(2), NodeId("n2")),))
    spread = replace(MAP, shards=2, replicas=replicas)
    on_n2 = says(2, {}, LEADS)
    on_n2["shards"] = on_n2["shards"][1:]
    view = merge(spread, [says(1, LEADS), on_n2, says(3)])
    assert [shard.leader for shard in view.shards] == ["n1", "n2"]
    assert view.missing() == []


def test_keys_and_bytes_are_the_leaders_or_else_of_whoever_is_furthest() -> None:
    told = [{"applied_index": 4 + n, "keys": n, "bytes": 10 * n} for n in (1, 3, 2)]
    led = merge(MAP, [says(n, row | (LEADS if n == 1 else {})) for n, row in enumerate(told, 1)])
    leaderless = merge(MAP, [says(n, row) for n, row in enumerate(told, 1)])
    older, silent = merge(MAP, [says(1, LEADS)]), merge(MAP, [])
    shown = [view.to_json()["shards"][0] for view in (led, leaderless, older, silent)]
    counts = [(row["keys"], row["bytes"]) for row in shown]
    assert counts == [(1, 10), (3, 30), (None, None), (None, None)]
