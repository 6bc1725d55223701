"""The shard map: who holds what, in one immutable value with a version.

Nodes and clients hold a copy and compare versions; whoever is behind asks for the newer one.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvstore.config import SHARDS_MAX, NodeAddress, is_address
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId, ReplicaId, ShardId, replica_id
from kvstore.sharding import ring
from kvstore.sharding.placement import placement

if TYPE_CHECKING:
    from kvstore.config import ClusterConfig

FORMAT_VERSION = 1
WHOLE_MAX = (1 << 63) - 1
"""Of any number in a map."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One shard's copy on one node."""

    id: ReplicaId
    """Unique within its shard for all time."""
    node: NodeId


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Invariant: one tuple of replicas per shard, each on a node of ``nodes``."""

    version: int
    shards: int
    """A power of two."""
    nodes: tuple[NodeAddress, ...]
    replicas: tuple[tuple[Replica, ...], ...]
    """By shard; the first of each shard is its preferred leader."""

    def shard_of(self, key: bytes) -> ShardId:
        """The shard that holds ``key``."""
        return ring.shard_of(key, self.shards)

    def replicas_of(self, shard: ShardId) -> tuple[Replica, ...]:
        """The copies of ``shard``, the preferred leader's first."""
        return self.replicas[shard]

    def node(self, node_id: str) -> NodeAddress:
        """The member called ``node_id``; raises KeyError when there is none."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def to_wire(self) -> dict[str, Any]:
        """Plain maps, lists, numbers and text, with a format version."""
        return {
            "format": FORMAT_VERSION,
            "version": self.version,
            "shards": self.shards,
            "nodes": [[node.id, node.address, node.weight, node.zone] for node in self.nodes],
            "replicas": [[[r.id, r.node] for r in replicas] for replicas in self.replicas],
        }

    @classmethod
    def from_wire(cls, wire: object) -> ShardMap:
        """The inverse of :meth:`to_wire`, with every rule checked.

        Raises:
            ProtocolError: not a shard map, or one of a newer format; the text is short, whatever
                ``wire`` is.
        """
        try:
            return _decode(wire)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"not a shard map: {error!r}") from error


def bootstrap(cluster: ClusterConfig) -> ShardMap:
    """The first shard map, the same on every node that was given the same configuration.

    A replica's id is 1 + its node's position in ``cluster.nodes``: the one of life 0.
    """
    ids = {node.id: replica_id(number, 0) for number, node in enumerate(cluster.nodes, start=1)}
    placed = placement(cluster.nodes, cluster.shards, cluster.replicas)
    return ShardMap(
        version=1,
        shards=cluster.shards,
        nodes=cluster.nodes,
        replicas=tuple(tuple(Replica(ids[node], node) for node in nodes) for nodes in placed),
    )


def _decode(wire: Any) -> ShardMap:
    if not isinstance(wire, dict):
        raise TypeError("not a map")
    if wire["format"] != FORMAT_VERSION:
        raise ValueError(f"format {reprlib.repr(wire['format'])} is not {FORMAT_VERSION}")
    shards = _whole(wire["shards"])
    if shards > SHARDS_MAX or shards & (shards - 1):
        raise ValueError(f"{shards} shards")
    nodes = tuple(_decode_node(*row) for row in wire["nodes"])
    known = {node.id for node in nodes}
    if len(known) != len(nodes):
        raise ValueError("two nodes of one name")
    replicas = tuple(_decode_replicas(rows, known) for rows in wire["replicas"])
    if len(replicas) != shards:
        raise ValueError(f"replicas of {len(replicas)} shards, not {shards}")
    return ShardMap(_whole(wire["version"]), shards, nodes, replicas)


def _decode_node(node_id: Any, address: Any, weight: Any, zone: Any) -> NodeAddress:
    if not (isinstance(node_id, str) and isinstance(zone, str) and isinstance(address, str)):
        raise TypeError("a node's id, address and zone are text")
    if not is_address(address):
        raise ValueError(f"address {reprlib.repr(address)} is not host:port")
    if type(weight) not in (int, float) or not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight {reprlib.repr(weight)}")
    return NodeAddress(NodeId(node_id), address, float(weight), zone)


def _decode_replicas(rows: Any, known: set[NodeId]) -> tuple[Replica, ...]:
    replicas = tuple(Replica(ReplicaId(_whole(number)), node) for number, node in rows)
    if not replicas or len({r.node for r in replicas} & known) != len(replicas):
        raise ValueError("a shard's replicas are on distinct known nodes, at least one")
    if len({r.id for r in replicas}) != len(replicas):
        raise ValueError("two replicas of one shard share an id")
    return replicas


def _whole(value: Any) -> int:
    """A whole number of at least 1, which any frame can carry."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= WHOLE_MAX:
        raise ValueError(f"{reprlib.repr(value)} is not a whole number from 1 to 2^63-1")
    return value
