"""From what is in a data directory to hosts that can go on: what a node does before it speaks.

The engine, the promised snapshots, the shard map, the log; then whatever of groups is here and
should not be is made void (:mod:`kvstore.storage.stays`), and every group that is held is brought
back (:mod:`kvstore.server.recovery`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.errors import CorruptionError
from kvstore.ids import GroupId, LogIndex
from kvstore.server.groups import (
    Holding,
    clear_away,
    find_leftovers,
    load_machines,
    recover_hosts,
)
from kvstore.server.recovery import RecoveryProgress
from kvstore.server.replicas import ReplicaNodes
from kvstore.server.shard_host import ShardHost
from kvstore.sharding.shard_map import ShardMap
from kvstore.storage import map_file, stays
from kvstore.storage.files import OsFiles
from kvstore.storage.identity import LOG_DIRECTORY
from kvstore.storage.rocks import OPEN_FILES_MAX, RocksEngine
from kvstore.storage.snapshots import SnapshotStorage
from kvstore.storage.wal import Wal, open_wal
from kvstore.wire.map_codec import decode_map

if TYPE_CHECKING:
    import contextlib
    import random
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.kv.state_machine import StateMachine
    from kvstore.storage.files import Files
    from kvstore.storage.identity import Identity
    from kvstore.storage.wal import RecoveredLog

SETTLE_S_MAX: Final = 60.0
"""For a few records and deleted ranges; longer only on a disk that hangs."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An open data directory."""

    engine: RocksEngine
    snapshots: SnapshotStorage
    wal: Wal
    shard_map: ShardMap | None
    """The newest that this node has acted on, or the first one; None if it has none yet."""
    holding: Holding
    hosts: Mapping[GroupId, ShardHost]


def known_map(
    config: NodeConfig,
    founding: ShardMap | None,
    *,
    must_exist: bool,
    files: Files | None = None,
) -> ShardMap | None:
    """The map that this node has to act on; blocks. It is on the disk for good.

    Raises:
        CorruptionError: it is damaged or lost.
        DataDirectoryError: a newer version wrote it.
        Internal: the disk fails.
    """
    body = map_file.load(config.data_dir)
    if body is not None:
        map_file.confirm(files or OsFiles(), config.data_dir)
        return decode_map(body)
    if must_exist:
        raise CorruptionError(
            "the shard map that this node has acted on is gone",
            file=str(config.data_dir / map_file.MAP_FILE),
            offset=0,
        )
    return founding


def holding_of(
    config: NodeConfig, shard_map: ShardMap | None, founding: ShardMap | None
) -> Holding:
    """What the node is to hold; nothing while it knows no map."""
    if shard_map is None:
        return Holding({}, 1, {}, ReplicaNodes())
    return Holding.of(config.node_id, shard_map, founding)


async def open_stored(  # noqa: PLR0913  what a node has, each by name
    config: NodeConfig,
    identity: Identity,
    *,
    founding: ShardMap | None,
    on_fatal: Callable[[BaseException], None],
    on_disk_full: Callable[[bool], None],
    clock: Callable[[], float],
    rng: random.Random,
    undo: contextlib.AsyncExitStack,
    open_files_max: int = OPEN_FILES_MAX,
) -> Stored:
    """Bring back everything that the node had.

    Args:
        config: The node's.
        identity: Of its data directory, which is locked.
        founding: The cluster's first shard map, if the configuration tells.
        on_fatal: Told when the disk fails; the process must end.
        on_disk_full: Told whenever the log runs out of room or has some again.
        clock: Steady seconds.
        rng: For the cores.
        undo: Takes what must be closed.
        open_files_max: Tables that the engine may hold open.

    Raises:
        StartupError: something is damaged, lost, or of a newer version.
    """
    data_dir = config.data_dir
    engine = await asyncio.to_thread(
        RocksEngine, data_dir / "engine", config.engine, open_files_max=open_files_max
    )
    undo.push_async_callback(asyncio.to_thread, engine.close)
    snapshots = SnapshotStorage(engine, data_dir / "snapshots")
    await asyncio.to_thread(snapshots.finish_pending)
    shard_map = await asyncio.to_thread(known_map, config, founding, must_exist=identity.has_map)
    holding = holding_of(config, shard_map, founding)
    machines = await asyncio.to_thread(load_machines, holding, engine)
    wal, logs = await open_wal(
        data_dir / LOG_DIRECTORY,
        cluster_id=config.cluster.id,
        node_id=config.node_id,
        config=config.wal,
        on_fatal=on_fatal,
        on_disk_full=on_disk_full,
        applied={group: LogIndex(m.applied_index) for group, m in machines.items()},
        held=await asyncio.to_thread(stays.groups_held, engine),
        progress=RecoveryProgress(clock),
    )
    undo.push_async_callback(wal.close)
    await _settle(holding, machines, logs, wal, engine, snapshots)
    hosts, marks = await asyncio.to_thread(
        recover_hosts,
        config,
        holding,
        engine,
        machines,
        logs,
        rng=rng,
        now=clock(),
        life=identity.life,
        installed_index=snapshots.installed_index,
    )
    if marks:
        wal.append(marks, lambda: None)
    return Stored(engine, snapshots, wal, shard_map, holding, hosts)


async def _settle(
    holding: Holding,
    machines: dict[GroupId, StateMachine],
    logs: dict[GroupId, RecoveredLog],
    wal: Wal,
    engine: RocksEngine,
    snapshots: SnapshotStorage,
) -> None:
    """Do what was left undone of groups that came or left: log, snapshots, engine."""
    found = await asyncio.to_thread(find_leftovers, holding, logs, engine)
    told = found.records()
    if told:
        async with asyncio.timeout(SETTLE_S_MAX):
            durable = asyncio.Event()
            wal.append(told, durable.set)
            await durable.wait()
    for group in (*found.begun, *found.left):
        logs.pop(group, None)
    machines |= await asyncio.to_thread(clear_away, found, holding.shards, engine, snapshots)
