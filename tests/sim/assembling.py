"""Puts a simulated process together from what is on its disk, as ``kvstore.server.start`` does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvstore.ids import META_GROUP, GroupId, LogIndex
from kvstore.server.answers import Answers
from kvstore.server.clients import ClientRequests
from kvstore.server.groups import (
    Holding,
    clear_away,
    find_leftovers,
    load_machines,
    recover_hosts,
)
from kvstore.server.pacing import Pace
from kvstore.server.raft_driver import RaftDriver
from kvstore.server.rejoin import Rejoin
from kvstore.server.signpost import Signpost
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.server.start import holding_of, known_map
from kvstore.server.upkeep import LeaderBalance, LogKeeper
from kvstore.storage import stays
from kvstore.storage.recovery import Recovery
from kvstore.storage.snapshots import SnapshotStorage
from sim.engine import SimEngine
from sim.identity import SimIdentity
from sim.log import SimLog
from sim.loop import Thread
from sim.moving import Moving

if TYPE_CHECKING:
    from kvstore.kv.state_machine import StateMachine
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.replay import RecoveredLog
    from sim.node import SimNode


SLOW_PACE_BYTES_PER_S: Final = 100_000
"""For what newcomers get; entries and snapshots are small here."""


def assemble(node: SimNode) -> None:
    """Bring back all that ``node`` had.

    Raises:
        StartupError: something is damaged or lost.
        DiskCrash: it died meanwhile.
    """
    node.engine = SimEngine(node.disk, node.stored)
    storage = SnapshotStorage(node.engine, node.config.data_dir / "snapshots", files=node.disk)
    storage.finish_pending()
    shard_map = _known_map(node)
    holding = _holding(node, shard_map)
    machines = load_machines(holding, node.engine)
    logs = _read_log(node, machines)
    if node.swarm.is_controlled:
        _settle(node, holding, machines, logs, storage)
    hosts, marks = recover_hosts(
        node.config,
        holding,
        node.engine,
        machines,
        logs,
        rng=node.rng,
        now=node.clock(),
        life=node.data_life,
        installed_index=storage.installed_index,
    )
    if marks:
        node.wal.append(marks, lambda: None)
    _connect(node, hosts, holding, shard_map, storage)
    node.checks.started(node, logs)


def _known_map(node: SimNode) -> ShardMap | None:
    if not node.swarm.is_controlled:
        return node.founding
    node.identity = SimIdentity(node)
    return known_map(node.config, node.founding, must_exist=node.identity.has_map, files=node.disk)


def _holding(node: SimNode, shard_map: ShardMap | None) -> Holding:
    if node.swarm.is_controlled:
        return holding_of(node.config, shard_map, node.founding)
    assert shard_map is not None
    placed = Holding.of(node.id, shard_map, shard_map)
    shards = {group: r for group, r in placed.replicas.items() if group != META_GROUP}
    return replace(placed, replicas=shards)


def _read_log(node: SimNode, machines: dict[GroupId, StateMachine]) -> dict[GroupId, RecoveredLog]:
    recovery = Recovery(
        node.config.data_dir / "wal",
        node.disk,
        node.config.wal,
        cluster_id=node.config.cluster.id,
        node_id=node.id,
        applied={group: LogIndex(m.applied_index) for group, m in machines.items()},
        held=stays.groups_held(node.engine),
        random_bits=node.rng.getrandbits,
    )
    for number, path in recovery.look():
        recovery.read(number, path, path.read_bytes())
    segments, logs = recovery.finish()
    node.wal = SimLog(
        node,
        segments,
        write_s_max=node.swarm.write_s_max,
        on_durable=lambda records: node.checks.durable(node, records),
    )
    return logs


def _settle(
    node: SimNode,
    holding: Holding,
    machines: dict[GroupId, StateMachine],
    logs: dict[GroupId, RecoveredLog],
    storage: SnapshotStorage,
) -> None:
    """Do what was left undone of groups that came or left."""
    found = find_leftovers(holding, logs, node.engine)
    told = found.records()
    if told:
        node.wal.write_now(told)
    for group in (*found.begun, *found.left):
        logs.pop(group, None)
    machines |= clear_away(found, holding.shards, node.engine, storage)


def _connect(
    node: SimNode,
    hosts: dict[GroupId, ShardHost],
    holding: Holding,
    shard_map: ShardMap | None,
    storage: SnapshotStorage,
) -> None:
    # Old seeds are the runs that they were: only a controlled one may have a slow pace.
    slow = node.swarm.is_controlled and node.rng.random() < 0.5
    pace = Pace(SLOW_PACE_BYTES_PER_S if slow else 1 << 30)
    node.driver = driver = RaftDriver(
        hosts,
        node.wal,
        node.engine,
        node,
        clock=node.clock,
        wall_ms=node.wall_ms,
        on_fatal=node.die,
        on_engine_full=node.disk_watch.engine_full,
        pace=pace,
        loop=node.loop,
    )
    driver.may_lead = lambda: not node.admission.disk_full
    thread = Thread()
    transfers = SnapshotTransfers(
        driver,
        storage,
        node.wal,
        pace=pace,
        thread=thread,
        clock=node.clock,
        on_fatal=node.die,
    )
    driver.snapshots = transfers
    node.keeper = LogKeeper(
        driver, node.wal, node.engine, live_bytes_max=node.config.wal.live_bytes_max
    )
    node.rejoin = Rejoin(driver, lives=node.life_of, clock=node.clock)
    node.moving = None
    if node.swarm.is_controlled:
        node.moving = Moving(node, shard_map, holding, storage, transfers, thread)
    node.answers = Answers(
        node.config, driver, lambda: node.shard_map, clock=node.clock, wall_ms=node.wall_ms
    )
    node.requests = ClientRequests(
        driver,
        node.admission,
        clock=node.clock,
        request_timeout_s=node.config.limits.request_timeout_s,
        relieve=lambda: None,
        frame_bytes_max=node.config.limits.frame_bytes_max,
        scan_threads=Thread(),
        shard_map=node.answers.shard_map_reply,
        status=lambda: b"",
        where=node.answers.preferred if node.swarm.is_controlled else lambda group: None,
        signpost=Signpost(lambda: node.shard_map, node.config.cluster.addresses),
    )
    node.balance = LeaderBalance(
        driver,
        node.answers.preferred,
        steady_since=node.connected_since.get,
        clock=node.clock,
        may_lead=lambda: not node.admission.disk_full,
    )
    node.checks.watch_installs(node, storage)
    for host in hosts.values():
        node.watch(host)
