"""Which node a replica is on, whatever the life of that node's data.

A replica's id carries its node's number (see :mod:`kvstore.ids`), so all that must be known are
the nodes of the shard map. Who is a member of a group stands in the group's configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kvstore.ids import NodeId, ReplicaId
    from kvstore.sharding.shard_map import Replica


class ReplicaNodes:
    """Asked by replica id, like a mapping; one for all groups of a node, and it changes.

    Invariant: a number is never that of another node than before.
    """

    __slots__ = ("_nodes",)

    def __init__(self, nodes: Mapping[int, NodeId] | None = None) -> None:
        """``nodes`` by their numbers."""
        self._nodes: dict[int, NodeId] = dict(nodes or {})

    @classmethod
    def of(cls, replicas: Iterable[Replica]) -> ReplicaNodes:
        """Those that ``replicas`` name."""
        return cls({number_of(replica.id): replica.node for replica in replicas})

    def learn(self, nodes: Mapping[int, NodeId]) -> None:
        """There are these nodes now; who was removed stays known, for its messages to be told."""
        self._nodes.update(nodes)

    def get(self, replica: ReplicaId) -> NodeId | None:
        """The node of ``replica``, None if no such node is known."""
        return self._nodes.get(number_of(replica))

    def __getitem__(self, replica: ReplicaId) -> NodeId:
        return self._nodes[number_of(replica)]

    def __contains__(self, replica: ReplicaId) -> bool:
        return number_of(replica) in self._nodes
