"""What a node says about itself to operators and to clients that look for a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore import __version__
from kvstore.raft.confchange import is_voter

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

    The role of one without a vote is ``learner``, also before its leader has taken it in.
    """
    status = host.core.status(now)
    has_vote = is_voter(status.config, status.replica)
    return {
        "id": host.shard,
        "role": status.role.name.lower() if has_vote else LEARNER,
        "leader": host.leader_node,
        "term": status.term,
        "replicas": [host.replicas[r] for r in status.config.voters if r in host.replicas],
        "learners": [host.replicas[r] for r in status.config.learners if r in host.replicas],
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
        "last_index": status.last_index,
        "first_index": status.first_index,
    }


def known_leaders(hosts: Iterable[ShardHost]) -> dict[ShardId, NodeId]:
    """Who leads each shard, as far as this node knows."""
    leaders = ((host.shard, host.leader_node) for host in hosts)
    return {shard: node for shard, node in leaders if node is not None}
