"""The shard map: who holds what, in one immutable value with a version.

The meta group replicates it; nodes and clients hold a copy and compare versions, and whoever is
behind asks for the newer one. How one map may follow another stands in
:mod:`kvstore.sharding.changes`, its form on the wire in :mod:`kvstore.sharding.map_wire`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from kvstore.ids import (
    META_GROUP,
    GroupId,
    NodeId,
    ReplicaId,
    ShardId,
    group_of_shard,
    number_of,
    replica_id,
    shard_of_group,
)
from kvstore.sharding import ring
from kvstore.sharding.placement import placement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kvstore.config import ClusterConfig

FOUNDING_VERSION = 1
"""Of the map that a configuration gives."""
META_REPLICAS_MAX = 5
"""Of the meta group, where there are so many nodes."""


class NodeState(Enum):
    """What is to become of a node's replicas."""

    ACTIVE = "active"
    """It gets its share."""
    DRAINING = "draining"
    """They go elsewhere, and it stays."""
    LOST = "lost"
    """They go elsewhere, for it is dead; once it is back it is active again."""
    REMOVING = "removing"
    """They go elsewhere, and when it has none it is removed for good."""


@dataclass(frozen=True, slots=True)
class MapNode:
    """A member that may hold replicas."""

    id: NodeId
    number: int
    """In the ids of its replicas; never another node's, also when this one is removed."""
    address: str
    """``host:port``."""
    weight: float = 1.0
    zone: str = ""
    state: NodeState = NodeState.ACTIVE

    @property
    def host(self) -> str:
        """The host part of ``address``, an IPv6 address without its brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port part of ``address``."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Replica:
    """One group's copy on one node."""

    id: ReplicaId
    """Of life 0, whatever the life of the node's data; unique within the group for all time."""
    node: NodeId


@dataclass(frozen=True, slots=True)
class Change:
    """A group's replicas are being changed: one comes, one goes, or both."""

    group: GroupId
    add: Replica | None
    remove: Replica | None
    begun_at: int
    """The version of the map that wanted it first."""
    cancelled_at: int = 0
    """The version of the map that gave up on it; 0 while it is wanted."""


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Invariant: a group's replicas are on distinct nodes of ``nodes``, at least one.

    Each has an id that none of its group had before. A group has at most one change at a time.
    """

    version: int
    shards: int
    """A power of two."""
    nodes: tuple[MapNode, ...]
    """By number."""
    replicas: tuple[tuple[Replica, ...], ...]
    """By shard; the first of each shard is its preferred leader."""
    meta: tuple[Replica, ...]
    """Of the meta group."""
    replication: int = 3
    """How many replicas a shard should have."""
    changes: tuple[Change, ...] = ()
    """By group."""
    stays: tuple[int, ...] = ()
    """By group: how many copies have come to it since it was founded; empty for none."""
    last_number: int = 0
    """The highest that a node was ever given."""
    removed: tuple[NodeId, ...] = ()
    """Names that never come back."""
    is_rebalancing: bool = False
    """Replicas are moved until each node holds its share: for once begun, that is not left half
    done because it is even enough."""

    def shard_of(self, key: bytes) -> ShardId:
        """The shard that holds ``key``."""
        return ring.shard_of(key, self.shards)

    def replicas_of(self, shard: ShardId) -> tuple[Replica, ...]:
        """The copies of ``shard``, the preferred leader's first."""
        return self.replicas[shard]

    def node(self, node_id: str) -> MapNode:
        """The member called ``node_id``; raises KeyError when there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def has(self, node_id: str) -> bool:
        """Whether there is a member of that name."""
        return any(node.id == node_id for node in self.nodes)

    def groups(self) -> Iterator[GroupId]:
        """The meta group, then that of each shard."""
        yield META_GROUP
        yield from (group_of_shard(ShardId(shard)) for shard in range(self.shards))

    def members(self, group: GroupId) -> tuple[Replica, ...]:
        """The copies of a group, without one that is on its way."""
        return self.meta if group == META_GROUP else self.replicas[shard_of_group(group)]

    def change_of(self, group: GroupId) -> Change | None:
        """The change of a group that is under way, if one is."""
        return next((change for change in self.changes if change.group == group), None)

    def held_by(self, node: NodeId) -> dict[GroupId, ReplicaId]:
        """The replicas of a node, with those that are on their way to it."""
        held = {
            group: replica.id
            for group in self.groups()
            for replica in self.members(group)
            if replica.node == node
        }
        coming = (c for c in self.changes if c.add is not None and c.add.node == node)
        return held | {c.group: c.add.id for c in coming if c.add is not None}

    def neighbours(self, node: NodeId) -> frozenset[NodeId]:
        """The nodes that share a group with ``node``, now or after a change that is under way."""
        found: set[NodeId] = set()
        for group in self.held_by(node):
            found |= {replica.node for replica in self.members(group)}
        for change in self.changes:
            ends = {r.node for r in self.members(change.group)}
            if change.add is not None:
                ends.add(change.add.node)
            if node in ends:
                found |= ends
        return frozenset(found - {node})

    def addresses(self, own: Mapping[NodeId, str]) -> dict[NodeId, str]:
        """Where each node listens; ``own`` says where some are reached from here."""
        return {node.id: own.get(node.id, node.address) for node in self.nodes}

    def seen_from(self, own: Mapping[NodeId, str]) -> ShardMap:
        """The same map with the addresses that count here."""
        there = self.addresses(own)
        nodes = tuple(replace(node, address=there[node.id]) for node in self.nodes)
        return replace(self, nodes=nodes)

    def nodes_by_number(self) -> dict[int, NodeId]:
        """Whose replicas carry which number."""
        return {node.number: node.id for node in self.nodes}


def bootstrap(cluster: ClusterConfig) -> ShardMap:
    """The first shard map, the same on every node that was given the same configuration.

    A node's number is 1 + its position in ``cluster.nodes``.
    """
    nodes = tuple(
        MapNode(node.id, number, node.address, node.weight, node.zone)
        for number, node in enumerate(cluster.nodes, start=1)
    )
    ids = {node.id: replica_id(node.number, 0) for node in nodes}
    placed = placement(cluster.nodes, cluster.shards, cluster.replicas)
    return ShardMap(
        version=FOUNDING_VERSION,
        shards=cluster.shards,
        nodes=nodes,
        replicas=tuple(tuple(Replica(ids[node], node) for node in held) for held in placed),
        meta=tuple(Replica(ids[node.id], node.id) for node in nodes[: meta_size(len(nodes))]),
        replication=cluster.replicas,
        last_number=len(nodes),
    )


def meta_size(nodes: int) -> int:
    """How many replicas the meta group should have.

    Up to three every node has one. A fourth would make no more losses bearable, a fifth does.
    """
    return min(nodes, 3) if nodes < META_REPLICAS_MAX else META_REPLICAS_MAX


def is_on(replica: Replica, nodes: dict[int, NodeId]) -> bool:
    """Whether the number in a replica's id is that of its node."""
    return nodes.get(number_of(replica.id)) == replica.node
