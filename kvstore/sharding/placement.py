"""Which nodes hold which shard: a pure function of the nodes, so that all agree on it.

A shard's replicas are the first nodes clockwise of its arc's start, subject to three rules:

* distinct nodes, always;
* failure zones: no zone holds more replicas of a shard than it must. One each, as long as
  there are enough zones; else the smallest number that lets all replicas be placed.
  A node without a zone is a zone of its own;
* bounded loads (Mirrokni et al. 2016): no node holds more than 1.1 times its share, rounded
  up. The share follows the weights, as far as the two rules above let it.

The walk alone can end in a corner: what is left for the last shards are nodes that they hold
already. Then replicas placed before are moved along a shortest augmenting path (Ford and
Fulkerson 1956). One exists always: giving every shard an equal part of every node's share is
a fractional placement within the rules, and so there is a whole one too.

Numbers are exact fractions. Rounding must not make two nodes disagree.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

from kvstore.ids import ShardId
from kvstore.sharding.ring import arc_start, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kvstore.config import NodeAddress
    from kvstore.ids import NodeId

LOAD_FACTOR = Fraction(11, 10)


def placement(
    nodes: Sequence[NodeAddress], shards: int, replicas: int
) -> tuple[tuple[NodeId, ...], ...]:
    """The nodes of every shard; the first of each is its preferred leader.

    Args:
        nodes: the members, in any order, with distinct ids.
        shards: how many, a power of two.
        replicas: of each shard, from 1 to the number of nodes.
    """
    assert 1 <= replicas <= len(nodes)
    members = sorted(nodes, key=lambda node: node.id)
    placing = _Placing(members, shards, replicas)
    for shard in range(shards):
        for _ in range(replicas):
            placing.add_replica(ShardId(shard))
    return _spread_leaders(members, placing.held)


def shares(nodes: Sequence[NodeAddress], shards: int, replicas: int) -> dict[NodeId, Fraction]:
    """How many replicas each node should hold, by weight and as far as the rules let it."""
    zones = _zones(nodes)
    level = _zone_level(zones, replicas)
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


_Vessel = TypeVar("_Vessel")
_Zone = tuple[str, str]
"""A zone's name; or, for a node without a zone, its own id."""


def _zone_of(node: NodeAddress) -> _Zone:
    return (node.zone, "") if node.zone else ("", node.id)


def _zones(nodes: Sequence[NodeAddress]) -> dict[_Zone, list[NodeAddress]]:
    zones: dict[_Zone, list[NodeAddress]] = defaultdict(list)
    for node in nodes:
        zones[_zone_of(node)].append(node)
    return zones


def _weight_of(nodes: Sequence[NodeAddress]) -> Fraction:
    return sum((Fraction(node.weight) for node in nodes), Fraction(0))


def _zone_level(zones: Mapping[_Zone, Sequence[NodeAddress]], replicas: int) -> int:
    """The smallest bound on a shard's replicas in one zone with which all can be placed."""
    level = 1
    while sum(min(level, len(inside)) for inside in zones.values()) < replicas:
        level += 1
    return level


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


class _Placing:
    """Invariant: ``held`` never breaks a rule; only replicas may still be missing."""

    def __init__(self, nodes: Sequence[NodeAddress], shards: int, replicas: int) -> None:
        share = shares(nodes, shards, replicas)
        self.held: list[list[NodeId]] = [[] for _ in range(shards)]
        self._room = {node.id: load_max(share[node.id], shards) for node in nodes}
        self._zone = {node.id: _zone_of(node) for node in nodes}
        self._level = _zone_level(_zones(nodes), replicas)
        self._holders: dict[NodeId, list[ShardId]] = {node.id: [] for node in nodes}
        self._ring = sorted((at, node.id) for node in nodes for at in tokens(node.id, node.weight))

    def add_replica(self, shard: ShardId) -> None:
        """Give ``shard`` one more: the first node clockwise that may hold it and has room."""
        for node in self._clockwise(shard):
            if self._room[node] and self._may_hold(node, shard):
                self._put(shard, node)
                return
        self._make_room(shard)

    def _clockwise(self, shard: ShardId) -> Iterator[NodeId]:
        """Every node once, in the order of their first tokens from the arc's start."""
        first = bisect_left(self._ring, (arc_start(shard, len(self.held)), ""))
        seen: set[NodeId] = set()
        for step in range(len(self._ring)):
            node = self._ring[(first + step) % len(self._ring)][1]
            if node not in seen:
                seen.add(node)
                yield node
                if len(seen) == len(self._room):
                    return

    def _may_hold(self, node: NodeId, shard: ShardId, without: NodeId | None = None) -> bool:
        """Whether the rules let ``shard`` be on ``node``, once it is gone from ``without``."""
        others = [held for held in self.held[shard] if held != without]
        zones = Counter(self._zone[held] for held in others)
        return node not in self.held[shard] and zones[self._zone[node]] < self._level

    def _make_room(self, shard: ShardId) -> None:
        """Find the shortest chain of moves that ends on a node with room, and make it.

        ``taken[node] = (s, before)``: ``s`` may take ``node`` if it leaves ``before``, which
        whoever comes earlier in the chain takes over; None where the chain begins.
        """
        taken: dict[NodeId, tuple[ShardId, NodeId | None]] = {}
        reached: deque[NodeId] = deque()
        for node in self._clockwise(shard):
            if self._may_hold(node, shard):
                taken[node] = shard, None
                reached.append(node)
        while not self._room[reached[0]]:
            full = reached.popleft()
            for holder in self._holders[full]:
                for node in self._clockwise(holder):
                    if node not in taken and self._may_hold(node, holder, without=full):
                        taken[node] = holder, full
                        reached.append(node)
        end: NodeId | None = reached[0]
        while end is not None:
            mover, before = taken[end]
            if before is not None:
                self._drop(mover, before)
            self._put(mover, end)
            end = before

    def _put(self, shard: ShardId, node: NodeId) -> None:
        self.held[shard].append(node)
        self._holders[node].append(shard)
        self._room[node] -= 1

    def _drop(self, shard: ShardId, node: NodeId) -> None:
        self.held[shard].remove(node)
        self._holders[node].remove(shard)
        self._room[node] += 1


def _spread_leaders(
    nodes: Sequence[NodeAddress], held: Sequence[Sequence[NodeId]]
) -> tuple[tuple[NodeId, ...], ...]:
    """Put first in each shard the node that shall lead it, evenly by weight.

    An optimal semi-matching (Harvey et al. 2003): while there is a chain of hand-overs from
    a node to another that is better off with one more, make it. Each lowers the sum of
    ``leads^2 / weight``, so this ends; and then no other choice has a lower one.
    """
    leading = _Leading({node.id: Fraction(node.weight) for node in nodes}, held)
    while leading.improve():
        pass
    return tuple(
        (leader, *(node for node in replicas if node != leader))
        for leader, replicas in zip(leading.leader, held, strict=True)
    )


class _Leading:
    """Who leads each shard, and the chains by which that can become more even."""

    def __init__(
        self, weights: Mapping[NodeId, Fraction], held: Sequence[Sequence[NodeId]]
    ) -> None:
        self.leader = [replicas[0] for replicas in held]
        self._held = held
        self._weights = weights
        self._leads = Counter(self.leader)

    def improve(self) -> bool:
        """Make one chain of hand-overs; False when none makes things more even."""
        loaded = sorted(self._weights, key=lambda node: (-self._with(node, -1), node))
        return any(self._relieve(node) for node in loaded)

    def _with(self, node: NodeId, change: int) -> Fraction:
        """What ``node`` counts for with half a lead more or less, per weight."""
        return (self._leads[node] + Fraction(change, 2)) / self._weights[node]

    def _relieve(self, loaded: NodeId) -> bool:
        came_by: dict[NodeId, int] = {}
        reached = deque([loaded])
        while reached:
            node = reached.popleft()
            if self._with(node, +1) < self._with(loaded, -1):
                self._hand_over(node, loaded, came_by)
                return True
            for shard, leader in enumerate(self.leader):
                if leader == node:
                    for other in self._held[shard]:
                        if other not in came_by and other != loaded:
                            came_by[other] = shard
                            reached.append(other)
        return False

    def _hand_over(self, to: NodeId, loaded: NodeId, came_by: Mapping[NodeId, int]) -> None:
        self._leads[to] += 1
        self._leads[loaded] -= 1
        while to != loaded:
            shard = came_by[to]
            self.leader[shard], to = to, self.leader[shard]
