"""How one shard map may follow another: each step a function from map to map.

Only the leader of the meta group takes these steps, one after the other, and each becomes true
when the meta group has committed it. None sets the version; :func:`succeed` does, once for all
steps that are committed together.

A change of a group's replicas goes so: ``begin`` names who comes, under an id that the group
never had, and who goes; the group's own leader carries it out by Raft's configuration changes
(:mod:`kvstore.server.reshaping`); when it has told that this is committed, ``finish`` makes the
map say what the group already does. A change may be ``cancel``-led: then the group's leader
goes back, or, if it was too far already, on to the end; and the map follows by ``abandon`` or
``finish``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument
from kvstore.ids import (
    META_GROUP,
    NUMBER_MAX,
    STAY_MAX,
    GroupId,
    NodeId,
    replica_id,
    shard_of_group,
)
from kvstore.sharding.shard_map import Change, MapNode, Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.sharding.shard_map import NodeState, ShardMap


def succeed(before: ShardMap, after: ShardMap) -> ShardMap:
    """``after`` with the version that follows that of ``before``."""
    return replace(after, version=before.version + 1)


def why_not_after(before: ShardMap, after: ShardMap) -> str | None:
    """What about ``after`` no steps from ``before`` can have made, however many; None: nothing."""
    if (before.shards, before.replication) != (after.shards, after.replication):
        return "it is of a cluster of another shape"
    if after.last_number < before.last_number:
        return f"it knows of {after.last_number} nodes only"
    back = set(before.removed) - set(after.removed)
    if back:
        return f"{min(back)} was removed for good"
    numbers = {node.id: node.number for node in after.nodes}
    for node in before.nodes:
        if node.id not in after.removed and numbers.get(node.id) != node.number:
            return f"{node.id} was not removed, and is another or none"
    return None


# -- nodes --------------------------------------------------------------------------------------


def admit(shard_map: ShardMap, node: NodeId, address: str, weight: float, zone: str) -> ShardMap:
    """A new member, which holds nothing yet.

    Raises:
        InvalidArgument: the name was used before, or there were too many nodes already.
    """
    if shard_map.has(node) or node in shard_map.removed:
        raise InvalidArgument(f"{node} is or was a member of this cluster")
    if not has_numbers_left(shard_map):
        raise InvalidArgument(f"this cluster has had {NUMBER_MAX} nodes")
    number = shard_map.last_number + 1
    newcomer = MapNode(node, number, address, weight, zone)
    return replace(shard_map, nodes=(*shard_map.nodes, newcomer), last_number=number)


def set_state(shard_map: ShardMap, node: NodeId, state: NodeState) -> ShardMap:
    """The same with another fate of ``node``'s replicas."""
    return _with_node(shard_map, replace(shard_map.node(node), state=state))


def set_weight(shard_map: ShardMap, node: NodeId, weight: float) -> ShardMap:
    """The same with another weight of ``node``."""
    return _with_node(shard_map, replace(shard_map.node(node), weight=weight))


def set_address(shard_map: ShardMap, node: NodeId, address: str) -> ShardMap:
    """The same with ``node`` listening elsewhere."""
    return _with_node(shard_map, replace(shard_map.node(node), address=address))


def _with_node(shard_map: ShardMap, changed: MapNode) -> ShardMap:
    nodes = tuple(changed if node.id == changed.id else node for node in shard_map.nodes)
    return replace(shard_map, nodes=nodes)


def expel(shard_map: ShardMap, node: NodeId) -> ShardMap:
    """Without ``node``, which holds nothing, for good.

    Raises:
        InvalidArgument: it holds something, or something is on its way to it.
    """
    if shard_map.held_by(node):
        raise InvalidArgument(f"{node} still holds replicas")
    return replace(
        shard_map,
        nodes=tuple(other for other in shard_map.nodes if other.id != node),
        removed=(*shard_map.removed, node),
    )


# -- replicas -----------------------------------------------------------------------------------


def begin(
    shard_map: ShardMap, group: GroupId, add: NodeId | None, remove: NodeId | None
) -> ShardMap:
    """From the next version on a copy of ``group`` is to come to ``add``, that on ``remove`` to go.

    Raises:
        InvalidArgument: another change is under way, or the group has had too many copies.
    """
    if shard_map.change_of(group) is not None:
        raise InvalidArgument(f"group {group} is being changed already")
    stays = list(shard_map.stays or (0,) * (shard_map.shards + 1))
    comes = goes = None
    if add is not None:
        if not has_ids_left(shard_map, group):
            raise InvalidArgument(f"group {group} was moved {STAY_MAX} times; it stays now")
        stays[group] += 1
        comes = Replica(replica_id(shard_map.node(add).number, 0, stays[group]), add)
    if remove is not None:
        goes = next(r for r in shard_map.members(group) if r.node == remove)
    change = Change(group, comes, goes, shard_map.version + 1)
    changes = sorted((*shard_map.changes, change), key=lambda change: change.group)
    return replace(shard_map, changes=tuple(changes), stays=tuple(stays))


def has_ids_left(shard_map: ShardMap, group: GroupId) -> bool:
    """Whether another copy may come to ``group``: no id is ever used again."""
    return not shard_map.stays or shard_map.stays[group] < STAY_MAX


def has_numbers_left(shard_map: ShardMap) -> bool:
    """Whether another node may come to the cluster."""
    return shard_map.last_number < NUMBER_MAX


def finish(shard_map: ShardMap, change: Change) -> ShardMap:
    """The group has made the change; who came takes the place of who went."""
    members = list(shard_map.members(change.group))
    place = len(members)
    if change.remove is not None:
        place = members.index(change.remove)
        members.pop(place)
    if change.add is not None:
        members.insert(place, change.add)
    return _without(_with_members(shard_map, change.group, members), change)


def cancel(shard_map: ShardMap, change: Change) -> ShardMap:
    """The change is not wanted any more; to be committed by the next version."""
    given_up = replace(change, cancelled_at=shard_map.version + 1)
    changes = tuple(given_up if c == change else c for c in shard_map.changes)
    return replace(shard_map, changes=changes)


def abandon(shard_map: ShardMap, change: Change) -> ShardMap:
    """The group has gone back to what it was before the change."""
    return _without(shard_map, change)


def prefer(shard_map: ShardMap, leaders: Sequence[NodeId]) -> ShardMap:
    """Each shard's preferred leader is the one named here, which is among its replicas."""
    replicas = tuple(
        (*(r for r in members if r.node == leader), *(r for r in members if r.node != leader))
        for leader, members in zip(leaders, shard_map.replicas, strict=True)
    )
    return replace(shard_map, replicas=replicas)


def rebalance(shard_map: ShardMap, *, is_wanted: bool) -> ShardMap:
    """The load is to be made even now, or is as even as it gets."""
    return replace(shard_map, is_rebalancing=is_wanted)


def _with_members(shard_map: ShardMap, group: GroupId, members: Sequence[Replica]) -> ShardMap:
    if group == META_GROUP:
        return replace(shard_map, meta=tuple(members))
    shard = shard_of_group(group)
    replicas = (
        *shard_map.replicas[:shard],
        tuple(members),
        *shard_map.replicas[shard + 1 :],
    )
    return replace(shard_map, replicas=replicas)


def _without(shard_map: ShardMap, change: Change) -> ShardMap:
    return replace(shard_map, changes=tuple(c for c in shard_map.changes if c != change))


def after(shard_map: ShardMap) -> ShardMap:
    """As if every change that is still wanted were made, and the others undone."""
    for change in shard_map.changes:
        step = abandon if change.cancelled_at else finish
        shard_map = step(shard_map, change)
    return shard_map
