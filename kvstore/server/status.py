"""What a node says about itself to operators and to clients that look for a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore import __version__
from kvstore.raft.confchange import keeps_vote
from kvstore.raft.progress import ProgressState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from kvstore.config import NodeAddress
    from kvstore.ids import NodeId, ReplicaId, ShardId
    from kvstore.raft.ready import Status
    from kvstore.server.shard_host import ShardHost

LEARNER = "learner"


def node_status(
    address: NodeAddress,
    hosts: Iterable[ShardHost],
    *,
    uptime_s: float,
    now: float,
    loop: dict[str, Any],
) -> dict[str, Any]:
    """The body of a STATUS reply: this node and each shard as this replica sees it.

    The meta group, where this node is in it, stands apart. ``loop`` is what the node has measured
    of its event loop.
    """
    rows = [(host.is_meta, shard_status(host, now)) for host in hosts]
    return {
        "node": {
            "id": address.id,
            "address": address.address,
            "state": "serving",
            "software": __version__,
            "uptime_s": round(uptime_s, 3),
        },
        "loop": loop,
        "shards": [row for is_meta, row in rows if not is_meta],
        "meta": next((row for is_meta, row in rows if is_meta), None),
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
        "catching_up": _catching_up(host, status, learners) if host.is_leader else [],
    }


def _catching_up(
    host: ShardHost, status: Status, learners: Collection[ReplicaId]
) -> list[dict[str, Any]]:
    """How far each of ``learners`` is, as their leader knows.

    The bytes of a snapshot are not known before it was read, so all of them are estimated by
    what keys and values take; and where entries are sent, those that are there by the part of
    the log that is.
    """
    rows = []
    for peer in status.progress:
        if peer.replica not in learners or peer.replica not in host.replicas:
            continue
        total = max(host.machine.size_bytes, peer.snapshot_bytes)
        part = peer.match_index / max(1, status.last_index)
        is_snapshot = peer.state == ProgressState.SNAPSHOT.name.lower()
        rows.append(
            {
                "node": host.replicas[peer.replica],
                "state": peer.state,
                "match_index": peer.match_index,
                "last_index": status.last_index,
                "bytes_sent": peer.snapshot_bytes if is_snapshot else round(total * min(1.0, part)),
                "bytes_total": total,
            }
        )
    return rows


def known_leaders(hosts: Iterable[ShardHost]) -> dict[ShardId, NodeId]:
    """Who leads each shard, as far as this node knows."""
    leaders = ((host.shard, host.leader_node) for host in hosts)
    return {shard: node for shard, node in leaders if node is not None}
