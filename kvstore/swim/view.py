"""How claims change what is known (SWIM section 4.2).

The view takes claims, from whomever; keeps of each member the one of highest precedence; passes
on what was news; gives suspects their time; and speaks up when something is claimed of this
node itself that is not so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.phi import ArrivalWindow
from kvstore.swim.broadcasts import Broadcasts
from kvstore.swim.claims import (
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    Claim,
    Metadata,
    State,
)
from kvstore.swim.member import Member
from kvstore.swim.members import FORGOTTEN, MEMBERS_MAX, Members
from kvstore.swim.ready import Event, EventKind
from kvstore.swim.schedule import ProbeSchedule
from kvstore.swim.suspicion import Suspicion

if TYPE_CHECKING:
    import random

    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId
    from kvstore.swim.awareness import Awareness
    from kvstore.swim.messages import Sender


class View:
    """Invariant: what is believed of a member only gains precedence, until it is forgotten."""

    def __init__(
        self,
        own: NodeId,
        metadata: Metadata,
        incarnation: int,
        *,
        config: SwimConfig,
        awareness: Awareness,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._awareness = awareness
        self.own = Member(own, metadata, State.ALIVE, incarnation, 0.0, ArrivalWindow(1.0))
        self.members = Members(self.own)
        self.schedule = ProbeSchedule(rng)
        self.broadcasts = Broadcasts(config.retransmit_mult)
        self.broadcasts.add(self.own.claim())
        self.events: list[Event] = []
        self._suspects: dict[NodeId, Suspicion] = {}

    # -- claims come in ---------------------------------------------------------------------

    def take(self, claim: Claim, now: float, age_s: float = 0.0) -> None:
        """Believe ``claim`` if it is news, and pass it on.

        Args:
            claim: About anybody.
            now: Awake time.
            age_s: For how long whoever says so has held it.
        """
        if claim.node == self.own.node:
            self._about_us(claim, now)
            return
        member = self.members.get(claim.node)
        if self._is_absurd(claim, member):
            self._tell(EventKind.ABSURD, claim, f"incarnation {claim.incarnation}")
        elif member is None:
            self._meet(claim, now, age_s)
        elif claim.precedence > member.precedence:
            self._change(member, claim, now)
        elif claim.precedence == member.precedence:
            self._heard_again(member, claim)

    @staticmethod
    def _is_absurd(claim: Claim, member: Member | None) -> bool:
        if claim.state is State.REMOVED:
            return False
        known = INCARNATION_MAX if member is None else member.incarnation + INCARNATION_JUMP_MAX
        return claim.incarnation > min(known, INCARNATION_MAX)

    def _meet(self, claim: Claim, now: float, age_s: float) -> None:
        """Somebody of whom nothing was known."""
        if claim.metadata is None and claim.state is not State.REMOVED:
            return  # Nowhere to reach it; the exchange of views will tell more.
        if claim.state in FORGOTTEN and age_s >= self._config.forget_after_s:
            return  # We have forgotten it already, and so will whoever says so.
        if len(self.members) >= MEMBERS_MAX:
            self._tell(EventKind.CROWDED, claim, f"the view has {MEMBERS_MAX} members")
            return
        expected_s = self._config.probe_interval_s * self.members.active_count
        member = Member(claim.node, claim.metadata, State.LEFT, -1, now, ArrivalWindow(expected_s))
        self.members.add(member)
        self._change(member, claim, now)
        member.since = now - age_s

    def _heard_again(self, member: Member, claim: Claim) -> None:
        """It is known; but who says so, or what comes with it, may be news."""
        if claim.state is State.SUSPECT and member.suspicion is not None:
            if claim.accuser is not None and member.suspicion.confirm(claim.accuser):
                self.broadcasts.add(claim)
        elif claim.state is State.ALIVE and claim.metadata != member.metadata:
            self._conflict(claim, member)

    def _change(self, member: Member, claim: Claim, now: float) -> None:
        """``claim`` is what is believed of ``member`` from now on."""
        was, was_metadata = member.state, member.metadata
        is_new = member.incarnation < 0
        member.incarnation = claim.incarnation
        member.accuser = claim.accuser
        if claim.metadata is not None:
            member.metadata = claim.metadata
        if claim.state is not was or is_new:
            member.state, member.since = claim.state, now
            self._enter(member, was, now)
        self.broadcasts.add(member.claim())
        if claim.state is State.ALIVE and was is State.ALIVE:
            if member.metadata != was_metadata:
                self._tell(EventKind.UPDATED, claim)
        elif not is_new or claim.state.is_active:
            self._tell(_event_of(claim.state, was), claim)

    def _enter(self, member: Member, was: State, now: float) -> None:
        """``member`` has come into another state than ``was``."""
        self.members.changed()
        if member.state.is_active and not was.is_active:
            self.schedule.add(member.node)
        elif was.is_active and not member.state.is_active:
            self.schedule.remove(member.node)
        if member.state is State.SUSPECT:
            accuser = member.accuser or member.node
            count = self.members.active_count
            member.suspicion = Suspicion(accuser, count, self._config, now)
            self._suspects[member.node] = member.suspicion
        else:
            member.suspicion = None
            self._suspects.pop(member.node, None)
        if not member.state.is_active:
            member.arrivals.restart()

    # -- about this node itself -------------------------------------------------------------

    def _about_us(self, claim: Claim, now: float) -> None:
        own = self.own
        if own.state is not State.ALIVE:
            return  # We have left, or were told to go: there is nothing to refute.
        if claim.state is State.REMOVED:
            own.state, own.since = State.REMOVED, now
            self._tell(EventKind.REMOVED, claim)
        elif self._is_absurd(claim, own):
            self._tell(EventKind.ABSURD, claim, f"incarnation {claim.incarnation}")
        elif claim.precedence > own.precedence:
            # It was suspected, or has lived before in an incarnation that its disk forgot.
            self._refute(claim)
        elif claim.precedence == own.precedence and claim.metadata != own.metadata:
            self._conflict(claim, own)

    def _refute(self, claim: Claim) -> None:
        is_accused = claim.state in (State.SUSPECT, State.DEAD)
        if is_accused:
            self._awareness.worsen()
            self._tell(_event_of(claim.state, State.ALIVE), claim)
        elif claim.metadata is not None and claim.metadata != self.own.metadata:
            self._conflict(claim, self.own)
        self.begin_incarnation(claim.incarnation + 1)
        if is_accused:
            self._tell(EventKind.REFUTED, self.own.claim())

    def conflict_with(self, sender: Sender) -> None:
        """Somebody else speaks under our name."""
        claim = Claim(sender.node, State.ALIVE, sender.incarnation, Metadata(sender.address))
        self._conflict(claim, self.own)

    def begin_incarnation(self, incarnation: int) -> None:
        """From now on this node is in a later ``incarnation``, and says so."""
        self.own.incarnation = incarnation
        self.broadcasts.add(self.own.claim())

    def leave(self, now: float) -> None:
        """Say goodbye: whoever hears it knows that this node has not died."""
        self.own.state, self.own.since = State.LEFT, now
        self.broadcasts.add(self.own.claim())

    # -- suspects -----------------------------------------------------------------------------

    def suspect(self, node: NodeId, now: float) -> None:
        """We could not reach ``node``, in any way."""
        member = self.members.get(node)
        if member is not None and member.state.is_active:
            claim = Claim(node, State.SUSPECT, member.incarnation, accuser=self.own.node)
            self.take(claim, now)

    def expire(self, now: float) -> None:
        """Whoever has not refuted in its time is dead."""
        due = [node for node, suspicion in self._suspects.items() if suspicion.deadline <= now]
        for node in due:
            member = self.members.get(node)
            assert member is not None
            self.take(Claim(node, State.DEAD, member.incarnation, accuser=self.own.node), now)

    @property
    def suspicion_deadline(self) -> float:
        """When the next suspect's time is over."""
        return min((s.deadline for s in self._suspects.values()), default=float("inf"))

    # -- what is told -------------------------------------------------------------------------

    def news_for(self, node: NodeId | None) -> tuple[Claim, ...]:
        """The claims for one message to ``node``.

        A suspect hears first that it is one, so that it can refute (Lifeguard section IV-C); so
        do those who are counted as gone.
        """
        first = None
        if self._config.buddy and node is not None:
            member = self.members.get(node)
            if member is not None and member.state is not State.ALIVE:
                first = member.claim()
        return self.broadcasts.take(
            self._config.piggyback_bytes_max, self.members.active_count, first
        )

    def _conflict(self, claim: Claim, known: Member) -> None:
        assert claim.metadata is not None
        here = known.metadata.address if known.metadata else "nowhere"
        self._tell(EventKind.CONFLICT, claim, f"at {here} and at {claim.metadata.address}")

    def _tell(self, kind: EventKind, claim: Claim, detail: str = "") -> None:
        self.events.append(Event(kind, claim.node, claim.incarnation, claim.accuser, detail))


def _event_of(state: State, was: State) -> EventKind:
    """What to call the change from ``was`` to ``state``."""
    match state:
        case State.ALIVE:
            return EventKind.REFUTED if was is State.SUSPECT else EventKind.JOINED
        case State.SUSPECT:
            return EventKind.SUSPECTED
        case State.DEAD:
            return EventKind.DIED
        case State.LEFT:
            return EventKind.LEFT
        case State.REMOVED:
            return EventKind.REMOVED
