"""What in a node goes by the shard map: told of each newer one, wherever it comes from.

A map comes from the node's own replica of the meta group, or from another member that had it
earlier. What is held follows it (:mod:`kvstore.server.holdings`), and so do the peers, the pins
of their directories, and the members of the groups that are led here
(:mod:`kvstore.server.reshaper`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.confchange import members
from kvstore.server.administration import Administration
from kvstore.server.controller import Controller
from kvstore.server.holdings import Holdings
from kvstore.server.rejoin import Rejoin, keep_rejoining
from kvstore.server.reshaper import Reshaper

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    from kvstore.config import NodeConfig
    from kvstore.ids import NodeId
    from kvstore.net.peers import PeerPool
    from kvstore.server.handshake import Handshake
    from kvstore.server.membership import Membership
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.server.snapshot_work import SnapshotTransfers
    from kvstore.server.start import Stored
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.identity import Identity


class Following:
    """Puts those parts together. Nothing runs before :meth:`begin`."""

    def __init__(  # noqa: PLR0913  its collaborators, each by name
        self,
        config: NodeConfig,
        identity: Identity,
        stored: Stored,
        driver: RaftDriver,
        transfers: SnapshotTransfers,
        peers: PeerPool,
        handshake: Handshake,
        membership: Membership,
        *,
        founding: ShardMap | None,
        connected_since: dict[NodeId, float],
        thread: Executor,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Make the parts.

        Args:
            config: The node's.
            identity: Of its data directory.
            stored: What is in that.
            driver: Of its groups.
            transfers: Of their snapshots.
            peers: To be dialled.
            handshake: Who may come in.
            membership: Brings maps of others, and takes what is to be told.
            founding: The cluster's first map, if the node knows it.
            connected_since: Which peers are connected, and since when.
            thread: The one that works on snapshots.
            clock: Steady seconds.
            rng: For what is drawn.
        """
        self._own, self._own_life = config.node_id, identity.life
        self._configured = config.cluster.addresses
        self._driver = driver
        self._nodes, self._peers = stored.holding.nodes, peers
        self._handshake, self._membership = handshake, membership
        self._connected_since = connected_since
        self.controller = Controller(
            driver,
            founding=founding,
            policy=config.sharding,
            admit_after_s=2 * config.swim.suspicion_mult * config.swim.probe_interval_s,
            members=membership.members,
            on_map=membership.maps.take_committed,
            announce=membership.announce,
            clock=clock,
        )
        self.administration = Administration(self.controller, driver, clock=clock)
        self._rejoin = Rejoin(driver, lives=self._life_of, clock=clock)
        self._reshaper = Reshaper(
            driver,
            shard_map=lambda: membership.shard_map,
            lives=self._life_of,
            tell=membership.maps.tell_meta,
            clock=clock,
        )
        self._holdings = Holdings(
            config,
            identity,
            stored,
            driver,
            transfers,
            thread=thread,
            clock=clock,
            rng=rng,
            on_come=self.controller.attach,
        )

    def begin(self) -> list[Coroutine[None, None, None]]:
        """Go by the map that is known; returns the work that is to be owned."""
        membership = self._membership
        if membership.shard_map is not None:
            self.follow(membership.shard_map)
        membership.maps.on_map = self.follow
        membership.maps.on_reports = self.controller.take
        self._handshake.is_removed = self._is_removed
        for host in self._driver.hosts.values():
            self.controller.attach(host)
        return [
            self.controller.run(),
            self._holdings.run(),
            self._reshaper.run(),
            keep_rejoining(self._rejoin),
        ]

    def follow(self, shard_map: ShardMap) -> None:
        """Go by ``shard_map`` from now on."""
        self._nodes.learn(shard_map.nodes_by_number())
        near = shard_map.neighbours(self._own) | self._fellows()
        # Who may come in must be known before anybody is dialled.
        self._handshake.set_members({*(node.id for node in shard_map.nodes), *near})
        there = shard_map.addresses(self._configured)
        self._peers.set_peers({node: there[node] for node in sorted(near & there.keys())})
        for node in self._connected_since.keys() - self._peers.peers.keys():
            del self._connected_since[node]
        self._membership.go_by(shard_map)
        self._holdings.follow(shard_map)

    def _fellows(self) -> set[NodeId]:
        """Who is in a group with this node, also where the map is ahead of the group."""
        found = {
            host.replicas.get(replica)
            for host in self._driver.hosts.values()
            for replica in members(host.core.config)
        }
        return {node for node in found if node is not None and node != self._own}

    def _life_of(self, node: NodeId) -> int | None:
        """The life of the data of a node, None while it is not connected."""
        if node == self._own:
            return self._own_life
        return self._handshake.life_of(node) if node in self._connected_since else None

    def _is_removed(self, node: NodeId) -> bool:
        shard_map = self._membership.shard_map
        is_out = shard_map is not None and node in shard_map.removed
        return is_out or self._membership.is_removed(node)
