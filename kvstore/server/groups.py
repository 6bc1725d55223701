"""Puts a node's groups together from the shard map, the engine and the log.

What a node does at each start, without its clock, its threads or its files: they are given.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kvstore.hlc import HybridClock
from kvstore.ids import (
    GroupId,
    ShardId,
    group_of_shard,
    in_life,
    shard_of_group,
)
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine
from kvstore.raft.core import RaftCore
from kvstore.raft.messages import GroupConfig
from kvstore.server.recovery import marks_missing, recover_group
from kvstore.server.replicas import ShardReplicas
from kvstore.server.shard_host import ShardHost
from kvstore.sharding.ring import belongs_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import LogIndex, NodeId
    from kvstore.kv.engine import Engine
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.wal import RecoveredLog


def load_machines(shard_map: ShardMap, own: NodeId, engine: Engine) -> dict[GroupId, StateMachine]:
    """The state machine of each shard that has a replica on the node ``own``.

    Raises:
        DataDirectoryError: a newer version wrote the engine.
    """
    return {
        group_of_shard(shard): StateMachine(shard, engine, owns=belongs_to(shard, shard_map.shards))
        for shard in map(ShardId, range(shard_map.shards))
        if any(replica.node == own for replica in shard_map.replicas_of(shard))
    }


def recover_hosts(  # noqa: PLR0913  all that a start has found, each by name
    config: NodeConfig,
    shard_map: ShardMap,
    engine: Engine,
    machines: Mapping[GroupId, StateMachine],
    logs: Mapping[GroupId, RecoveredLog],
    *,
    rng: random.Random,
    now: float,
    life: int = 0,
    installed_index: Callable[[GroupId], LogIndex],
) -> tuple[dict[GroupId, ShardHost], list[bytes]]:
    """A host for each state machine, and the records that the log must still note.

    In a later ``life`` than the first of its data the node is none of the founding members:
    its replicas have ids of their own, and no part in their groups until a leader has given
    them one (:mod:`kvstore.server.rejoin`). ``installed_index`` tells where the last snapshot
    stands that a group has installed.

    Raises:
        CorruptionError: entries are missing that only the log could have had.
    """
    hosts: dict[GroupId, ShardHost] = {}
    marks: list[bytes] = []
    for group, machine in machines.items():
        shard = shard_of_group(group)
        replicas = shard_map.replicas_of(shard)
        initial = GroupConfig(voters=tuple(sorted(replica.id for replica in replicas)))
        recovered = recover_group(group, initial, machine, engine, logs.get(group), installed_index)
        marks += marks_missing(group, recovered.base, logs.get(group))
        core = RaftCore(
            replica=next(in_life(r.id, life) for r in replicas if r.node == config.node_id),
            config=config.raft,
            recovered=recovered,
            rng=random.Random(rng.random()),
            now=now,
        )
        hosts[group] = ShardHost(
            shard,
            core,
            machine,
            HybridClock(last=machine.last_revision),
            ShardReplicas(replicas),
            apply_limits=ApplyLimits.of(config.limits),
            entry_bytes_max=config.raft.append_bytes_max,
            request_timeout_s=config.limits.request_timeout_s,
        )
        hosts[group].observe(recovered.entries)
    return hosts, marks
