"""Which node a replica of a shard is on, whatever the life of that node's data.

A repaired node takes part under another replica id than before (see :mod:`kvstore.ids`), and
for a while a group knows both. The number in an id never changes, so no table has to be
replicated for this: all that a shard's members need to know are its nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvstore.ids import NodeId, ReplicaId
    from kvstore.sharding.shard_map import Replica


class ShardReplicas:
    """The nodes that hold one shard. Immutable; asked by replica id, like a mapping.

    It answers for replicas of any life; its keys are those that the shard map names. Who is
    a member of the group now stands in the group's configuration.
    """

    __slots__ = ("_ids", "_nodes")

    def __init__(self, replicas: Iterable[Replica]) -> None:
        """``replicas`` are those of the shard map, of whatever life."""
        listed = tuple(replicas)
        self._ids = tuple(replica.id for replica in listed)
        self._nodes = {number_of(replica.id): replica.node for replica in listed}

    def get(self, replica: ReplicaId) -> NodeId | None:
        """The node of ``replica``, None if the shard has none on such a node."""
        return self._nodes.get(number_of(replica))

    def __getitem__(self, replica: ReplicaId) -> NodeId:
        return self._nodes[number_of(replica)]

    def keys(self) -> tuple[ReplicaId, ...]:
        """The replicas that the shard map names."""
        return self._ids

    def __iter__(self) -> Iterator[ReplicaId]:
        return iter(self._ids)

    def __contains__(self, replica: ReplicaId) -> bool:
        return number_of(replica) in self._nodes
