"""What the controller goes by, beside the map: what is seen of nodes and told of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvstore.config import ShardingConfig
from kvstore.ids import NO_REPLICA, GroupId, LogIndex, NodeId, ReplicaId


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as the membership sees it."""

    address: str
    weight: float
    zone: str
    is_alive: bool
    gone_s: float = 0.0
    """For how long it has been dead or has left; 0 while it is alive."""
    is_settled: bool = True
    """It has been alive for so long that one that is not there would have been found dead."""
    map_version: int = 0
    """Of the shard map that it goes by, as far as its gossip has come; 0 = none yet."""
    has_answered: bool = True
    """At that address, and the leader of the meta group itself: others may say what they like."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a group's leader tells of its newest configuration, which is committed.

    Replicas are named as in the map, whatever the life of their nodes' data.
    """

    group: GroupId
    epoch: int
    """The version of the map that the configuration follows."""
    voters: frozenset[ReplicaId]
    outgoing: frozenset[ReplicaId]
    """Not empty while it is a joint one."""
    learners: frozenset[ReplicaId]
    leader: ReplicaId = NO_REPLICA
    """Who tells."""
    matched: LogIndex = LogIndex(0)
    """How much of the log the newcomer has."""
    received_bytes: int = 0
    """How much of a snapshot it has stored, while one is on its way."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that a decision is made of, beside the map."""

    seen: Mapping[NodeId, Seen]
    reports: Mapping[GroupId, Report]
    policy: ShardingConfig
    stalled: frozenset[GroupId] = frozenset()
    """Groups whose change does not come on (:mod:`kvstore.sharding.stalls`)."""
    unfit: frozenset[NodeId] = frozenset()
    """Nodes that are to be given nothing for now, because they did not take in the last."""
    may_go: frozenset[NodeId] = frozenset()
    """Nodes to be removed that know that they hold nothing, or are not waited for any more
    (:mod:`kvstore.sharding.farewells`)."""

    def can_take(self, node: NodeId) -> bool:
        """Whether a copy may be sent to ``node`` now."""
        return self.is_alive(node) and node not in self.unfit

    def is_settled(self, node: NodeId) -> bool:
        """Whether ``node`` has been alive for some time: one that comes and goes gets nothing."""
        seen = self.seen.get(node)
        return seen is not None and seen.is_alive and seen.is_settled

    def is_alive(self, node: NodeId) -> bool:
        """Whether the membership takes ``node`` for alive."""
        seen = self.seen.get(node)
        return seen is not None and seen.is_alive

    def gone_s(self, node: NodeId) -> float:
        """For how long ``node`` has been gone; 0 if it is there, or was never seen."""
        seen = self.seen.get(node)
        return 0.0 if seen is None else seen.gone_s
