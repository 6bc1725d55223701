"""TEMPORARY."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.ids import NodeId, ShardId


@dataclass(frozen=True, slots=True)
class Move:
    shard: ShardId
    add: NodeId | None
    remove: NodeId | None


def plan(old, new):
    out = []
    for shard, (a, b) in enumerate(zip(old, new)):
        add = [n for n in b if n not in a]
        rem = [n for n in a if n not in b]
        while add or rem:
            out.append(
                Move(ShardId(shard), add.pop(0) if add else None, rem.pop(0) if rem else None)
            )
    return tuple(out)
