"""Which nodes hold which shard: a pure function, so that all agree on it.

Rules for a shard's replicas:

* distinct nodes, always;
* failure zones: no zone holds more replicas of a shard than it must. One each, as long as
  there are enough zones; else the smallest number that lets all replicas be placed.
  A node without a zone is a zone of its own;
* bounded loads (Mirrokni et al. 2016): no node holds more than 1.1 times its share, rounded
  up. The share follows the weights, as far as the two rules above let it.

A cluster is founded with the first nodes clockwise of each arc's start that the rules allow.
That forgets what was: when a node comes or goes, the bounds push replicas about between others.
So later placements start from the present one and move what they must. They are level: each
node holds its share rounded up or down, or almost (:class:`~kvstore.sharding.loads.Level`).
From one to the next, when one of several equal nodes comes or goes, what it gets or leaves is
all that moves; but with few shards a bound can demand another move or two.

A walk can end in a corner: what is left for the last shards are nodes that they hold already.
Then replicas placed before are moved along a shortest augmenting path. One exists always:
giving every shard an equal part of every node's share is a fractional placement within the
rules, and level; and so there is a whole one too.
"""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from typing import TYPE_CHECKING

from kvstore.ids import ShardId
from kvstore.sharding.holding import Holding
from kvstore.sharding.leaders import NOBODY, spread_leaders
from kvstore.sharding.levelling import level_out
from kvstore.sharding.loads import Level, load_max, shares, zone_level, zone_of
from kvstore.sharding.ring import RING_SIZE, Ring, arc_start, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kvstore.ids import NodeId
    from kvstore.sharding.loads import Place


def placement(
    nodes: Sequence[Place],
    shards: int,
    replicas: int,
    current: Sequence[Sequence[NodeId]] | None = None,
    *,
    is_exact: bool = False,
) -> tuple[tuple[NodeId, ...], ...]:
    """The nodes of every shard; the first of each is its preferred leader.

    Args:
        nodes: those that may hold replicas, in any order, with distinct ids.
        shards: how many, a power of two.
        replicas: of each shard, from 1 to the number of nodes.
        current: who holds each shard now, the preferred leader first: also nodes that shall hold
            none any more, also more or fewer than ``replicas``. None to found a cluster; that
            placement must never change, for the nodes work it out again at each start.
        is_exact: whether each node shall hold its share, rounded down or up, even if replicas
            must move for it between nodes that stay (see :class:`Level`).
    """
    assert 1 <= replicas <= len(nodes)
    members = sorted(nodes, key=lambda node: node.id)
    placing = _Placing(members, shards, replicas, is_exact=is_exact)
    if current is None:
        placing.found()
    else:
        assert len(current) == shards
        placing.keep(current)
        placing.fill()
        placing.level()
    return placing.result()


class _Placing:
    """Nodes are known by their ranks in the order of their ids, on which all agree."""

    def __init__(
        self, nodes: Sequence[Place], shards: int, replicas: int, *, is_exact: bool
    ) -> None:
        self._nodes = nodes
        self._shards = shards
        self._replicas = replicas
        by_id = shares(nodes, shards, replicas)
        self._share = [by_id[node.id] for node in nodes]
        self._level = Level(self._share, shards, is_exact=is_exact)
        in_zone_max = zone_level(nodes, replicas)
        self._holding = Holding(shards, [zone_of(node) for node in nodes], in_zone_max)
        self._leader = [NOBODY] * shards
        self._tokens: dict[int, list[int]] = {}

    def result(self) -> tuple[tuple[NodeId, ...], ...]:
        """What was placed, with the leaders spread."""
        held = self._holding.held
        leaders = [
            leader if leader in replicas else NOBODY
            for leader, replicas in zip(self._leader, held, strict=True)
        ]
        weights = [Fraction(node.weight) for node in self._nodes]
        ids = [node.id for node in self._nodes]
        return tuple(
            (ids[leader], *(ids[node] for node in replicas if node != leader))
            for leader, replicas in zip(spread_leaders(leaders, held, weights), held, strict=True)
        )

    def found(self) -> None:
        """Place everything by the ring alone, and let the first of each shard lead it."""
        bounds = [load_max(share, self._shards) for share in self._share]
        ring = self._ring(range(len(self._nodes)))
        self._walk(bounds, lambda shard: ring.clockwise(self._start(shard)), fresh_only=False)
        self._leader = [held[0] for held in self._holding.held]

    def keep(self, current: Sequence[Sequence[NodeId]]) -> None:
        """Place what is there and may stay."""
        holding = self._holding
        rank = {node.id: number for number, node in enumerate(self._nodes)}
        for shard, ids in enumerate(current):
            for node in dict.fromkeys(rank[node_id] for node_id in ids if node_id in rank):
                holding.put(shard, node)
            if ids:
                self._leader[shard] = rank.get(ids[0], NOBODY)
        holding.keep()
        for shard in range(self._shards):
            while surplus := holding.surplus(shard, self._replicas):
                loads = {node: self._level.excess(node, holding.load(node)) for node in surplus}
                holding.drop(shard, max(surplus, key=loads.__getitem__))

    def fill(self) -> None:
        """Give every shard what it lacks, first to nodes below their share."""
        self._walk(self._level.least)
        self._walk(self._level.low)
        self._walk(self._level.high, fresh_only=True)
        self._walk(self._level.most, fresh_only=True)
        self._walk(self._level.high, fresh_only=False)

    def level(self) -> None:
        """Move replicas from nodes that hold too many, and to nodes that hold too few."""
        level_out(self._holding, self._level, self._distance)

    def _walk(
        self,
        bounds: Sequence[int],
        order: Callable[[int], Iterable[int]] | None = None,
        *,
        fresh_only: bool | None = None,
    ) -> None:
        """Give every shard what it lacks: the first clockwise that may hold it and has room.

        Where there is none, make room by a chain of moves, of fresh replicas only or of any;
        ``fresh_only`` None for none.
        """
        holding = self._holding
        lacking = [s for s, held in enumerate(holding.held) if len(held) < self._replicas]
        if not lacking:
            return
        loads = map(holding.load, range(len(bounds)))
        room = _Room([bound - load for bound, load in zip(bounds, loads, strict=True)], self._ring)
        for shard in lacking:
            while len(holding.held[shard]) < self._replicas:
                node = room.first(self._start(shard), shard, holding.may_hold)
                if node is not None:
                    holding.put(shard, node)
                elif fresh_only is not None:
                    node = holding.chain_for(shard, room.is_on, order, fresh_only=fresh_only)
                if node is None:
                    break
                room.take(node)

    def _distance(self, shard: int, node: int) -> int:
        """From the arc's start clockwise to the first token."""
        start, own = self._start(shard), self._tokens_of(node)
        return (own[bisect_left(own, start) % len(own)] - start) % RING_SIZE

    def _ring(self, nodes: Iterable[int]) -> Ring:
        return Ring({node: self._tokens_of(node) for node in nodes})

    def _tokens_of(self, node: int) -> list[int]:
        if node not in self._tokens:
            place = self._nodes[node]
            self._tokens[node] = sorted(tokens(place.id, place.weight))
        return self._tokens[node]

    def _start(self, shard: int) -> int:
        return arc_start(ShardId(shard), self._shards)


class _Room:
    """How many more replicas each node may get, and the ring of those that may get any."""

    def __init__(self, room: list[int], ring_of: Callable[[Iterable[int]], Ring]) -> None:
        self._room = room
        self._ring_of = ring_of
        self._ring_afresh()

    def _ring_afresh(self) -> None:
        self._open = [node for node, room in enumerate(self._room) if room > 0]
        self._ring = self._ring_of(self._open)
        self._full = 0

    def is_on(self, node: int) -> bool:
        """Whether ``node`` may get another."""
        return self._room[node] > 0

    def first(self, start: int, shard: int, may_hold: Callable[[int, int], bool]) -> int | None:
        """The first clockwise from ``start`` that has room and may hold ``shard``."""
        for node in self._ring.clockwise(start):
            if self._room[node] > 0 and may_hold(node, shard):
                return node
        return None

    def take(self, node: int) -> None:
        """``node`` has got one more. Once half of the ring is full, it is made anew."""
        self._room[node] -= 1
        self._full += self._room[node] == 0
        if 2 * self._full > len(self._open):
            self._ring_afresh()
