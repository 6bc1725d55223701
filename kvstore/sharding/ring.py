"""The ring: positions of keys, arcs of shards, tokens of nodes (Karger et al. 1997).

The ring has 2^64 positions. It is cut into S equal arcs, S a power of two, so the shard of a
key is the top ``log2 S`` bits of its position. Nodes stand on the same ring with tokens of
their own; :mod:`kvstore.sharding.placement` walks them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import xxhash

from kvstore.ids import ShardId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from kvstore.ids import NodeId

RING_BITS = 64
RING_SIZE = 1 << RING_BITS
TOKENS_PER_WEIGHT = 128


position: Callable[[bytes], int] = xxhash.xxh3_64_intdigest
"""Where a key stands on the ring, 0 … 2^64-1 (XXH3, 64 bits, seed 0)."""


def arc_bits(shards: int) -> int:
    """How many of a position's low bits tell places of one arc apart: above stands the shard."""
    return RING_BITS - shards.bit_length() + 1


def shard_of(key: bytes, shards: int) -> ShardId:
    """The shard that holds ``key`` when there are ``shards`` of them, a power of two."""
    return ShardId(position(key) >> arc_bits(shards))


def belong_to(shard: ShardId, shards: int) -> Callable[[Collection[bytes]], bool]:
    """Whether keys all belong to ``shard``, as a function: it is asked about every command."""
    first, last = arc_start(shard, shards), arc_start(ShardId(shard + 1), shards) - 1

    def all_belong(keys: Collection[bytes]) -> bool:
        positions = list(map(position, keys))
        return first <= min(positions) and max(positions) <= last

    return all_belong


def arc_start(shard: ShardId, shards: int) -> int:
    """The first position of a shard's arc."""
    return shard << arc_bits(shards)


def arc_in_hex(shard: ShardId, shards: int) -> tuple[str, str]:
    """Where a shard's arc begins and ends, in as many digits as tell the shards apart."""
    digits = max(2, -(-(shards.bit_length() - 1) // 4))
    first, end = arc_start(shard, shards), arc_start(ShardId(shard + 1), shards)
    shift = RING_BITS - 4 * digits
    return f"{first >> shift:0{digits}x}", f"{end - 1 >> shift:0{digits}x}"


def tokens(node: NodeId, weight: float) -> list[int]:
    """The positions of a node: ``weight x 128`` of them, at least one.

    A node's tokens depend on itself alone, so another node's coming or going moves none.
    """
    count = max(1, round(weight * TOKENS_PER_WEIGHT))
    return [position(f"{node}#{number}".encode()) for number in range(count)]


class Ring:
    """The tokens of some nodes in their order; each node is known by a number."""

    def __init__(self, tokens_of: Mapping[int, Sequence[int]]) -> None:
        marks = sorted(at << 32 | node for node, own in tokens_of.items() for at in own)
        self._at = [mark >> 32 for mark in marks]
        self._owner = [mark & 0xFFFFFFFF for mark in marks]
        self._nodes = len(tokens_of)

    def clockwise(self, start: int) -> Iterator[int]:
        """Every node once, in the order of their first tokens from ``start``."""
        owner = self._owner
        seen: set[int] = set()
        first = bisect_left(self._at, start)
        for span in (range(first, len(owner)), range(first)):
            for step in span:
                node = owner[step]
                if node not in seen:
                    seen.add(node)
                    yield node
                    if len(seen) == self._nodes:
                        return
