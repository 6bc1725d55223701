"""Looks at a stopped node's data as its start would, and says whether it could go on.

The checks are those of the start itself, and leave behind what a start leaves (a torn end of
the log is cut, say). Beyond them every row of the engine is read, because a start would not
notice a damaged block before somebody asks for it.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from kvstore.ids import LogIndex, shard_of_group
from kvstore.kv.engine import shard_range
from kvstore.server.groups import find_leftovers, load_machines, recover_hosts
from kvstore.server.start import holding_of, known_map
from kvstore.sharding.shard_map import bootstrap
from kvstore.storage import stays
from kvstore.storage.identity import LOG_DIRECTORY
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshots import SnapshotStorage
from kvstore.storage.wal import open_wal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.config import NodeConfig
    from kvstore.ids import GroupId
    from kvstore.kv.state_machine import StateMachine
    from kvstore.storage.wal import RecoveredLog


async def check_up(
    config: NodeConfig, life: int, *, has_map: bool, tell: Callable[[str], None]
) -> bool:
    """Go through all that a start of the node goes through, but for the network.

    Args:
        config: The node's; its data directory must be locked by the caller.
        life: Of the data directory.
        has_map: Whether a shard map was written down there.
        tell: Called with what is being done.

    Returns:
        Whether there is anything: False if no replica here has ever taken part in its group.

    Raises:
        KVError: What would keep the node from starting; ``StartupError.is_repairable`` if that
            is lost or damaged data.
    """
    tell("the engine")
    engine = await asyncio.to_thread(RocksEngine, config.data_dir / "engine", config.engine)
    try:
        return await _check_data(config, life, has_map, engine, tell)
    finally:
        await asyncio.to_thread(engine.close)


async def _check_data(
    config: NodeConfig, life: int, has_map: bool, engine: RocksEngine, tell: Callable[[str], None]
) -> bool:
    founding = bootstrap(config.cluster) if config.cluster.nodes else None
    shard_map = await asyncio.to_thread(known_map, config, founding, must_exist=has_map)
    holding = holding_of(config, shard_map, founding)
    snapshots = SnapshotStorage(engine, config.data_dir / "snapshots")
    await asyncio.to_thread(snapshots.finish_pending)
    machines = await asyncio.to_thread(load_machines, holding, engine)
    for group in machines:
        tell(f"the rows of shard {shard_of_group(group)}")
        await asyncio.to_thread(_read_all, engine, group)
    failures: list[BaseException] = []
    wal, logs = await open_wal(
        config.data_dir / LOG_DIRECTORY,
        cluster_id=config.cluster.id,
        node_id=config.node_id,
        config=config.wal,
        on_fatal=failures.append,
        on_disk_full=lambda full: None,
        applied={group: LogIndex(m.applied_index) for group, m in machines.items()},
        held=await asyncio.to_thread(stays.groups_held, engine),
        progress=lambda done, total: tell(f"{done >> 20} of {total >> 20} MiB of the log"),
    )
    await wal.close()
    if failures:
        raise failures[0]
    found = await asyncio.to_thread(find_leftovers, holding, logs, engine)
    for group in (*found.begun, *found.left):
        logs.pop(group, None)
        machines.pop(group, None)
    is_blank = _is_blank(machines, logs)
    await asyncio.to_thread(
        recover_hosts,
        config,
        holding,
        engine,
        machines,
        logs,
        rng=random.Random(0),
        now=0.0,
        life=life,
        installed_index=snapshots.installed_index,
    )
    return not is_blank


def _read_all(engine: RocksEngine, group: GroupId) -> None:
    for _ in engine.snapshot_rows(*shard_range(shard_of_group(group))):
        pass


def _is_blank(
    machines: Mapping[GroupId, StateMachine], logs: Mapping[GroupId, RecoveredLog]
) -> bool:
    """Whether there is neither state, nor an entry, nor a term that anybody could rely on."""
    return not any(machine.applied_index for machine in machines.values()) and not any(
        log.term or log.entries or log.mark for log in logs.values()
    )
