"""What a node says of itself and of the cluster, as far as it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvstore.errors import Unavailable
from kvstore.hlc import revision_at
from kvstore.server import status
from kvstore.sharding import map_wire
from kvstore.wire.requests import encode_shard_map_reply, encode_status_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.config import NodeConfig
    from kvstore.ids import GroupId, NodeId
    from kvstore.server.raft_driver import RaftDriver
    from kvstore.sharding.shard_map import ShardMap


class Answers:
    """Made of what is so at the moment of the question."""

    def __init__(
        self,
        config: NodeConfig,
        driver: RaftDriver,
        shard_map: Callable[[], ShardMap | None],
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        loop: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Speak for the node of ``driver``.

        Args:
            config: The node's.
            driver: Of its groups.
            shard_map: The newest that it knows, None for none.
            clock: Steady seconds; the node counts as up since now.
            wall_ms: The date.
            loop: What is known of the event loop's stalls, as ``Pulse.to_map`` gives it.
        """
        self._config = config
        self._driver = driver
        self._shard_map = shard_map
        self._clock = clock
        self._wall_ms = wall_ms
        self._loop = loop
        self._started_at = clock()

    def shard_map_reply(self) -> bytes:
        """Who holds and who leads what.

        Raises:
            Unavailable: the node does not know yet.
        """
        shard_map = self._shard_map()
        if shard_map is None:
            raise Unavailable("the node joins, and has not yet heard which node has which shards")
        seen = shard_map.seen_from(self._config.cluster.addresses)
        shards = [host for host in self._driver.hosts.values() if not host.is_meta]
        leaders = status.known_leaders(shards)
        return encode_shard_map_reply(map_wire.encode(seen), leaders, revision_at(self._wall_ms()))

    def status_reply(self) -> bytes:
        """How each replica here is doing."""
        now = self._clock()
        return encode_status_reply(
            status.node_status(
                self._config.address,
                self._driver.hosts.values(),
                uptime_s=now - self._started_at,
                now=now,
                loop=self._loop(),
            )
        )

    def preferred(self, group: GroupId) -> NodeId | None:
        """The node that should lead ``group``; None if that does not matter, or not now.

        Whoever is about to lose its replica is given nothing to lead.
        """
        shard_map = self._shard_map()
        if shard_map is None or not 0 < group <= shard_map.shards:
            return None
        first, change = shard_map.members(group)[0], shard_map.change_of(group)
        return None if change is not None and change.remove == first else first.node
