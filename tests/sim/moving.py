"""What makes the groups of a node come and go: what ``kvstore.server.following`` puts together.

The real controller, reshaper, holdings and exchange of maps, in one life of a process. What the
controller sees of the others is what the real membership says.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

from kvstore.errors import Internal, KVError
from kvstore.server.controller import Controller
from kvstore.server.holdings import Holdings
from kvstore.server.map_exchange import MapExchange
from kvstore.server.reshaper import Reshaper
from kvstore.server.start import Stored
from sim.loop import Thread, run_coroutine
from sim.member import address_of, node_at, swim_config

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kvstore.ids import NodeId
    from kvstore.server.groups import Holding
    from kvstore.server.shard_host import ShardHost
    from kvstore.server.snapshot_work import SnapshotTransfers
    from kvstore.sharding.known import Known
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.snapshots import SnapshotStorage
    from kvstore.wire.frames import Frame
    from sim.node import SimNode


class Moving:
    """Of one node, in one life of its process. Nothing runs before :meth:`begin`."""

    def __init__(
        self,
        node: SimNode,
        shard_map: ShardMap | None,
        holding: Holding,
        storage: SnapshotStorage,
        transfers: SnapshotTransfers,
        thread: Thread,
    ) -> None:
        self._node = node
        self._nodes = holding.nodes
        self.maps = MapExchange(
            node.id,
            shard_map,
            send=self._send,
            tell_version=self._tell_version,
            clock=node.clock,
            seeds=tuple(address_of(other) for other in node.network.nodes if other != node.id),
            rng=random.Random(node.rng.random()),
        )
        swim = swim_config(node.swarm.time_scale)
        self.controller = Controller(
            node.driver,
            founding=node.founding,
            policy=node.config.sharding,
            admit_after_s=2 * swim.suspicion_mult * swim.probe_interval_s,
            members=self._members,
            on_map=self.maps.take_committed,
            announce=self._announce,
            clock=node.clock,
        )
        self._reshaper = Reshaper(
            node.driver,
            shard_map=lambda: self.maps.shard_map,
            lives=node.life_of,
            tell=self.maps.tell_meta,
            clock=node.clock,
        )
        stored: Any = Stored(
            cast("Any", node.engine), storage, cast("Any", node.wal), shard_map, holding, {}
        )
        self._holdings = Holdings(
            node.config,
            cast("Any", node.identity),
            stored,
            node.driver,
            transfers,
            thread=thread,
            clock=node.clock,
            rng=random.Random(node.rng.random()),
            files=node.disk,
            on_come=self._comes,
        )

    # -- what runs ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Go by the map that is known."""
        if self.maps.shard_map is not None:
            self._follow(self.maps.shard_map)
        self.maps.on_map = self._follow
        self.maps.on_reports = self.controller.take
        for host in self._node.driver.hosts.values():
            self.controller.attach(host)
        run_coroutine(self._own(self.controller.run()))
        run_coroutine(self._own(self._holdings.run()))
        self._node.later(self._reshaper.interval_s(), self._reshape)

    async def _own(self, work: Coroutine[Any, Any, None]) -> None:
        """As a node owns its tasks: one that fails ends the process."""
        try:
            await work
        except Internal as error:
            self._node.die(error)

    def _reshape(self) -> None:
        self._node.driver.guarded(self._reshaper.check)
        self._node.later(self._reshaper.interval_s(), self._reshape)

    def _follow(self, shard_map: ShardMap) -> None:
        node = self._node
        node.checks.maps.goes_by(node.id, node.life, shard_map)
        node.world.note(node.id, f"goes by version {shard_map.version} of the map")
        self._nodes.learn(shard_map.nodes_by_number())
        self._tell_version()
        if node.member is not None:
            node.member.forget(shard_map.removed)
        self._holdings.follow(shard_map)

    def _comes(self, host: ShardHost) -> None:
        node = self._node
        node.world.note(node.id, f"{host.name} comes as replica {host.core.replica}")
        node.watch(host)
        self.controller.attach(host)

    # -- what goes between nodes ----------------------------------------------------------------

    def _send(self, node: NodeId | None, frame: bytes, *, address: str | None = None) -> None:
        assert node is not None or address is not None
        target = node_at(address) if node is None and address is not None else node
        assert target is not None
        self._node.network.send_map(self._node, target, frame)

    def receive(self, source: NodeId, frame: Frame) -> None:
        """A frame of another node, about maps."""
        if not self._node.is_deaf:
            self.maps.receive(source, frame)

    def heard(self, source: NodeId, version: int) -> None:
        """Another member goes by that version."""
        if not self._node.is_deaf:
            self.maps.heard(source, version)

    def _tell_version(self) -> None:
        if self._node.member is not None:
            self._node.member.driver.core.set_vitals(self.maps.version, 0.0)

    def _announce(self) -> None:
        self.maps.announce(m.node for m in self._members() if m.state.is_active)

    def _members(self) -> list[Any]:
        member = self._node.member
        return [] if member is None else list(member.view().values())

    def has_removed(self, other: NodeId) -> bool:
        """Whether a node is known here to be removed, so that nothing passes to it or from it."""
        shard_map, member = self.maps.shard_map, self._node.member
        if shard_map is not None and other in shard_map.removed:
            return True
        return member is not None and member.has_removed(other)

    # -- orders ---------------------------------------------------------------------------------

    def order(self, change: Callable[[ShardMap, Known], ShardMap]) -> None:
        """An administrator wants something of this node."""
        run_coroutine(self._answer(change))

    async def _answer(self, change: Callable[[ShardMap, Known], ShardMap]) -> None:
        node = self._node
        try:
            shard_map = await self.controller.order(change)
        except (KVError, TimeoutError) as error:
            node.world.note(node.id, f"refuses an order: {type(error).__name__}: {error}")
        else:
            node.world.note(node.id, f"takes an order: version {shard_map.version}")
