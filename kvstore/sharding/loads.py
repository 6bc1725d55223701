"""How much each node should hold: shares by weight, as far as zones and distinctness let it.

Numbers are exact fractions. Rounding must not make two nodes disagree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kvstore.ids import NodeId

LOAD_FACTOR = Fraction(11, 10)
SLACK_PART = 20
SLACK_FROM = 2


class Place(Protocol):
    """Where replicas can be: a node of the configuration or of the shard map."""

    @property
    def id(self) -> NodeId:
        """Its name, distinct from the others'."""

    @property
    def weight(self) -> float:
        """Its part of the load in relation to the others; above 0."""

    @property
    def zone(self) -> str:
        """What fails together; empty for a zone of its own."""


_Vessel = TypeVar("_Vessel")
Zone = tuple[str, str]
"""A zone's name; or, for a node without a zone, its own id."""


def zone_of(node: Place) -> Zone:
    """What fails together with ``node``."""
    return (node.zone, "") if node.zone else ("", node.id)


def zone_level(nodes: Sequence[Place], replicas: int) -> int:
    """The smallest bound on a shard's replicas in one zone with which all can be placed."""
    sizes = [len(inside) for inside in _zones(nodes).values()]
    level = 1
    while sum(min(level, size) for size in sizes) < replicas:
        level += 1
    return level


def shares(nodes: Sequence[Place], shards: int, replicas: int) -> dict[NodeId, Fraction]:
    """How many replicas each node should hold, by weight and as far as the rules let it."""
    zones = _zones(nodes)
    level = zone_level(nodes, replicas)
    by_zone = _pour(
        Fraction(shards * replicas),
        {zone: _weight_of(inside) for zone, inside in zones.items()},
        {zone: shards * min(level, len(inside)) for zone, inside in zones.items()},
    )
    result: dict[NodeId, Fraction] = {}
    for zone, inside in zones.items():
        weights = {node.id: Fraction(node.weight) for node in inside}
        result |= _pour(by_zone[zone], weights, dict.fromkeys(weights, shards))
    return result


def load_max(share: Fraction, shards: int) -> int:
    """The bound on a node's replicas. Each of them is of another shard."""
    return min(shards, math.ceil(LOAD_FACTOR * share))


class Level:
    """How many replicas each node should hold, and how few and how many it may.

    It should hold its share, rounded down to ``low`` or up to ``high``. But when a node leaves,
    others held the same shards and can take few of its replicas; to make that good, replicas of
    nodes that stay would have to be moved. So a node may hold a twentieth less or more, at least
    one; all together no more than ``slack``, a quarter of a mean share, at least one. There is
    no slack in small shares, nor with one replica a shard: there nobody holds the same.

    Nodes are known here by their ranks in the order of their ids.
    """

    def __init__(self, share: Sequence[Fraction], shards: int, *, is_exact: bool = False) -> None:
        """``is_exact`` is for no slack at all."""
        slack_from = SLACK_FROM if sum(share) > shards and not is_exact else math.inf
        slacks = [math.ceil(each / SLACK_PART) if each >= slack_from else 0 for each in share]
        mean = sum(share) / len(share)
        self.slack = max(1, math.floor(mean / 4)) if mean >= slack_from else 0
        self.low = [math.floor(each) for each in share]
        self.high = [math.ceil(each) for each in share]
        self.least = [low - slack for low, slack in zip(self.low, slacks, strict=True)]
        self.most = [
            min(high + slack, load_max(each, shards))
            for high, slack, each in zip(self.high, slacks, share, strict=True)
        ]
        self._scaled, self._scale = scaled(share)

    def excess(self, node: int, load: int) -> int:
        """By how much ``load`` is above the node's share, in a unit common to all nodes."""
        return load * self._scale - self._scaled[node]


def scaled(numbers: Sequence[Fraction]) -> tuple[list[int], int]:
    """The same numbers as integers, and what they were multiplied by."""
    scale = math.lcm(*(number.denominator for number in numbers))
    return [number.numerator * (scale // number.denominator) for number in numbers], scale


def _zones(nodes: Sequence[Place]) -> dict[Zone, list[Place]]:
    zones: dict[Zone, list[Place]] = defaultdict(list)
    for node in nodes:
        zones[zone_of(node)].append(node)
    return zones


def _weight_of(nodes: Sequence[Place]) -> Fraction:
    return sum((Fraction(node.weight) for node in nodes), Fraction(0))


def _pour(
    total: Fraction, weights: Mapping[_Vessel, Fraction], bounds: Mapping[_Vessel, int]
) -> dict[_Vessel, Fraction]:
    """Divide ``total`` by weight; what is above a vessel's bound goes to the others."""
    open_ones = dict(weights)
    result: dict[_Vessel, Fraction] = {}
    while True:
        unit = total / sum(open_ones.values()) if open_ones else Fraction(0)
        full = [vessel for vessel in open_ones if open_ones[vessel] * unit > bounds[vessel]]
        if not full:
            return result | {vessel: weight * unit for vessel, weight in open_ones.items()}
        for vessel in full:
            result[vessel] = Fraction(bounds[vessel])
            total -= bounds[vessel]
            del open_ones[vessel]
