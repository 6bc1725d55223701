"""One picture of the cluster out of what each node says of itself.

Pure: answers in, picture out. A shard's leader is whoever answered and says that it leads in
the highest term; a leader that only others still believe in, but that does not answer, is
shown as none, because nobody can use it. What is missing is said, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvstore.ids import ShardId, group_of_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvstore.sharding.shard_map import ShardMap

UNREACHABLE = "unreachable"
LEARNER = "learner"
"""The role of a replica that has no vote (yet)."""

NodeStatus = Mapping[str, Any]
"""A node's answer to STATUS: ``{"node": {...}, "loop": {...}, "shards": [{...}, ...]}``."""


@dataclass(frozen=True, slots=True)
class InMap:
    """What the shard map says of a node."""

    state: str
    """``active``, ``draining``, ``lost`` or ``removing``."""
    weight: float
    zone: str
    replicas: int
    """Of shards, those on their way to it not among them."""
    in_meta: bool
    """Whether it is a member of the meta group."""

    def to_json(self) -> dict[str, Any]:
        """Under ``map`` of a node."""
        return {
            "state": self.state,
            "weight": self.weight,
            "zone": self.zone,
            "replicas": self.replicas,
            "in_meta": self.in_meta,
        }


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node; ``id`` is None while only its address is known."""

    id: str | None
    address: str
    state: str
    in_map: InMap | None = None
    """None for one that is not in the map (yet), or while the map is not known."""
    loop: Mapping[str, Any] | None = None
    """What it has measured of its event loop's stalls; one of an older version does not tell."""

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return self.id or self.address

    @property
    def is_reachable(self) -> bool:
        """Whether it answered."""
        return self.state != UNREACHABLE


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard; the numbers are None when none of its replicas answered."""

    id: int
    leader: str | None
    term: int | None
    replicas: tuple[str, ...]
    commit_index: int | None
    applied_index: int | None
    unreachable: tuple[str, ...] = ()
    """Replicas whose node did not answer."""
    learners: tuple[str, ...] = ()
    """Replicas whose node was repaired and has no vote here yet."""
    keys: int | None = None
    size_bytes: int | None = None
    """Of keys and values; both None too when a node of an older version told the rest."""
    lag: int | None = None
    """Entries of its log that the leader has and the slowest replica that answers lacks."""

    @property
    def has_majority(self) -> bool:
        """Whether enough replicas answer and may vote for the shard to elect and commit."""
        voteless = {*self.unreachable, *self.learners}
        return len(voteless) < (len(self.replicas) + 1) // 2


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Nodes in the shard map's order, shards by number."""

    nodes: tuple[NodeView, ...]
    shards: tuple[ShardView, ...]
    meta: tuple[str, ...] = ()
    """The members of the meta group."""
    meta_leader: str | None = None
    """None while nobody who answers leads it, or a node of an older version does."""
    map_version: int | None = None

    @property
    def reachable(self) -> int:
        """How many nodes answered."""
        return sum(node.is_reachable for node in self.nodes)

    @property
    def led(self) -> int:
        """How many shards have a leader."""
        return sum(shard.leader is not None for shard in self.shards)

    @property
    def is_led(self) -> bool:
        """Whether the shards are known and every one has a leader."""
        return bool(self.shards) and self.led == len(self.shards)

    def missing(self) -> list[str]:
        """Sentences about what a healthy cluster would have."""
        said = [
            f"{node.name}{f' ({node.address})' if node.id else ''} does not answer"
            for node in self.nodes
            if not node.is_reachable
        ]
        if not self.shards:
            return [*said, "the shards are not known"]
        leaderless = [str(shard.id) for shard in self.shards if shard.leader is None]
        if len(leaderless) == len(self.shards):
            said.append("no shard has a leader")
        elif leaderless:
            shards = "shard" if len(leaderless) == 1 else "shards"
            said.append(f"no leader for {shards} {', '.join(leaderless)}")
        said += self._catching_up()
        lost = [shard for shard in self.shards if not shard.has_majority]
        if lost:
            said.append(f"{len(lost)} of {len(self.shards)} shards lack a majority of replicas")
        return said

    def _catching_up(self) -> list[str]:
        """About repaired nodes that have no vote yet in some of their shards."""
        counts = Counter(node for shard in self.shards for node in shard.learners)
        return [
            f"{node} was repaired and catches up: no vote yet in {count} of its shards"
            for node, count in counts.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """The documented shape of ``kv status -o json``."""
        return {
            "nodes": [
                {
                    "id": node.id,
                    "address": node.address,
                    "state": node.state,
                    "map": None if node.in_map is None else node.in_map.to_json(),
                    "loop": None if node.loop is None else dict(node.loop),
                }
                for node in self.nodes
            ],
            "meta": {"leader": self.meta_leader, "replicas": list(self.meta)},
            "map_version": self.map_version,
            "shards": [
                {
                    "id": shard.id,
                    "leader": shard.leader,
                    "term": shard.term,
                    "replicas": list(shard.replicas),
                    "commit_index": shard.commit_index,
                    "applied_index": shard.applied_index,
                    "unreachable": list(shard.unreachable),
                    "learners": list(shard.learners),
                    "keys": shard.keys,
                    "bytes": shard.size_bytes,
                }
                for shard in self.shards
            ],
            "missing": self.missing(),
        }


def merge(
    shard_map: ShardMap | None,
    statuses: Sequence[NodeStatus],
    addresses: Sequence[str] = (),
) -> ClusterView:
    """Put the answers together.

    Args:
        shard_map: the newest known, None when neither a node nor a directory told one.
        statuses: one for each node that answered.
        addresses: asked in vain or not; shown where the map does not name them.
    """
    by_id = {status["node"]["id"]: status for status in statuses}
    nodes = _nodes(shard_map, by_id, addresses)
    if shard_map is None:
        return ClusterView(tuple(nodes), ())
    shards = (_shard(shard_map, ShardId(shard), by_id) for shard in range(shard_map.shards))
    return ClusterView(
        tuple(nodes),
        tuple(shards),
        meta=tuple(replica.node for replica in shard_map.meta),
        meta_leader=_meta_leader(statuses),
        map_version=shard_map.version,
    )


def _meta_leader(statuses: Iterable[NodeStatus]) -> str | None:
    """Whoever answers and says that it leads the meta group, in the highest term."""
    rows = ((status["node"]["id"], status.get("meta")) for status in statuses)
    leading = [(int(row["term"]), node) for node, row in rows if row and row["role"] == "leader"]
    return max(leading)[1] if leading else None


def _nodes(
    shard_map: ShardMap | None, by_id: Mapping[str, NodeStatus], addresses: Sequence[str]
) -> list[NodeView]:
    views = {}
    in_map = {} if shard_map is None else _in_map(shard_map)
    for node in shard_map.nodes if shard_map else ():
        views[node.address] = NodeView(node.id, node.address, UNREACHABLE, in_map[node.id])
    for node_id, status in by_id.items():
        said = status["node"]
        views[said["address"]] = NodeView(
            node_id, said["address"], said["state"], in_map.get(node_id), status.get("loop") or None
        )
    if shard_map is None:
        for address in addresses:
            views.setdefault(address, NodeView(None, address, UNREACHABLE))
    return list(views.values())


def _in_map(shard_map: ShardMap) -> dict[str, InMap]:
    held = Counter(replica.node for members in shard_map.replicas for replica in members)
    meta = {replica.node for replica in shard_map.meta}
    return {
        node.id: InMap(
            node.state.value, node.weight, node.zone, held[node.id], in_meta=node.id in meta
        )
        for node in shard_map.nodes
    }


def _shard(shard_map: ShardMap, shard: ShardId, by_id: Mapping[str, NodeStatus]) -> ShardView:
    replicas: tuple[str, ...] = tuple(replica.node for replica in shard_map.replicas[shard])
    change = shard_map.change_of(group_of_shard(shard))
    # Whoever comes may lead before the map says that it has come.
    coming = () if change is None or change.add is None else (change.add.node,)
    said = {
        node: row
        for node in (*replicas, *coming)
        if node in by_id
        for row in by_id[node]["shards"]
        if row["id"] == shard
    }
    unreachable = tuple(node for node in replicas if node not in by_id)
    if not said:
        return ShardView(shard, None, None, replicas, None, None, unreachable)
    term = max(row["term"] for row in said.values())
    leader = next(
        (node for node, row in said.items() if row["role"] == "leader" and row["term"] == term),
        None,
    )
    told = [said[leader]] if leader else list(said.values())
    leaving = None if change is None or change.remove is None else change.remove.node
    learning = {node for row in told for node in row.get("learners", ())} | {
        node for node, row in said.items() if row["role"] == LEARNER
    }
    newest = max(told, key=lambda row: int(row["applied_index"]))
    return ShardView(
        id=shard,
        leader=leader,
        term=term,
        replicas=replicas,
        commit_index=max(row["commit_index"] for row in told),
        applied_index=newest["applied_index"],
        unreachable=unreachable,
        learners=tuple(node for node in replicas if node in learning and node != leaving),
        keys=newest.get("keys"),
        size_bytes=newest.get("bytes"),
        lag=_lag([said[node] for node in replicas if node in said], said[leader])
        if leader
        else None,
    )


def _lag(replicas: Iterable[Mapping[str, Any]], leader: Mapping[str, Any]) -> int | None:
    ends: list[int] = [row["last_index"] for row in replicas if "last_index" in row]
    end = leader.get("last_index")  # which a node of an older version does not tell
    return None if end is None or not ends else max(0, int(end) - min(ends))


def leaders_per_node(view: ClusterView) -> Counter[str]:
    """How many shards each node leads."""
    return Counter(shard.leader for shard in view.shards if shard.leader)
