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

FORGOTTEN: Final = (State.DEAD, State.LEFT)
"""Who is listed for a while only. That somebody was removed is remembered for good."""


class Members:
    """Invariant: ``own`` is in the table; ``others`` are the active ones, without it."""

    def __init__(self, own: Member) -> None:
        self.own = own
        self._rows = {own.node: own}
        self._others: list[Member] | None = None
        """Kept between changes."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, node: NodeId) -> Member | None:
        """The member called ``node``, in whatever state."""
        return self._rows.get(node)

    def add(self, member: Member) -> None:
        """A member that was not there before."""
        self._rows[member.node] = member
        self._others = None

    def changed(self) -> None:
        """A member's state was changed."""
        self._others = None

    @property
    def others(self) -> list[Member]:
        """Who takes part beside us; not to be changed."""
        if self._others is None:
            own = self.own
            self._others = [m for m in self if m is not own and m.state.is_active]
        return self._others

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

    def dead(self) -> list[Member]:
        """Those who may come back without having been told to go."""
        return [member for member in self if member.state is State.DEAD]

    def forget(self, before: float) -> None:
        """Drop the dead, and those who left, if that was ``before``; the removed stay."""
        gone = [
            member.node
            for member in self
            if member.state in FORGOTTEN and member.since < before and member is not self.own
        ]
        for node in gone:
            del self._rows[node]
