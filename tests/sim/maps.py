"""Every shard map that any node ever went by, and what holds between them (DESIGN section 5).

* A version names one map.
* What a node goes by is never an older map than before, in one life of its process; and in the
  next one never an older than what it has acted on.
* An id names one copy for all time: on one node, come by one change.
* Nobody's number is given to another.
* Whoever is removed held nothing by the version before: there it hears of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import GroupId, NodeId, ReplicaId
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.sharding.shard_map import ShardMap


class MapRecord:
    """Invariant: nothing is forgotten while a seed runs."""

    def __init__(self) -> None:
        self._maps: dict[int, ShardMap] = {}
        self._nodes: dict[int, NodeId] = {}
        self._copies: dict[tuple[GroupId, ReplicaId], tuple[NodeId, int]] = {}
        """Where each is, and which version began it; 0 for those of the founding."""
        self._latest: dict[tuple[NodeId, int], int] = {}
        self._acted_on: dict[NodeId, int] = {}

    @property
    def newest(self) -> ShardMap | None:
        """The latest that any node went by."""
        return self._maps[max(self._maps)] if self._maps else None

    def of(self, version: int) -> ShardMap | None:
        """The map of that version, if any node ever went by it."""
        return self._maps.get(version)

    def node_of(self, number: int) -> NodeId:
        """Whose replicas carry ``number``."""
        return self._nodes.get(number) or NodeId(f"n{number}")

    def known(self, shard_map: ShardMap) -> None:
        """There is this map.

        Raises:
            Violation: it is not what it has to be.
        """
        first = self._maps.get(shard_map.version)
        if first is not None:
            if first != shard_map:
                raise Violation(f"two maps of version {shard_map.version}: {first} and {shard_map}")
            return
        self._maps[shard_map.version] = shard_map
        for node in shard_map.nodes:
            if self._nodes.setdefault(node.number, node.id) != node.id:
                raise Violation(f"{node.id} has the number of {self._nodes[node.number]}")
        for copy, place in _copies(shard_map):
            known = self._copies.setdefault(copy, place)
            if known[0] != place[0] or (place[1] and known[1] and known[1] != place[1]):
                raise Violation(
                    f"replica {copy[1]} of group {copy[0]} is on {known[0]}, begun by version "
                    f"{known[1]}, and on {place[0]}, begun by {place[1]}"
                )
            if place[1]:
                self._copies[copy] = place
        for version in (shard_map.version, shard_map.version + 1):
            self._check_removals(self._maps.get(version - 1), self._maps.get(version))

    @staticmethod
    def _check_removals(before: ShardMap | None, after: ShardMap | None) -> None:
        if before is None or after is None:
            return
        for node in set(after.removed) - set(before.removed):
            if before.held_by(node):
                raise Violation(
                    f"version {after.version} is without {node}, which still held "
                    f"{before.held_by(node)} before it"
                )

    def goes_by(self, node: NodeId, life: int, shard_map: ShardMap) -> None:
        """``node`` goes by this map from now on, in this ``life`` of its process.

        Raises:
            Violation: it has known better.
        """
        self.known(shard_map)
        before = self._latest.get((node, life), self._acted_on.get(node, 0))
        if shard_map.version < before:
            raise Violation(f"{node} goes back from version {before} to {shard_map.version}")
        self._latest[node, life] = shard_map.version

    def acted_on(self, node: NodeId, shard_map: ShardMap) -> None:
        """``node`` has made this map durable."""
        self._acted_on[node] = shard_map.version

    def forget(self, node: NodeId) -> None:
        """``node`` has lost its data."""
        self._acted_on.pop(node, None)


def _copies(
    shard_map: ShardMap,
) -> Iterator[tuple[tuple[GroupId, ReplicaId], tuple[NodeId, int]]]:
    """Each copy, and where it is and which version began it, 0 if this map does not tell."""
    for group in shard_map.groups():
        for replica in shard_map.members(group):
            yield (group, replica.id), (replica.node, 0)
    for change in shard_map.changes:
        if change.add is not None:
            yield (change.group, change.add.id), (change.add.node, change.begun_at)
