"""What must hold at the end of each cell: one owner a shard, equal replicas, nothing lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kvstore
from chaos.verdict import STEPS_AN_OPERATION, Verdict, check_counters, check_ledger, complaints
from histories.checker import STEPS_MAX, check
from kvstore.cli.verification import verify_cluster
from kvstore.config import EngineConfig
from kvstore.ids import META_GROUP, shard_of_group
from kvstore.storage import stays
from kvstore.storage.rocks import RocksEngine
from walk.stages import leader_row, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from chaos.history import History
    from kvstore.cli.view import NodeStatus
    from kvstore.ids import GroupId, NodeId
    from kvstore.sharding.shard_map import ShardMap
    from walk.cluster import Cluster
    from walk.watch import Watch

WHOLE_S_MAX = 90.0
VERIFY_S = 30.0
NEAR_ENTRIES = 50
"""While clients write a follower is always some entries behind."""
STEADY_S = 0.3
"""For so long nothing may be missing; then it is whole."""


@dataclass
class Found:
    """What came of a cell."""

    recovery_s: float = 0.0
    pause_s: float = 0.0
    """The longest that any shard has answered nothing."""
    checked: int = 0
    problems: list[str] = field(default_factory=list)


def missing(
    shard_map: ShardMap | None,
    versions: Mapping[NodeId, int],
    statuses: Mapping[NodeId, NodeStatus],
    absent: frozenset[str],
) -> Iterator[str]:
    """What keeps a cluster from being whole.

    Args:
        shard_map: The newest.
        versions: Of the map that each node follows.
        statuses: What each says of itself.
        absent: Nodes that are not there, or are no members; others may not wait for them.
    """
    if shard_map is None:
        yield "no node has a map"
        return
    if shard_map.changes or shard_map.is_rebalancing:
        yield f"changes are under way: {shard_map.changes or 'more are wanted'}"
    for node in shard_map.nodes:
        if node.id in absent:
            continue
        if node.id not in statuses:
            yield f"{node.id} does not answer"
        elif versions[node.id] != shard_map.version:
            yield f"{node.id} follows version {versions[node.id]}, not {shard_map.version}"
    for group in shard_map.groups():
        yield from _missing_in(shard_map, group, statuses, absent)


def _missing_in(
    shard_map: ShardMap,
    group: GroupId,
    statuses: Mapping[NodeId, NodeStatus],
    absent: frozenset[str],
) -> Iterator[str]:
    name = "the meta group" if group == META_GROUP else f"shard {shard_of_group(group)}"
    holders = {replica.node for replica in shard_map.members(group)}
    if group != META_GROUP and len(holders) != shard_map.replication:
        yield f"{name} has {len(holders)} replicas in the map"
    rows = {node: row_of(status, group) for node, status in statuses.items()}
    holds = {node for node, row in rows.items() if row is not None} - absent
    if holds - holders:
        yield f"{name} is held by {', '.join(sorted(holds - holders))}, not as the map says"
    leader = leader_row(statuses, group)
    if leader is None:
        yield f"{name} has no leader"
        return
    for node in sorted(holders - absent):
        row = rows.get(node)
        if row is None:
            yield f"{name} is not held by {node}"
        elif set(row["replicas"]) != holders or row["learners"]:
            yield f"{name}: by {node} its members are {row['replicas']}, {row['learners']} learn"
        elif row["role"] not in ("leader", "follower") or row["leader"] != leader["leader"]:
            yield f"{name}: {node} is {row['role']} of {row['leader']}, not of {leader['leader']}"
        elif row["applied_index"] < leader["commit_index"] - NEAR_ENTRIES:
            yield f"{name}: {node} has applied {row['applied_index']} of {leader['commit_index']}"


async def until_whole(
    watch: Watch, absent: frozenset[str], seconds: float = WHOLE_S_MAX
) -> tuple[float, list[str]]:
    """Wait until nothing is missing; how long that took, and what still is."""
    began = time.monotonic()
    steady_since: float | None = None
    problems: list[str] = []
    while time.monotonic() - began < seconds:
        found = missing(watch.shard_map, watch.map_versions(), watch.fresh(), absent)
        problems = list(found)
        now = time.monotonic()
        if problems:
            steady_since = None
        elif steady_since is None:
            steady_since = now
        elif now - steady_since >= STEADY_S:
            return steady_since - began, []
        await asyncio.sleep(0.05)
    return seconds, [f"not whole after {seconds:g} s: {problem}" for problem in problems]


async def judge(cluster: Cluster, history: History, found: Found) -> None:
    """Hold what the clients were told against what the cluster has, once it is whole."""
    verdict = Verdict()
    endpoints = str(cluster.endpoints)
    try:
        async with kvstore.connect(endpoints, timeout_s=VERIFY_S) as store:
            await check_ledger(store, history, verdict)
            await check_counters(store, history, verdict)
        replicas = await verify_cluster(cluster.endpoints, timeout_s=VERIFY_S)
        if not replicas.is_equal:
            verdict.problems += map(str, replicas.problems())
    except kvstore.KVError as error:
        verdict.problems.append(f"not everything can be read back: {error}")
    steps_max = max(STEPS_MAX, STEPS_AN_OPERATION * len(history.operations))
    outcome = await asyncio.to_thread(check, history.operations, steps_max=steps_max)
    if not outcome.ok:
        verdict.problems.append(f"history: {outcome.outcome.name.lower()}\n{outcome.explanation}")
    found.checked = len(history.operations) + verdict.ledger_read + verdict.counters_read
    found.problems += verdict.problems
    for node in cluster.nodes:
        found.problems += complaints(node.id, node.log_text())
    found.problems += cluster.unexpected_ends()


def disk_problems(name: NodeId, data_dir: Path, shard_map: ShardMap) -> list[str]:
    """What the engine of a node that does not run holds, beside what the map gives it."""
    wanted = shard_map.held_by(name) if shard_map.has(name) else {}
    engine = RocksEngine(data_dir / "engine", EngineConfig())
    try:
        with_rows = stays.groups_with_rows(engine)
        stamped = stays.groups_held(engine)
    finally:
        engine.close()
    extra = sorted({*with_rows, *stamped} - wanted.keys())
    wrong = [group for group, replica in wanted.items() if stamped.get(group, replica) != replica]
    return [
        *(f"{name} still has rows of group {group} on its disk" for group in extra),
        *(f"{name} has group {group} as another replica than the map" for group in wrong),
    ]
