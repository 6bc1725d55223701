"""Where a simulated client looks for a shard: what it knows of the shard map, and asks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.sharding import map_wire
from kvstore.wire.frames import HEADER_BYTES, Frame, decode_header
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_shard_map_reply

if TYPE_CHECKING:
    import random

    from kvstore.ids import NodeId, ShardId
    from kvstore.sharding.shard_map import ShardMap
    from sim.network import Network

STRAY_SHARE = 0.1
"""Of the calls that go to any node, whatever the map says."""


class Route:
    """Of one client. Invariant: a map that is known only gives way to a newer one."""

    is_open = True

    def __init__(self, network: Network, *, is_needed: bool) -> None:
        """Without need any node is as good as another, for all have all shards."""
        self._network = network
        self._is_needed = is_needed
        self._shard_map: ShardMap | None = None

    def some_holder(self, shard: ShardId, rng: random.Random) -> NodeId:
        """Whom to ask first."""
        if self._shard_map is None or rng.random() < STRAY_SHARE:
            return rng.choice(list(self._network.nodes))
        return rng.choice(self._shard_map.replicas_of(shard)).node

    def refresh(self, rng: random.Random) -> None:
        """Ask any node for its map; the answer may come, or not."""
        if not self._is_needed:
            return
        node = rng.choice(list(self._network.nodes.values()))
        world = self._network.world

        def arrive() -> None:
            if node.is_up:
                frame = Frame(Kind.SHARD_MAP, 0, 1, b"")
                node.later(0.0, lambda: node.requests.handle(self, frame))

        world.after(self._network.delay_s(), arrive)

    def send(self, frame: bytes) -> bool:
        """What a node answers, as it would by a connection."""
        if decode_header(frame)[0] == Kind.REPLY:
            told = map_wire.decode(decode_shard_map_reply(frame[HEADER_BYTES:]).map)
            self._network.world.after(self._network.delay_s(), lambda: self._take(told))
        return True

    def _take(self, shard_map: ShardMap) -> None:
        if self._shard_map is None or shard_map.version > self._shard_map.version:
            self._shard_map = shard_map
