"""Which groups this node holds, while it runs: what the shard map says, carried out.

A newer map is made durable first: from then on a start acts by it too, whatever a crash leaves
undone here. Then groups that are to go go, and groups that are to come come, one after the
other, in the steps of :mod:`kvstore.storage.stays`. Only the newest map counts: one that was
overtaken while another was carried out is never looked at.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar

from kvstore.errors import DiskFull
from kvstore.ids import NO_REPLICA, GroupId, ReplicaId, in_life
from kvstore.net.repeats import RepeatFilter
from kvstore.server.groups import load_machine, make_host, newcomer
from kvstore.server.waiting import Signal, pause
from kvstore.storage import map_file, records, stays
from kvstore.storage.files import OsFiles
from kvstore.wire.map_codec import encode_map

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from concurrent.futures import Executor

    from kvstore.config import NodeConfig
    from kvstore.kv.engine import Engine
    from kvstore.kv.state_machine import StateMachine
    from kvstore.server.raft_driver import Log, RaftDriver
    from kvstore.server.shard_host import ShardHost
    from kvstore.server.snapshot_work import SnapshotTransfers
    from kvstore.server.start import Stored
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.files import Files
    from kvstore.storage.identity import Identity

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_S: Final = 1.0
"""After a step that found no room on the disk."""


class Holdings:
    """Invariant: whatever the engine has of a group that is not in ``held`` is void."""

    def __init__(  # noqa: PLR0913  its collaborators, each by name
        self,
        config: NodeConfig,
        identity: Identity,
        stored: Stored,
        driver: RaftDriver,
        transfers: SnapshotTransfers,
        *,
        thread: Executor,
        clock: Callable[[], float],
        rng: random.Random,
        files: Files | None = None,
        on_come: Callable[[ShardHost], None] = lambda host: None,
    ) -> None:
        """Begin with what is ``stored``, of which the driver has a host each.

        Args:
            config: The node's.
            identity: Of its data directory.
            stored: What is in that.
            driver: Runs the groups.
            transfers: Of their snapshots.
            thread: The one that works on snapshots: so nothing of a group is in work while it
                is removed.
            clock: Steady seconds.
            rng: For the cores.
            files: Where the map is written down; the machine's own if not given.
            on_come: Told of each new host before it runs.
        """
        self._config = config
        self._held = dict(stored.holding.replicas)
        """As which replica each group is held, as in the shard map."""
        self._driver = driver
        self._wal: Log = stored.wal
        self._engine: Engine = stored.engine
        self._storage = stored.snapshots
        self._transfers = transfers
        self._nodes = stored.holding.nodes
        self._identity = identity
        self._thread = thread
        self._clock = clock
        self._rng = rng
        self._files = files or OsFiles()
        self._on_come = on_come
        self._map: ShardMap | None = None
        self._is_new = Signal(driver.loop)
        self._no_room = RepeatFilter()

    def follow(self, shard_map: ShardMap) -> None:
        """Hold what ``shard_map`` says, soon; an earlier one that is still waiting is forgotten."""
        if self._map is None or shard_map.version > self._map.version:
            self._map = shard_map
            self._is_new.set()

    async def run(self) -> None:
        """Follow each map until cancelled."""
        while True:
            await self._is_new.wait()
            self._is_new.clear()
            try:
                await self._carry_out()
            except (OSError, DiskFull) as error:
                if self._no_room.is_new(str(error), self._clock()):
                    log.warning("the shard map cannot be followed yet: %s", error)
                await pause(self._driver.loop, RETRY_S)
                self._is_new.set()

    async def _carry_out(self) -> None:
        shard_map = self._map
        assert shard_map is not None
        body = encode_map(shard_map)
        loop = self._driver.loop
        await loop.run_in_executor(None, lambda: self._write_down(body))
        wanted = shard_map.held_by(self._config.node_id)
        for group, replica in list(self._held.items()):
            if wanted.get(group) != replica:
                await self._leave(group)
        for group, replica in wanted.items():
            if group not in self._held:
                await self._come(group, replica, shard_map.shards)

    def _write_down(self, body: bytes) -> None:
        map_file.save(self._files, self._config.data_dir, body)
        self._identity.note_map()

    async def _leave(self, group: GroupId) -> None:
        host = self._driver.hosts.get(group)
        if host is not None:
            self._driver.remove(group)
            self._transfers.forget(host)
            log.info("%s leaves this node", host.name)
        # What was run and not yet written must not come after its range was deleted.
        await self._written()
        await self._logged(records.encode_replica(group, NO_REPLICA))

        def forget() -> None:
            self._storage.forget(group)
            stays.forget(self._engine, group)

        await self._in_thread(forget)
        if host is not None:
            host.machine.forget_cached()
        del self._held[group]

    async def _come(self, group: GroupId, replica: ReplicaId, shards: int) -> None:
        await self._logged(records.encode_replica(group, replica))

        def begin() -> StateMachine:
            self._storage.forget(group)
            stays.begin(self._engine, group, replica)
            return load_machine(group, shards, self._engine)

        machine = await self._in_thread(begin)
        host = make_host(
            self._config,
            group,
            in_life(replica, self._identity.life),
            machine,
            newcomer(),
            self._nodes,
            rng=self._rng,
            now=self._clock(),
        )
        self._held[group] = replica
        self._on_come(host)
        self._driver.add(host)
        log.info("%s comes to this node", host.name)

    async def _written(self) -> None:
        done = Signal(self._driver.loop)
        self._driver.when_written(done.set)
        await done.wait()

    async def _logged(self, record: bytes) -> None:
        """Return when ``record`` is durable."""
        done = Signal(self._driver.loop)
        self._wal.append([record], done.set)
        await done.wait()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._driver.loop.run_in_executor(self._thread, work)
