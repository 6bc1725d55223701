"""Puts a node's groups together from the shard map, the engine and the log.

What a node does at each start, and for each group that comes to it, without its clock, its
threads or its files: they are given.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.config import LimitsConfig
from kvstore.errors import CorruptionError
from kvstore.hlc import HybridClock
from kvstore.ids import (
    META_GROUP,
    NO_REPLICA,
    GroupId,
    LogIndex,
    ReplicaId,
    Term,
    in_life,
    shard_of_group,
    stay_of,
)
from kvstore.kv.limits import ApplyLimits
from kvstore.kv.state_machine import StateMachine
from kvstore.raft.core import RaftCore, RecoveredGroup
from kvstore.raft.messages import GroupConfig, HardState, SnapshotMeta
from kvstore.server.recovery import marks_missing, recover_group
from kvstore.server.replicas import ReplicaNodes
from kvstore.server.shard_host import ShardHost
from kvstore.sharding.ring import belong_to
from kvstore.storage import records, stays

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.kv.engine import Engine
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.snapshots import SnapshotStorage
    from kvstore.storage.wal import RecoveredLog

NOBODY = GroupConfig(())
"""What a group's members are to a replica that came later, until the log tells."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node is to hold."""

    replicas: Mapping[GroupId, ReplicaId]
    """Its own of each group, as in the shard map."""
    shards: int
    founders: Mapping[GroupId, GroupConfig]
    """The members that each group was founded with, where the node knows."""
    nodes: ReplicaNodes

    @classmethod
    def of(cls, own: NodeId, shard_map: ShardMap, founding: ShardMap | None) -> Holding:
        """By ``shard_map``; ``founding`` is the cluster's first one."""
        return cls(
            shard_map.held_by(own),
            shard_map.shards,
            {} if founding is None else {g: _founders(founding, g) for g in founding.groups()},
            ReplicaNodes(shard_map.nodes_by_number()),
        )

    def initial(self, group: GroupId) -> GroupConfig:
        """Who the members were before the log's first entry, as this replica has to see it."""
        is_founder = stay_of(self.replicas[group]) == 0
        return self.founders[group] if is_founder else NOBODY


def _founders(founding: ShardMap, group: GroupId) -> GroupConfig:
    return GroupConfig(tuple(sorted(replica.id for replica in founding.members(group))))


def owner_of_keys(group: GroupId, shards: int) -> Callable[[Collection[bytes]], bool]:
    """Whether keys all belong to ``group``; the meta group has keys of its own."""
    if group == META_GROUP:
        return lambda keys: True
    return belong_to(shard_of_group(group), shards)


def load_machine(group: GroupId, shards: int, engine: Engine) -> StateMachine:
    """The state machine of ``group`` as the engine has it; blocks.

    Belongs in a thread: it reads all data that an older version wrote, once.

    Raises:
        DataDirectoryError: a newer version wrote the engine.
        DiskFull: what an older version wrote must be added to, and there is no room.
    """
    return StateMachine(shard_of_group(group), engine, owns=owner_of_keys(group, shards))


def load_machines(holding: Holding, engine: Engine) -> dict[GroupId, StateMachine]:
    """The state machine of each group that is held, and that the engine has as that replica.

    Raises:
        DataDirectoryError: a newer version wrote the engine.
    """
    stamps = stays.groups_held(engine)
    return {
        group: load_machine(group, holding.shards, engine)
        for group, replica in holding.replicas.items()
        if stamps.get(group, replica if stay_of(replica) == 0 else NO_REPLICA) == replica
    }


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a start finds that is not as the shard map says."""

    begun: Mapping[GroupId, ReplicaId]
    """Groups to be held as replicas that neither log nor engine knows yet."""
    unstamped: Mapping[GroupId, ReplicaId]
    """Groups whose log is right, and the engine went back to before they came."""
    left: tuple[GroupId, ...]
    """Groups that are here and should not be."""

    def records(self) -> list[bytes]:
        """What the log has to be told of them, before anything else is done."""
        begun = [records.encode_replica(group, replica) for group, replica in self.begun.items()]
        return begun + [records.encode_replica(group, NO_REPLICA) for group in self.left]


def find_leftovers(
    holding: Holding, logs: Mapping[GroupId, RecoveredLog], engine: Engine
) -> Leftovers:
    """Compare log and engine with what is to be held (:mod:`kvstore.storage.stays`); blocks.

    Raises:
        CorruptionError: they are of a later replica than the shard map knows: it is an older
            copy, and by it this node could promise twice.
    """
    stamps = stays.groups_held(engine)
    begun: dict[GroupId, ReplicaId] = {}
    unstamped: dict[GroupId, ReplicaId] = {}
    for group, replica in holding.replicas.items():
        founded = replica if stay_of(replica) == 0 else NO_REPLICA
        log = logs.get(group)
        logged = ReplicaId(log.replica) if log is not None and log.replica else founded
        stamp = stamps.get(group, founded)
        if max(stay_of(logged), stay_of(stamp)) > stay_of(replica):
            raise CorruptionError(
                f"group {group} is stored as a later copy than it says: it is out of date",
                file="shard_map",
                offset=0,
            )
        if logged != replica:
            begun[group] = replica
        elif stamp != replica:
            unstamped[group] = replica
    there = {*logs, *stamps, *stays.groups_with_rows(engine)}
    return Leftovers(begun, unstamped, tuple(sorted(there - holding.replicas.keys())))


def clear_away(
    found: Leftovers, shards: int, engine: Engine, snapshots: SnapshotStorage
) -> dict[GroupId, StateMachine]:
    """Make void what was ``found``, once the log was told of it; blocks.

    Returns:
        The state machine of each group that begins anew.
    """
    coming = {**found.begun, **found.unstamped}
    for group in (*coming, *found.left):
        snapshots.forget(group)
    for group in found.left:
        stays.forget(engine, group)
    for group, replica in coming.items():
        stays.begin(engine, group, replica)
    return {group: load_machine(group, shards, engine) for group in coming}


def recover_hosts(  # noqa: PLR0913  all that a start has found, each by name
    config: NodeConfig,
    holding: Holding,
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
        initial = holding.initial(group)
        recovered = recover_group(group, initial, machine, engine, logs.get(group), installed_index)
        marks += marks_missing(group, recovered.base, logs.get(group))
        hosts[group] = make_host(
            config,
            group,
            in_life(holding.replicas[group], life),
            machine,
            recovered,
            holding.nodes,
            rng=rng,
            now=now,
        )
    return hosts, marks


def make_host(
    config: NodeConfig,
    group: GroupId,
    replica: ReplicaId,
    machine: StateMachine,
    recovered: RecoveredGroup,
    nodes: ReplicaNodes,
    *,
    rng: random.Random,
    now: float,
) -> ShardHost:
    """The host of one replica that goes on from ``recovered``.

    What clients may write is configured; what the meta group's controller must, is not.
    """
    core = RaftCore(
        replica=replica,
        config=config.raft,
        recovered=recovered,
        rng=random.Random(rng.random()),
        now=now,
    )
    host = ShardHost(
        shard_of_group(group),
        core,
        machine,
        HybridClock(last=machine.last_revision),
        nodes,
        apply_limits=ApplyLimits.of(LimitsConfig() if group == META_GROUP else config.limits),
        entry_bytes_max=config.raft.append_bytes_max,
        request_timeout_s=config.limits.request_timeout_s,
    )
    host.observe(recovered.entries)
    return host


def newcomer() -> RecoveredGroup:
    """What a replica knows that has just come: nothing, not even who the members are."""
    return RecoveredGroup(
        hard_state=HardState(Term(0), NO_REPLICA),
        base=SnapshotMeta(LogIndex(0), Term(0), NOBODY),
        entries=(),
        applied_index=LogIndex(0),
    )
