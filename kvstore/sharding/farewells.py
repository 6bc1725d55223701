"""When a node that is to be removed may go: once it knows that it holds nothing any more.

A node that is in the map no more is told of no map, and falls silent as soon as it hears that it
was removed. Whatever it had not given up by then it would keep on its disk for good. So it goes
by a later version of the map than the one that took its last replica, once it is known to go by
that one. A node that is gone is not waited for, and no other for long: a removal always ends.

This is the controller's memory, not the cluster's, as in :mod:`kvstore.sharding.stalls`: whoever
leads the meta group next asks for the version that it finds, which is no earlier. Pure: the time
is given by the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.sharding.shard_map import NodeState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvstore.ids import NodeId
    from kvstore.sharding.known import Seen
    from kvstore.sharding.shard_map import ShardMap

FAREWELL_S_MAX: Final = 10.0
"""So long a node that is not found dead may take to go by the map that empties it."""


class _Mark(NamedTuple):
    """Since when a node has held nothing, as far as is known here."""

    version: int
    """Of the map that says so."""
    since: float


class Farewells:
    """Invariant: there is a mark for each node that is to go and holds nothing, by the last map."""

    def __init__(self) -> None:
        self._marks: dict[NodeId, _Mark] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._marks.clear()

    def look(self, shard_map: ShardMap, now: float) -> None:
        """See who holds nothing any more by ``shard_map``, which is committed."""
        new = _Mark(shard_map.version, now)
        self._marks = {
            node.id: self._marks.get(node.id, new)
            for node in shard_map.nodes
            if node.state is NodeState.REMOVING and not shard_map.held_by(node.id)
        }

    def over(self, seen: Mapping[NodeId, Seen], now: float) -> frozenset[NodeId]:
        """The nodes that may go: they know, or they are not waited for."""
        return frozenset(
            node for node, mark in self._marks.items() if _is_over(mark, seen.get(node), now)
        )


def _is_over(mark: _Mark, seen: Seen | None, now: float) -> bool:
    if now - mark.since >= FAREWELL_S_MAX:
        return True
    return seen is not None and (seen.gone_s > 0 or seen.map_version >= mark.version)
