"""What a node says about itself to operators and to clients that look for a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore import __version__
from kvstore.raft.confchange import keeps_vote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.config import NodeAddress
    from kvstore.ids import NodeId, ShardId
    from kvstore.server.shard_host import ShardHost

LEARNER = "learner"


def node_status(
    address: NodeAddress, hosts: Iterable[ShardHost], *, uptime_s: float, now: float
) -> dict[str, Any]:
    """The body of a STATUS reply: this node and each shard as this replica sees it."""
    return {
        "node": {
            "id": address.id,
            "address": address.address,
            "state": "serving",
            "software": __version__,
            "uptime_s": round(uptime_s, 3),
        },
        "shards": [shard_status(host, now) for host in hosts],
    }


def shard_status(host: ShardHost, now: float) -> dict[str, Any]:
    """One replica: role, term, leader, and how far it is.

    A replica counts as a learner until it is a voter by a configuration that is committed and
    not joint: not before can its group do without whom it replaces. So does one that its
    leader has not taken in yet.
    """
    status, committed = host.core.status(now), host.core.committed_config
    config = status.config
    has_vote = keeps_vote(committed, status.replica)
    learners = [
        replica
        for replica in sorted({*config.voters, *config.learners})
        if replica in config.learners or not keeps_vote(committed, replica)
    ]
    return {
        "id": host.shard,
        "role": status.role.name.lower() if has_vote else LEARNER,
        "leader": host.leader_node,
        "term": status.term,
        "replicas": [host.replicas[r] for r in config.voters if r in host.replicas],
        "learners": [host.replicas[r] for r in learners if r in host.replicas],
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "last_index": status.last_index,
        "first_index": status.first_index,
        "keys": host.machine.keys,
        "bytes": host.machine.size_bytes,
    }


def known_leaders(hosts: Iterable[ShardHost]) -> dict[ShardId, NodeId]:
    """Who leads each shard, as far as this node knows."""
    leaders = ((host.shard, host.leader_node) for host in hosts)
    return {shard: node for shard, node in leaders if node is not None}
