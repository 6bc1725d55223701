"""The table of members, ourselves among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.swim.claims import State

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Iterator

    from kvstore.ids import NodeId
    from kvstore.swim.member import Member

MEMBERS_MAX: Final = 4096
"""Whatever comes in from the network, the table does not outgrow this."""

STRANGERS_MIN: Final = 64
STRANGERS_PER_NODE: Final = 2
"""So many members more, for each node of the shard map, may be there that are not in it: a name
costs whoever invents it nothing, and us a row and probes."""

FORGOTTEN: Final = (State.DEAD, State.LEFT)
"""Who is listed for a while only. That somebody was removed is remembered for good."""


class Members:
    """Invariant: ``own`` is in the table; ``others`` are the active ones, without it."""

    def __init__(self, own: Member) -> None:
        self.own = own
        self.others: list[Member] = []
        """Who takes part beside us, in no order; not to be changed."""
        self.expected: frozenset[NodeId] = frozenset()
        """The nodes of the shard map; empty while it is not known, and all may be of it."""
        self._rows = {own.node: own}
        self._places: dict[NodeId, int] = {}
        """Where each of ``others`` stands, so that nobody who goes must be looked for."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, node: NodeId) -> Member | None:
        """The member called ``node``, in whatever state."""
        return self._rows.get(node)

    def add(self, member: Member) -> None:
        """A member that was not there before and does not take part yet."""
        self._rows[member.node] = member

    def changed(self, member: Member) -> None:
        """Another member's state was changed."""
        place = self._places.get(member.node)
        if place is None and member.state.is_active:
            self._places[member.node] = len(self.others)
            self.others.append(member)
        elif place is not None and not member.state.is_active:
            del self._places[member.node]
            last = self.others.pop()
            if last is not member:
                self.others[place] = last
                self._places[last.node] = place

    @property
    def active_count(self) -> int:
        """N: how many take part, ourselves included."""
        return len(self.others) + 1

    def sample(
        self, rng: random.Random, count: int, without: Collection[NodeId] = ()
    ) -> list[Member]:
        """Up to ``count`` random others that take part, none of ``without``."""
        others = self.others
        # So many more are drawn as may fall away: no need to look at the whole table.
        drawn = rng.sample(others, min(len(others), count + len(without)))
        return [member for member in drawn if member.node not in without][:count]

    def gone(self, *states: State) -> list[Member]:
        """The others that are in one of ``states``."""
        return [m for m in self if m.state in states and m is not self.own]

    def forget(self, before: float) -> None:
        """Drop the dead, and those who left, if that was ``before``; the removed stay."""
        for member in [member for member in self.gone(*FORGOTTEN) if member.since < before]:
            del self._rows[member.node]

    def is_full_for(self, node: NodeId) -> bool:
        """Whether somebody would have to go for ``node``, which is not in the table."""
        return len(self) >= MEMBERS_MAX or self._is_crowded_for(node)

    def make_room(self, node: NodeId) -> bool:
        """Whether ``node`` can be added; if need be the longest gone is dropped for it."""
        if not self.is_full_for(node):
            return True
        gone = self.gone(*FORGOTTEN)
        if self._is_crowded_for(node):
            gone = [member for member in gone if self._is_stranger(member.node)]
        longest = min(gone, key=lambda member: member.since, default=None)
        if longest is None:
            return False
        del self._rows[longest.node]
        return True

    def crowd_of(self, node: NodeId) -> str:
        """Of what there are too many for ``node`` to find room, for a person."""
        if self._is_crowded_for(node):
            return f"{self._strangers_max} members that are not in the shard map"
        return f"{MEMBERS_MAX} members"

    def _is_crowded_for(self, node: NodeId) -> bool:
        """Whether ``node`` is one of too many that the shard map does not name."""
        if not self._is_stranger(node):
            return False
        # The removed come from the map, too.
        strangers = (m for m in self if m.state is not State.REMOVED and m is not self.own)
        return sum(self._is_stranger(m.node) for m in strangers) >= self._strangers_max

    def _is_stranger(self, node: NodeId) -> bool:
        return bool(self.expected) and node not in self.expected

    @property
    def _strangers_max(self) -> int:
        return STRANGERS_MIN + STRANGERS_PER_NODE * len(self.expected)
