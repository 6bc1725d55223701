from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_rules import SHARDS, check_rules, member, members, unequals

from kvstore.config import NodeAddress
from kvstore.ids import NodeId
from kvstore.sharding.placement import placement

MIXED = [
    NodeAddress(NodeId("a"), "h:1", 1.0, "x"),
    NodeAddress(NodeId("b"), "h:2", 1.0, "x"),
    NodeAddress(NodeId("c"), "h:3", 2.0, "y"),
    NodeAddress(NodeId("d"), "h:4", 1.0),
    NodeAddress(NodeId("e"), "h:5", 0.1, "y"),
]


@settings(max_examples=300)
@given(nodes=unequals(count_max=9), shards=SHARDS, data=st.data())
def test_every_rule_holds_for_every_cluster(
    nodes: list[NodeAddress], shards: int, data: st.DataObject
) -> None:
    replicas = data.draw(st.integers(1, min(5, len(nodes))))
    placed = placement(nodes, shards, replicas)
    check_rules(nodes, shards, replicas, placed)
    assert placement(nodes[::-1], shards, replicas) == placed


def letters(nodes: list[NodeAddress], shards: int, replicas: int) -> str:
    placed = placement(nodes, shards, replicas)
    return " ".join("".join(node.removeprefix("n") for node in held) for held in placed)


@pytest.mark.parametrize(
    ("nodes", "shards", "replicas", "expected"),
    [
        (members(4)[1:], 8, 3, "231 231 123 231 312 321 312 123"),
        (
            members(6)[1:],
            16,
            3,
            "345 213 253 543 124 514 235 453 543 154 435 523 314 145 412 321",
        ),
        (members(7, zones=3)[1:], 8, 3, "453 261 123 531 654 435 312 642"),
        (
            [member(1), member(2, 2.0), member(3, 0.5), member(4, 7.3)],
            16,
            2,
            "42 24 42 24 41 42 34 42 43 14 43 42 41 41 41 24",
        ),
        (MIXED, 8, 4, "beca abcd dcab cdab cbda aced cabd bdce"),
    ],
)
def test_what_a_cluster_was_founded_with_never_changes(
    nodes: list[NodeAddress], shards: int, replicas: int, expected: str
) -> None:
    """Nodes on disk work it out again: a change here makes them look for replicas elsewhere."""
    assert letters(nodes, shards, replicas) == expected


@pytest.mark.parametrize(
    ("count", "replicas", "digest"), [(16, 3, "5cd7c2b2f9716d67"), (7, 5, "d383295753842b1f")]
)
def test_what_a_large_cluster_was_founded_with_never_changes(
    count: int, replicas: int, digest: str
) -> None:
    text = " ".join(map(",".join, placement(members(count + 1)[1:], 64, replicas)))
    assert hashlib.sha256(text.encode()).hexdigest().startswith(digest)


@pytest.mark.parametrize("shards", [1, 2, 8, 64, 256])
@pytest.mark.parametrize("count", range(1, 8))
def test_equal_nodes_lead_equally_often(count: int, shards: int) -> None:
    placed = placement(members(count), shards, min(3, count))
    leads = Counter(held[0] for held in placed)
    each = [leads[node.id] for node in members(count)]
    assert max(each) - min(each) <= 1


def test_a_heavy_node_leads_more() -> None:
    nodes = [*members(3), member(99, 3.0)]
    leads = Counter(held[0] for held in placement(nodes, 64, 2))
    assert leads["n99"] > max(leads[node.id] for node in members(3))


def test_every_node_of_a_small_cluster_holds_everything() -> None:
    for held in placement(members(3), 8, 3):
        assert set(held) == {"n0", "n1", "n2"}


def test_each_zone_gets_one_of_three() -> None:
    zones = {node.id: node.zone for node in members(9, zones=3)}
    for held in placement(members(9, zones=3), 64, 3):
        assert {zones[node] for node in held} == {"z0", "z1", "z2"}
