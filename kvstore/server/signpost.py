"""What a refusal adds for whoever is sent on: where the leader listens, and how new our map is.

Whoever routes by an older map may not know the node that is named. With its address the next
attempt can go there at once, and with the version the client knows that this node's map is worth
asking for (DESIGN section 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import KVError, NotLeader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvstore.ids import NodeId
    from kvstore.sharding.shard_map import ShardMap


class Signpost:
    """Invariant: ``_addresses`` are those of ``_map``."""

    def __init__(
        self, shard_map: Callable[[], ShardMap | None], configured: Mapping[NodeId, str]
    ) -> None:
        """Point by the newest map that ``shard_map`` gives.

        Args:
            shard_map: None while the node knows no map.
            configured: Addresses that count more here than those of the map.
        """
        self._shard_map = shard_map
        self._configured = configured
        self._map: ShardMap | None = None
        self._addresses: Mapping[str, str] = {}

    def complete(self, error: KVError) -> KVError:
        """``error``, which is about to leave this node."""
        if isinstance(error, NotLeader):
            self._look()
            error.map_version = 0 if self._map is None else self._map.version
            error.address = self._addresses.get(error.leader) if error.leader is not None else None
        return error

    def _look(self) -> None:
        newest = self._shard_map()
        if newest is not self._map:
            self._map = newest
            found = {} if newest is None else newest.addresses(self._configured)
            self._addresses = {str(node): address for node, address in found.items()}
