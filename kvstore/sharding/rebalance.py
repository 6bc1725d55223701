"""The moves that turn one placement into another, in the order in which to make them.

First the shards that have too few copies get more, those with fewest first: they are in danger.
Then copies change places. Those that are too many go last. A stage's moves take turns: the next
is between the nodes that have had fewest, so that moves made at the same time are of different
nodes, and no node is the source or the target of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING

from kvstore.ids import NodeId, ShardId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


_Ends = tuple["NodeId | None", "NodeId | None"]
"""Where a copy goes from and to."""


@dataclass(frozen=True, slots=True)
class Move:
    """A copy of a shard comes to a node, then one goes from another; or only one of the two."""

    shard: ShardId
    add: NodeId | None
    remove: NodeId | None


def plan(old: Sequence[Sequence[NodeId]], new: Sequence[Sequence[NodeId]]) -> tuple[Move, ...]:
    """The moves from ``old`` to ``new``, both the nodes of every shard.

    At most one move adds what another removes of the same shard: a shard never has fewer copies
    than the smaller of what it has in ``old`` and in ``new``.
    """
    stages: dict[tuple[int, int], list[Move]] = defaultdict(list)
    for shard, (before, after) in enumerate(zip(old, new, strict=True)):
        for stage, move in _moves_of(ShardId(shard), before, after):
            stages[stage].append(move)
    return tuple(chain.from_iterable(_take_turns(stages[stage]) for stage in sorted(stages)))


def _moves_of(
    shard: ShardId, before: Sequence[NodeId], after: Sequence[NodeId]
) -> Iterator[tuple[tuple[int, int], Move]]:
    """The moves of one shard, each with its stage: what kind, and in what number of copies."""
    come = [node for node in after if node not in before]
    go = [node for node in before if node not in after]
    pairs = min(len(come), len(go))
    for number, node in enumerate(come[pairs:]):
        yield (0, len(before) + number), Move(shard, node, None)
    for add, remove in zip(come, go, strict=False):
        yield (1, 0), Move(shard, add, remove)
    for node in go[pairs:]:
        yield (2, 0), Move(shard, None, node)


def _take_turns(moves: Iterable[Move]) -> Iterator[Move]:
    """The same moves, always one of those whose nodes have had fewest so far.

    A heap of what is left between each two nodes, by the turns that these had when it was put
    there; which only grow, so what comes first and is not out of date is the least.
    """
    waiting: dict[_Ends, deque[Move]] = defaultdict(deque)
    for move in moves:
        waiting[move.remove, move.add].append(move)
    sources: Counter[NodeId | None] = Counter()
    targets: Counter[NodeId | None] = Counter()

    def entry(ends: _Ends) -> tuple[int, int, ShardId, _Ends]:
        turns = sources[ends[0]], targets[ends[1]]
        return max(turns), min(turns), waiting[ends][0].shard, ends

    heap = [entry(ends) for ends in waiting]
    heapify(heap)
    while heap:
        first = heappop(heap)
        ends = first[-1]
        if first != entry(ends):
            heappush(heap, entry(ends))
            continue
        yield waiting[ends].popleft()
        sources[ends[0]] += 1
        targets[ends[1]] += 1
        if waiting[ends]:
            heappush(heap, entry(ends))
