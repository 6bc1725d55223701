"""One member as this node sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvstore.ids import NodeId
from kvstore.phi import ArrivalWindow
from kvstore.swim.claims import Claim, Metadata, State, Vitals, precedence
from kvstore.swim.suspicion import Suspicion

NO_VITALS: Final = Vitals()


@dataclass(slots=True)
class Member:
    """Invariant: ``suspicion`` is set exactly while another member's state is ``SUSPECT``."""

    node: NodeId
    metadata: Metadata | None
    state: State
    incarnation: int
    since: float
    """When it came into this state here, awake time."""
    arrivals: ArrivalWindow
    """When it was heard."""
    accuser: NodeId | None = None
    suspicion: Suspicion | None = None
    vitals: Vitals = NO_VITALS
    vitals_of: int = 0
    """The incarnation that ``vitals`` are of."""
    told: int = 0
    """The incarnation that it has told of itself, or was met in: others' claims are measured by
    this, so that however many there are they cannot carry it away."""
    has_answered: bool = False
    """A ping of this node itself, since it takes part and at the address that it says."""

    @property
    def precedence(self) -> tuple[bool, int, State]:
        """Of what is believed of it; see :mod:`kvstore.swim.claims`."""
        return precedence(self.state, self.incarnation)

    def claim(self) -> Claim:
        """What is believed of it, to be passed on."""
        return Claim(self.node, self.state, self.incarnation, self.metadata, self.accuser)

    def learn(self, vitals: Vitals, incarnation: int) -> None:
        """Keep ``vitals`` if they are newer than what is known, and of no life not heard of."""
        newest = self.vitals_of, self.vitals.beat
        if incarnation <= self.incarnation and (incarnation, vitals.beat) > newest:
            self.vitals, self.vitals_of = vitals, incarnation
