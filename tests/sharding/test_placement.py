from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.config import NodeAddress
from kvstore.ids import NodeId
from kvstore.sharding.placement import load_max, placement, shares


def members(count: int, zones: int = 0) -> list[NodeAddress]:
    return [
        NodeAddress(NodeId(f"n{i}"), f"h:{i + 1}", zone=f"z{i % zones}" if zones else "")
        for i in range(count)
    ]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[NodeAddress], int, int]:
    count = draw(st.integers(1, 9))
    nodes = [
        NodeAddress(
            NodeId(f"n{i}"),
            f"h:{i + 1}",
            draw(st.sampled_from([0.1, 0.5, 1.0, 1.0, 1.0, 2.0, 7.3])),
            draw(st.sampled_from(["", "a", "b", "c"])),
        )
        for i in range(count)
    ]
    shards = 1 << draw(st.integers(0, 6))
    return nodes, shards, draw(st.integers(1, min(5, count)))


@settings(max_examples=300, deadline=None)
@given(cluster=clusters())
def test_every_rule_holds_for_every_cluster(cluster: tuple[list[NodeAddress], int, int]) -> None:
    nodes, shards, replicas = cluster
    placed = placement(nodes, shards, replicas)
    assert len(placed) == shards
    assert all(len(held) == len(set(held)) == replicas for held in placed)
    check_loads(nodes, shards, replicas, placed)
    check_zones(nodes, replicas, placed)
    assert placement(nodes[::-1], shards, replicas) == placed


def check_loads(
    nodes: list[NodeAddress], shards: int, replicas: int, placed: tuple[tuple[NodeId, ...], ...]
) -> None:
    load = Counter(node for held in placed for node in held)
    share = shares(nodes, shards, replicas)
    assert sum(share.values()) == shards * replicas
    for node in nodes:
        assert load[node.id] <= load_max(share[node.id], shards)


def check_zones(
    nodes: list[NodeAddress], replicas: int, placed: tuple[tuple[NodeId, ...], ...]
) -> None:
    zone = {node.id: node.zone or node.id for node in nodes}
    size = Counter(zone.values())
    needed = next(k for k in range(1, 10) if sum(min(k, n) for n in size.values()) >= replicas)
    for held in placed:
        assert max(Counter(zone[node] for node in held).values()) <= needed


@pytest.mark.parametrize("shards", [1, 2, 8, 64, 256])
@pytest.mark.parametrize("count", range(1, 8))
def test_equal_nodes_lead_equally_often(count: int, shards: int) -> None:
    placed = placement(members(count), shards, min(3, count))
    leads = Counter(held[0] for held in placed)
    each = [leads[node.id] for node in members(count)]
    assert max(each) - min(each) <= 1


def test_a_heavy_node_leads_more() -> None:
    nodes = [*members(3), NodeAddress(NodeId("big"), "h:99", weight=3.0)]
    leads = Counter(held[0] for held in placement(nodes, 64, 2))
    assert leads["big"] > max(leads[node.id] for node in members(3))


def test_shares_follow_weights_until_a_node_would_hold_a_shard_twice() -> None:
    light = NodeAddress(NodeId("light"), "h:1", weight=1.0)
    middle = NodeAddress(NodeId("middle"), "h:2", weight=3.0)
    heavy = NodeAddress(NodeId("heavy"), "h:3", weight=96.0)
    assert shares([light, middle, heavy], 8, 2) == {
        "heavy": 8,
        "middle": Fraction(6),
        "light": Fraction(2),
    }


def test_the_bound_is_exact() -> None:
    assert load_max(Fraction(10), 64) == 11
    assert load_max(Fraction(41, 4), 64) == 12
    assert load_max(Fraction(10), 8) == 8


def test_every_node_of_a_small_cluster_holds_everything() -> None:
    for held in placement(members(3), 8, 3):
        assert set(held) == {"n0", "n1", "n2"}


def test_each_zone_gets_one_of_three() -> None:
    zones = {node.id: node.zone for node in members(9, zones=3)}
    for held in placement(members(9, zones=3), 64, 3):
        assert {zones[node] for node in held} == {"z0", "z1", "z2"}


@pytest.mark.parametrize("count", [4, 6, 9, 12])
def test_a_node_that_joins_or_leaves_moves_little_else(count: int) -> None:
    """About 1/N must move; the bound on loads may push some more out of their place."""
    shards, replicas = 256, 3
    before = placement(members(count), shards, replicas)
    after = placement(members(count + 1), shards, replicas)
    moved = sum(len(set(a) - set(b)) for a, b in zip(after, before, strict=True))
    necessary = math.ceil(shards * replicas / (count + 1))
    assert moved <= 2.5 * necessary
