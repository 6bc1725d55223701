"""A cluster as the controller sees it, whose groups do what they are told when asked to."""

from __future__ import annotations

from dataclasses import replace

from kvstore.config import ClusterConfig, NodeAddress, ShardingConfig
from kvstore.ids import GroupId, NodeId
from kvstore.sharding.changes import why_not_after
from kvstore.sharding.farewells import Farewells
from kvstore.sharding.known import Known, Report, Seen
from kvstore.sharding.placement import load_max, shares
from kvstore.sharding.shard_map import Change, NodeState, ShardMap, bootstrap
from kvstore.sharding.steering import next_map

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))
PATIENCE_S = 60.0


class Cluster:
    """A cluster as the controller sees it; groups do what they are told when asked to."""

    def __init__(
        self, nodes: int = 3, shards: int = 8, policy: ShardingConfig | None = None
    ) -> None:
        addresses = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in range(1, nodes + 1))
        self.map = bootstrap(ClusterConfig(id="c", nodes=addresses, shards=shards))
        self.seen = {node.id: Seen(node.address, 1.0, "", True) for node in addresses}
        self.policy = policy or ShardingConfig()
        self.reports: dict[GroupId, Report] = {}
        self.stalled: frozenset[GroupId] = frozenset()
        self.unfit: frozenset[NodeId] = frozenset()
        self.deaf: set[NodeId] = set()
        """They hear of no newer map."""
        self.farewells = Farewells()
        self.now = 0.0
        self.most_under_way = 0

    def known(self) -> Known:
        for node in self.seen.keys() - self.deaf:
            self.seen[node] = replace(self.seen[node], map_version=self.map.version)
        self.farewells.look(self.map, self.now)
        may_go = self.farewells.over(self.seen, self.now)
        seen, reports = dict(self.seen), dict(self.reports)
        return Known(seen, reports, self.policy, self.stalled, self.unfit, may_go)

    def step(self) -> bool:
        after = next_map(self.map, self.known())
        if after is None:
            return False
        assert after.version == self.map.version + 1
        assert why_not_after(self.map, after) is None
        self.map = after
        self.most_under_way = max(self.most_under_way, len(after.changes))
        return True

    def obey(self, change: Change, *, undo: bool = False) -> None:
        """The group's leader does what the map says, and reports it."""
        voters = {replica.id for replica in self.map.members(change.group)}
        if not undo:
            voters |= {change.add.id} if change.add is not None else set()
            voters -= {change.remove.id} if change.remove is not None else set()
        self.reports[change.group] = Report(
            change.group, self.map.version, frozenset(voters), frozenset(), frozenset()
        )

    def settle(self, steps: int = 2000) -> None:
        for _ in range(steps):
            if not self.step():
                if not self.map.changes:
                    return
                for change in self.map.changes:
                    self.obey(change, undo=bool(change.cancelled_at))
        raise AssertionError("it does not come to rest")

    def join(self, node: NodeId, weight: float = 1.0) -> None:
        self.seen[node] = Seen(f"h:{node[1:]}", weight, "", True)

    def die(self, node: NodeId, gone_s: float = 0.1) -> None:
        self.seen[node] = replace(self.seen[node], is_alive=False, gone_s=gone_s)

    def held(self) -> dict[NodeId, int]:
        counts = {node.id: 0 for node in self.map.nodes}
        for members in self.map.replicas:
            for replica in members:
                counts[replica.node] += 1
        return counts

    def check(self) -> None:
        """Nothing is left to do, and everything is as it should be."""
        takers = [node for node in self.map.nodes if node.state is NodeState.ACTIVE]
        copies = min(self.map.replication, len(takers))
        share = shares(takers, self.map.shards, copies)
        for members in self.map.replicas:
            nodes = [replica.node for replica in members]
            assert len(set(nodes)) == len(nodes) == copies
            assert {self.map.node(node).state for node in nodes} == {NodeState.ACTIVE}
        for node in takers:
            assert self.held()[node.id] <= load_max(share[node.id], self.map.shards)


def bootstrap_of(it: Cluster) -> ShardMap:
    addresses = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in (1, 2, 3))
    return bootstrap(ClusterConfig(id="c", nodes=addresses, shards=it.map.shards))


def report_of(shard_map: ShardMap, group: GroupId) -> Report:
    members = frozenset(replica.id for replica in shard_map.members(group))
    return Report(group, shard_map.version, members, frozenset(), frozenset())
