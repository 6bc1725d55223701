"""What can be said of a member, and which of two sayings wins (SWIM section 4.2).

A claim says that a member is in a state, in one of its incarnations. Only the member itself
begins a new incarnation: when it starts, when it hears of a suspicion against it, when what
it says of itself changes. Claims about one member are totally ordered by :func:`precedence`,
and everybody keeps the highest that they heard. So it does not matter in which order, how
often or through whom news comes: all who heard the same hold the same. That is also why every
claim carries what the member says of itself, which is the same throughout an incarnation: else
whoever hears of a suspicion first would never learn where the suspect listens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from kvstore.ids import NodeId

INCARNATION_MAX: Final = 1 << 32
INCARNATION_JUMP_MAX: Final = 1 << 20
"""A claim further ahead of what the member itself has told is absurd: nobody restarts so often.
It is refused, for whoever is claimed to have reached the end could never again speak for itself."""
METADATA_BYTES_MAX: Final = 600
"""Of all that a member says of itself, for it travels in news and in every exchange of views."""


class State(IntEnum):
    """Ordered: of two claims about one incarnation the higher state wins."""

    ALIVE = 0
    SUSPECT = 1
    """Some member could not reach it; it has time to refute."""
    DEAD = 2
    """It did not."""
    LEFT = 3
    """It said goodbye: only ever claimed by the member itself."""
    REMOVED = 4
    """It was expelled for good: stands above every incarnation."""

    @property
    def is_active(self) -> bool:
        """Whether the member takes part: it is probed and counted."""
        return self <= State.SUSPECT


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a member says of itself; the same throughout an incarnation."""

    address: str
    """``host:port`` at which it listens."""
    zone: str = ""
    weight: float = 1.0
    software: str = ""

    @property
    def size_bytes(self) -> int:
        """Of its texts; at most ``METADATA_BYTES_MAX``, or it is not let in."""
        return sum(len(text.encode()) for text in (self.address, self.zone, self.software))


@dataclass(frozen=True, slots=True)
class Vitals:
    """What changes while a member lives; heard from itself, or passed on with the view."""

    beat: int = 0
    """Rises with every change; the highest of the highest incarnation is the newest."""
    map_version: int = 0
    """Of the shard map that it has; 0 = none yet."""
    load: float = 0.0
    """Processor cores that it uses."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Invariant: ``metadata`` is there, except of a removed one that was never met."""

    node: NodeId
    state: State
    incarnation: int
    metadata: Metadata | None = None
    accuser: NodeId | None = None
    """Who found a suspect or dead member so."""

    @property
    def precedence(self) -> tuple[bool, int, State]:
        """See :func:`precedence`."""
        return precedence(self.state, self.incarnation)

    @property
    def size_bytes(self) -> int:
        """About what it takes in a message; never less than that."""
        size = 32 + len(self.node) + len(self.accuser or "")
        return size if self.metadata is None else size + 24 + self.metadata.size_bytes


def precedence(state: State, incarnation: int) -> tuple[bool, int, State]:
    """The greater of two claims about one member is the one to believe.

    Alive in a later incarnation beats suspect, dead and left in an earlier one; in the same
    incarnation suspect beats alive, dead beats both; removed beats everything.
    """
    return state is State.REMOVED, incarnation, state
