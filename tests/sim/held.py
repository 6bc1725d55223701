"""As which replicas the nodes hold groups, and what they have given up.

* A node never gives up the data of a replica that the newest committed configuration of its
  group counts as a voter: by that it would undo what it has acknowledged.
* A replica that was given up never comes again, and says nothing any more.
* A replica is on one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, GroupId, NodeId, ReplicaId, in_life
from kvstore.raft.confchange import is_voter
from kvstore.storage import records
from kvstore.storage.records import RecordType
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.raft.messages import GroupConfig, Message
    from kvstore.server.shard_host import ShardHost
    from sim.node import SimNode

Copy = tuple[ReplicaId, GroupId]


class HeldRecord:
    """Invariant: what is in ``_given_up`` is on no disk any more, or is void there."""

    def __init__(self, committed: Callable[[GroupId], GroupConfig | None]) -> None:
        """``committed`` tells the newest configuration of a group, None while that is the first."""
        self._committed = committed
        self._founders: dict[GroupId, GroupConfig] = {}
        self._logged: dict[tuple[NodeId, GroupId], ReplicaId] = {}
        """Whose records the log has."""
        self._given_up: set[Copy] = set()
        self._places: dict[Copy, NodeId] = {}

    def founded(self, group: GroupId, config: GroupConfig) -> None:
        """Who the first members of ``group`` are."""
        self._founders[group] = config

    def replica_of(self, node: SimNode, group: GroupId) -> ReplicaId:
        """Whose records come next in the log of ``node``."""
        replica = self._logged.get((node.id, group))
        if replica is None:
            raise Violation(f"{node.id} writes for group {group}, which it does not hold")
        return replica

    def groups_of(self, node: SimNode) -> set[GroupId]:
        """What the log of ``node`` has."""
        return {group for name, group in self._logged if name == node.id}

    def durable(self, node: SimNode, record: bytes) -> bool:
        """Another record is on the disk; whether it is one that says who holds what."""
        kind, group, _, _ = records.peek(record)
        if kind != RecordType.REPLICA:
            return False
        replica = ReplicaId(records.decode_replica(records.payload_of(record)))
        now = NO_REPLICA if replica == NO_REPLICA else in_life(replica, node.data_life)
        self._becomes(node, GroupId(group), now)
        return True

    def started(self, node: SimNode) -> None:
        """A process has brought back what its disk had."""
        hosts = node.driver.hosts
        for group in self.groups_of(node) - hosts.keys():
            self._becomes(node, group, NO_REPLICA)
        for group, host in hosts.items():
            self._becomes(node, group, host.core.replica)
            self.runs(node, host)

    def runs(self, node: SimNode, host: ShardHost) -> None:
        """``host`` takes part in its group."""
        copy = host.core.replica, GroupId(host.shard + 1)
        if copy in self._given_up:
            raise Violation(f"{node.id} begins again as {copy}, which it has given up")
        if self._places.setdefault(copy, node.id) != node.id:
            raise Violation(f"{copy} is on {node.id} and on {self._places[copy]}")

    def sent(self, group: GroupId, message: Message) -> None:
        """A message leaves a node."""
        if (message.sender, group) in self._given_up:
            raise Violation(f"{message} of group {group} comes from one who was given up")

    def forget(self, node: SimNode) -> None:
        """``node`` has lost its data, and is somebody else from now on."""
        for group in self.groups_of(node):
            del self._logged[node.id, group]

    def _becomes(self, node: SimNode, group: GroupId, replica: ReplicaId) -> None:
        before = self._logged.pop((node.id, group), replica)
        if replica != NO_REPLICA:
            self._logged[node.id, group] = replica
        if before in (replica, NO_REPLICA):
            return
        config = self._committed(group) or self._founders.get(group)
        if config is not None and is_voter(config, before):
            raise Violation(
                f"{node.id} gives up replica {before} of group {group}, a voter of {config}"
            )
        self._given_up.add((before, group))
