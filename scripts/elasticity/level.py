"""When a cluster has come to rest, what has come to whom, and what would be ideal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import ShardId, group_of_shard
from kvstore.sharding.loads import Level, shares
from kvstore.sharding.shard_map import NodeState, meta_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from kvstore.sharding.shard_map import ShardMap


def unrest(shard_map: ShardMap, nodes: Collection[str]) -> str:
    """Why the replicas have not come to rest on these ``nodes``; empty if they have."""
    active = [node for node in shard_map.nodes if node.state is NodeState.ACTIVE]
    if {node.id for node in active} != set(nodes):
        return f"{', '.join(node.id for node in active)} are active, not {', '.join(nodes)}"
    if shard_map.changes or shard_map.is_rebalancing:
        return f"{len(shard_map.changes)} changes are under way"
    if len(shard_map.meta) != meta_size(len(active)):
        return f"the meta group has {len(shard_map.meta)} replicas"
    share = shares(active, shard_map.shards, shard_map.replication)
    held = held_by(shard_map)
    level = Level(list(share.values()), shard_map.shards)
    for node, least, most in zip(share, level.least, level.most, strict=True):
        if not least <= held[node] <= most:
            return f"{node} holds {held[node]} replicas"
    strangers = [node for node in held if held[node] and node not in share]
    return f"{', '.join(strangers)} still hold something" if strangers else ""


def held_by(shard_map: ShardMap) -> dict[str, int]:
    """How many replicas of shards each node has."""
    held: dict[str, int] = {node.id: 0 for node in shard_map.nodes}
    for replicas in shard_map.replicas:
        for replica in replicas:
            held[replica.node] += 1
    return held


def misled(shard_map: ShardMap, leaders: Mapping[int, str]) -> list[int]:
    """The shards that another node leads than the map prefers, or none."""
    return [
        shard
        for shard, replicas in enumerate(shard_map.replicas)
        if leaders.get(shard) != replicas[0].node
    ]


def copies_come(before: ShardMap, after: ShardMap) -> dict[ShardId, int]:
    """How many copies of each shard have set out for a node between two maps.

    The map counts them; one that was given up on its way counts, for its bytes may have come.
    """
    every = map(ShardId, range(before.shards))
    return {shard: _stays(after, shard) - _stays(before, shard) for shard in every}


def _stays(shard_map: ShardMap, shard: ShardId) -> int:
    return shard_map.stays[group_of_shard(shard)] if shard_map.stays else 0


def bytes_moved(copies: Mapping[ShardId, int], bytes_of: Mapping[int, int]) -> int:
    """What these copies have brought, by what each shard takes."""
    return sum(count * bytes_of[shard] for shard, count in copies.items())


def bytes_ideal(bytes_of: Mapping[int, int], replication: int, share: float) -> int:
    """This share of all replicas' bytes: of N nodes that there are with it, one holds 1/N."""
    return round(share * replication * sum(bytes_of.values()))


def max_over_mean(amounts: Iterable[int]) -> float:
    """How uneven they are: 1 if all are equal."""
    kept = list(amounts)
    return max(kept) * len(kept) / sum(kept)
