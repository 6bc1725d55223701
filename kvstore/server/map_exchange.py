"""How a node comes to know of newer shard maps, and tells others (DESIGN section 5).

The version that a member goes by travels in its gossip, and whoever has just put a newer map in
force announces it; whoever is behind asks for the map itself. What the leaders of groups report
goes the same way, to the members of the meta group.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.ids import META_GROUP
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.map_codec import decode_map, decode_news, encode_map, encode_news
from kvstore.wire.report_codec import decode_reports, encode_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvstore.ids import NodeId
    from kvstore.sharding.known import Report
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.wire.frames import Frame

log = logging.getLogger(__name__)

MAP_PULL_INTERVAL_S: Final = 0.5
MAP_PULL_AGAIN_S: Final = 5.0
"""Before a node that did not send its newer map is asked again: others may have it too."""


class Send(Protocol):
    """Takes a frame to a member, as far as its address is known."""

    def __call__(self, node: NodeId, frame: bytes, *, address: str | None = None) -> None:
        """``address`` is where it was heard from just now, if it was."""
        ...


class MapExchange:
    """Invariant: ``shard_map`` only ever gives way to one of a higher version."""

    def __init__(
        self,
        own: NodeId,
        shard_map: ShardMap | None,
        *,
        send: Send,
        tell_version: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin with ``shard_map``; None if the node joins and has none yet.

        Args:
            own: The node's name.
            shard_map: The newest that is known.
            send: Takes what is to be told.
            tell_version: Called when the version that others are to be told is another.
            clock: Steady seconds.
        """
        self.on_map: Callable[[ShardMap], None] = lambda shard_map: None
        """Told of each newer shard map; set by whoever goes by it, as is ``on_reports``."""
        self.on_reports: Callable[[list[Report]], None] = lambda reports: None
        """Told what leaders of groups tell the meta group."""
        self.shard_map = shard_map
        self._own = own
        self._send = send
        self._tell_version = tell_version
        self._clock = clock
        self._pulled: dict[NodeId, float] = {}
        """Who was asked for its map not long ago, and when."""

    @property
    def version(self) -> int:
        """Of the shard map that is known; 0 = none yet."""
        return 0 if self.shard_map is None else self.shard_map.version

    # -- what comes in ------------------------------------------------------------------------

    def receive(self, node: NodeId, frame: Frame) -> None:
        """A frame of ``node``, if it is one of this exchange's.

        Raises:
            ProtocolError: malformed.
        """
        match frame.kind:
            case Kind.MAP_PULL:
                if self.shard_map is not None:
                    body = encode_map(self.shard_map)
                    self._send(node, encode_frame(Kind.MAP, 0, body))
            case Kind.MAP:
                self._take_map(node, decode_map(frame.body))
            case Kind.MAP_NEWS:
                self.heard(node, decode_news(frame.body))
            case Kind.REPORTS:
                self.on_reports(decode_reports(frame.body))
            case _:
                pass

    def heard(self, node: NodeId, version: int, *, address: str | None = None) -> None:
        """``node`` goes by the map of ``version``: ask for it if it is newer than ours."""
        if version <= self.version:
            return
        now = self._clock()
        self._pulled = {n: at for n, at in self._pulled.items() if now - at < MAP_PULL_AGAIN_S}
        last = max(self._pulled.values(), default=float("-inf"))
        if node not in self._pulled and now - last >= MAP_PULL_INTERVAL_S:
            self._pulled[node] = now
            self._send(node, encode_frame(Kind.MAP_PULL, 0, b""), address=address)

    def _take_map(self, node: NodeId, shard_map: ShardMap) -> None:
        if self._pulled.pop(node, None) is not None and shard_map.version > self.version:
            log.info("shard map version %d comes from %s", shard_map.version, node)
            self.take_committed(shard_map)

    def take_committed(self, shard_map: ShardMap) -> None:
        """Go by ``shard_map``, which the meta group has committed, if it is newer than ours."""
        if shard_map.version > self.version:
            self.shard_map = shard_map
            self._tell_version()
            self.on_map(shard_map)

    # -- what is told ---------------------------------------------------------------------------

    def announce(self, members: Iterable[NodeId]) -> None:
        """Tell ``members`` which map there is."""
        frame = encode_frame(Kind.MAP_NEWS, 0, encode_news(self.version))
        for node in members:
            if node != self._own:
                self._send(node, frame)

    def tell_meta(self, reports: list[Report]) -> None:
        """Tell the members of the meta group how far groups are."""
        assert self.shard_map is not None
        frame = encode_frame(Kind.REPORTS, 0, encode_reports(reports))
        to = {replica.node for replica in self.shard_map.meta}
        change = self.shard_map.change_of(META_GROUP)
        if change is not None and change.add is not None:
            to.add(change.add.node)  # It may lead the group before the map calls it a member.
        for node in sorted(to - {self._own}):
            self._send(node, frame)
        self.on_reports(reports)
