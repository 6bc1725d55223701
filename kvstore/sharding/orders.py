"""What an administrator may order, and what is refused: functions from map to map.

An order only says what is wanted; :mod:`kvstore.sharding.steering` does the rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument
from kvstore.ids import META_GROUP, shard_of_group
from kvstore.sharding import changes, steering
from kvstore.sharding.shard_map import NodeState

if TYPE_CHECKING:
    from kvstore.ids import GroupId, NodeId, ShardId
    from kvstore.sharding.known import Known
    from kvstore.sharding.shard_map import MapNode, ShardMap
    from kvstore.sharding.steering import Moving


def drain(shard_map: ShardMap, known: Known, name: NodeId) -> ShardMap:
    """The node's replicas go elsewhere.

    Raises:
        InvalidArgument: there is no such node, or the others are too few.
    """
    node = _node(shard_map, name)
    _check_enough(shard_map, known, name, "add one first (kv cluster add)")
    _check_not_last(shard_map, name)
    _check_majorities(shard_map, known, name)
    if node.state is NodeState.REMOVING:
        raise InvalidArgument(f"{name} is being removed already")
    return changes.set_state(shard_map, name, NodeState.DRAINING)


def activate(shard_map: ShardMap, known: Known, name: NodeId) -> ShardMap:
    """The node gets its share again.

    Raises:
        InvalidArgument: there is no such node, or it is lost: then it is enough to start it.
    """
    if _node(shard_map, name).state is NodeState.LOST and not known.is_alive(name):
        raise InvalidArgument(f"{name} is dead: once it is started it gets its share by itself")
    return changes.set_state(shard_map, name, NodeState.ACTIVE)


def remove(shard_map: ShardMap, known: Known, name: NodeId, *, is_forced: bool) -> ShardMap:
    """The node's replicas go elsewhere, and then it goes for good.

    Raises:
        InvalidArgument: there is no such node, a shard would lose its majority, or it would have
            fewer replicas than it should, unless that is forced.
    """
    _node(shard_map, name)
    if not is_forced:
        _check_enough(
            shard_map,
            known,
            name,
            "add one first (kv cluster add), or insist (--force): "
            "then shards are left with fewer replicas",
        )
    _check_not_last(shard_map, name)
    _check_majorities(shard_map, known, name)
    return changes.set_state(shard_map, name, NodeState.REMOVING)


def weigh(shard_map: ShardMap, known: Known, name: NodeId, weight: float) -> ShardMap:
    """The node's share is another from now on.

    Raises:
        InvalidArgument: there is no such node.
    """
    del known
    _node(shard_map, name)
    return changes.set_weight(shard_map, name, weight)


def prefer(shard_map: ShardMap, known: Known, shard: ShardId, name: NodeId) -> ShardMap:
    """``shard`` should be led by ``name``.

    If that node then leads too many, another shard goes back in return. Where none can, the
    leaders are evened out as for any other reason.

    Raises:
        InvalidArgument: there is no such shard, or the node has no replica of it, or is dead.
    """
    if shard >= shard_map.shards:
        raise InvalidArgument(f"there is no shard {shard}; there are 0 to {shard_map.shards - 1}")
    leaders = [members[0].node for members in shard_map.replicas]
    holders = [replica.node for replica in shard_map.replicas_of(shard)]
    if name not in holders:
        raise InvalidArgument(
            f"{name} has no replica of shard {shard}; {', '.join(sorted(holders))} have one"
        )
    if not known.is_alive(name):
        raise InvalidArgument(f"{name} does not answer: start it first")
    former, leaders[shard] = leaders[shard], name
    if leaders.count(name) > leaders.count(former) + 1:
        for other, members in enumerate(shard_map.replicas):
            held = {replica.node for replica in members}
            if other != shard and leaders[other] == name and former in held:
                leaders[other] = former
                break
    return changes.prefer(shard_map, leaders)


def rebalance(shard_map: ShardMap, known: Known) -> ShardMap:
    """The load is made even, also where that is not done by itself."""
    return changes.rebalance(shard_map, is_wanted=bool(what_would_move(shard_map, known)))


def what_would_move(shard_map: ShardMap, known: Known) -> list[Moving]:
    """All moves that would make the load even, beside those under way."""
    return steering.wanted_moves(replace(shard_map, is_rebalancing=True), known)


def _node(shard_map: ShardMap, name: NodeId) -> MapNode:
    if name in shard_map.removed:
        raise InvalidArgument(f"{name} was removed already")
    if not shard_map.has(name):
        names = ", ".join(node.id for node in shard_map.nodes)
        raise InvalidArgument(f"there is no node {name}; there are {names}")
    return shard_map.node(name)


def _active(shard_map: ShardMap) -> list[MapNode]:
    return [node for node in shard_map.nodes if node.state is NodeState.ACTIVE]


def _check_enough(shard_map: ShardMap, known: Known, name: NodeId, advice: str) -> None:
    if not shard_map.held_by(name):
        return
    others = [node.id for node in _active(shard_map) if node.id != name]
    if len(others) < shard_map.replication:
        raise InvalidArgument(
            f"without {name} there are {len(others)} nodes for the {shard_map.replication} "
            f"replicas of each shard: {advice}"
        )
    dead = [node for node in others if not known.is_alive(node)]
    if len(others) - len(dead) < shard_map.replication:
        raise InvalidArgument(
            f"{', '.join(dead)} cannot take what {name} holds, and the other "
            f"{len(others) - len(dead)} nodes are too few for the {shard_map.replication} "
            f"replicas of each shard: start {dead[0]}, or {advice}"
        )


def _check_majorities(shard_map: ShardMap, known: Known, name: NodeId) -> None:
    """Nothing can be taken off a node by a group that has no majority, before or after."""
    others = [node.id for node in _active(shard_map) if node.id != name]
    for group in shard_map.held_by(name):
        nodes = [replica.node for replica in shard_map.members(group)]
        stay = [node for node in nodes if node != name]
        has_spare = any(known.is_alive(node) and node not in nodes for node in others)
        alive = [node for node in nodes if known.is_alive(node)]
        left = sum(map(known.is_alive, stay)) + has_spare
        if 2 * len(alive) <= len(nodes) or 2 * left <= len(stay) + has_spare:
            there = ", ".join(alive) or "none"
            raise InvalidArgument(
                f"{_called(group)} (on {', '.join(nodes)}; alive: {there}) would have no "
                "majority: start its other nodes first"
            )


def _called(group: GroupId) -> str:
    return "the meta group" if group == META_GROUP else f"shard {shard_of_group(group)}"


def _check_not_last(shard_map: ShardMap, name: NodeId) -> None:
    if not any(other.id != name for other in _active(shard_map)):
        raise InvalidArgument(f"{name} is the last node that may hold anything")
