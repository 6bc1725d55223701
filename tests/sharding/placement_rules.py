"""What must be true of every placement, and the clusters to try it with."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from kvstore.config import NodeAddress
from kvstore.ids import NodeId
from kvstore.sharding.loads import load_max, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

Placed = tuple[tuple[NodeId, ...], ...]

WEIGHTS = st.sampled_from([0.1, 0.5, 1.0, 1.0, 1.0, 2.0, 7.3])
ZONES = st.sampled_from(["", "a", "b", "c"])


def member(number: int, weight: float = 1.0, zone: str = "") -> NodeAddress:
    return NodeAddress(NodeId(f"n{number}"), f"h:{number + 1}", weight, zone)


def members(count: int, zones: int = 0) -> list[NodeAddress]:
    return [member(i, zone=f"z{i % zones}" if zones else "") for i in range(count)]


@st.composite
def equals(draw: st.DrawFn, count_max: int = 12) -> list[NodeAddress]:
    """Equal nodes without zones, of any names."""
    numbers = draw(st.lists(st.integers(0, 999), min_size=1, max_size=count_max, unique=True))
    return [member(number) for number in numbers]


@st.composite
def unequals(draw: st.DrawFn, count_max: int = 12) -> list[NodeAddress]:
    return [member(node.port, draw(WEIGHTS), draw(ZONES)) for node in draw(equals(count_max))]


SHARDS = st.integers(0, 6).map(lambda power: 1 << power)


def somewhere(nodes: Sequence[NodeAddress], shards: int, seed: int) -> Placed:
    """Each shard on none to all of the nodes and of two that are gone, by chance."""
    chance = random.Random(seed)
    ids = [*(node.id for node in nodes), NodeId("gone"), NodeId("lost")]
    return tuple(
        tuple(chance.sample(ids, chance.randint(0, min(7, len(ids))))) for _ in range(shards)
    )


def check_rules(nodes: Sequence[NodeAddress], shards: int, replicas: int, placed: Placed) -> None:
    assert len(placed) == shards
    assert all(len(held) == len(set(held)) == replicas for held in placed)
    check_zones(nodes, replicas, placed)
    check_loads(nodes, shards, replicas, placed)


def check_loads(nodes: Sequence[NodeAddress], shards: int, replicas: int, placed: Placed) -> None:
    load = loads(placed)
    share = shares(nodes, shards, replicas)
    assert sum(share.values()) == shards * replicas
    for node in nodes:
        assert load[node.id] <= load_max(share[node.id], shards)


def check_zones(nodes: Sequence[NodeAddress], replicas: int, placed: Placed) -> None:
    zone = {node.id: node.zone or node.id for node in nodes}
    size = Counter(zone.values())
    needed = next(k for k in range(1, 10) if sum(min(k, n) for n in size.values()) >= replicas)
    for held in placed:
        assert max(Counter(zone[node] for node in held).values()) <= needed


def loads(placed: Placed) -> Counter[NodeId]:
    return Counter(node for held in placed for node in held)


def arrivals(before: Placed, after: Placed) -> list[NodeId]:
    """To whom each replica came."""
    return [node for old, new in zip(before, after, strict=True) for node in set(new) - set(old)]


def departures(before: Placed, after: Placed) -> list[NodeId]:
    """From whom each replica went."""
    return arrivals(after, before)
