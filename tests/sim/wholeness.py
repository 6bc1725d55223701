"""Whose data are whole, and so whose may be lost next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import ShardId, group_of_shard, life_of, number_of
from kvstore.raft.messages import GroupConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.ids import ReplicaId
    from sim.node import SimNode
    from sim.swarm import Swarm


class Wholeness:
    """Of all nodes of a cluster, judged by the configurations that were committed."""

    def __init__(self, nodes: Sequence[SimNode], swarm: Swarm) -> None:
        self._nodes = nodes
        self._swarm = swarm

    def is_restored(self) -> bool:
        """Whether all data that were lost are back, and whoever had them votes as before."""
        for config in map(self.config, range(self._swarm.shards)):
            if config.voters_outgoing or not all(map(self.is_whole, config.voters)):
                return False
            if not self._swarm.membership_changes and len(config.voters) != len(self._nodes):
                return False
        return True

    def config(self, shard: int) -> GroupConfig:
        """The newest one that was committed."""
        node = self._nodes[0]
        assert node.founding is not None
        founders = GroupConfig(voters=tuple(r.id for r in node.founding.replicas[shard]))
        return node.checks.committed_config(group_of_shard(ShardId(shard))) or founders

    def may_lose(self, node: SimNode) -> bool:
        """Whether every group keeps a majority of whole voters if ``node`` loses its data.

        While members change, only what all agree on is sure.
        """
        for group in range(self._swarm.shards):
            config = self.config(group)
            for half in filter(None, (config.voters, config.voters_outgoing)):
                whole = [r for r in half if number_of(r) != node.number and self.is_whole(r)]
                if 2 * len(whole) <= len(half):
                    return False
            if self._swarm.membership_changes and not self._all_agree_on(config, group):
                return False
        return True

    def is_whole(self, replica: ReplicaId) -> bool:
        node = self._nodes[number_of(replica) - 1]
        return node.is_intact and node.data_life == life_of(replica)

    def _all_agree_on(self, config: GroupConfig, shard: int) -> bool:
        hosts = [host for node in self._nodes for host in node.known_hosts() if host.shard == shard]
        return len(hosts) == len(self._nodes) and all(h.core.config == config for h in hosts)
