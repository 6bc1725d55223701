"""How claims change what is known (SWIM section 4.2).

The view takes claims, from whomever; keeps of each member the one of highest precedence; passes
on what was news; gives suspects their time; and speaks up when something is claimed of this
node itself that is not so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.phi import ArrivalWindow
from kvstore.swim.broadcasts import Broadcasts
from kvstore.swim.claims import (
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    METADATA_BYTES_MAX,
    Claim,
    Metadata,
    State,
)
from kvstore.swim.member import Member
from kvstore.swim.members import FORGOTTEN, Members
from kvstore.swim.ready import Event, EventKind
from kvstore.swim.schedule import ProbeSchedule
from kvstore.swim.suspicion import Suspicion

if TYPE_CHECKING:
    import random

    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId
    from kvstore.swim.awareness import Awareness
    from kvstore.swim.messages import Sender

UNMET: Final = -1
"""The incarnation of a member before the first claim about it."""

_GONE: Final = {
    State.DEAD: EventKind.DIED,
    State.LEFT: EventKind.LEFT,
    State.REMOVED: EventKind.REMOVED,
}


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
        self.own.told, self.own.has_answered = incarnation, True
        self.members = Members(self.own)
        self.schedule = ProbeSchedule(rng)
        self.broadcasts = Broadcasts(config.retransmit_mult)
        self.broadcasts.add(self.own.claim())
        self.events: list[Event] = []
        self._suspects: dict[NodeId, Suspicion] = {}

    # -- claims come in ---------------------------------------------------------------------

    def hear(
        self, claim: Claim, now: float, age_s: float = 0.0, *, is_joining: bool = False
    ) -> None:
        """Another member claims it; see :meth:`take`.

        That somebody was removed is the shard map's to say, for it is for good: it is never
        believed because a member claims it. Who has a newer map says so in the same message.
        """
        if claim.state is not State.REMOVED:
            self.take(claim, now, age_s, is_joining=is_joining)

    def take(
        self, claim: Claim, now: float, age_s: float = 0.0, *, is_joining: bool = False
    ) -> None:
        """Believe ``claim`` if it is news, and pass it on.

        Args:
            claim: About anybody.
            now: Awake time.
            age_s: For how long whoever says so has held it.
            is_joining: Whom we meet now is known to all the others.
        """
        member = self.members.get(claim.node)
        fault = _fault_of(claim, member)
        if fault is not None:
            self._tell(EventKind.ABSURD, claim, fault)
        elif member is self.own:
            self._about_us(claim, now)
        elif member is None:
            self._meet(claim, now, age_s, is_joining=is_joining)
        elif claim.precedence > member.precedence:
            self._change(member, claim, now)
            self.broadcasts.add(member.claim())
        elif claim.precedence == member.precedence:
            self._heard_again(member, claim)

    def _meet(self, claim: Claim, now: float, age_s: float, *, is_joining: bool) -> None:
        """Somebody of whom nothing was known."""
        if claim.metadata is None and claim.state is not State.REMOVED:
            return  # Nowhere to reach it.
        is_gone = claim.state in FORGOTTEN
        if is_gone and (
            age_s >= self._config.forget_after_s or self.members.is_full_for(claim.node)
        ):
            return  # We have forgotten it already, and so will whoever says so.
        if not self.members.make_room(claim.node):
            self._tell(
                EventKind.CROWDED, claim, f"the view has {self.members.crowd_of(claim.node)}"
            )
            return
        arrivals = ArrivalWindow(self._config.probe_interval_s)
        member = Member(claim.node, None, State.LEFT, UNMET, now, arrivals, told=claim.incarnation)
        self.members.add(member)
        self._change(member, claim, now)
        member.since = now - age_s
        # News has no age. To tell of the long gone as news would keep them known for ever.
        if not is_joining and not is_gone:
            self.broadcasts.add(member.claim())

    def _heard_again(self, member: Member, claim: Claim) -> None:
        """It is known; but who says so, or what comes with it, may be news."""
        if claim.state is State.SUSPECT and member.suspicion is not None:
            if claim.accuser is not None and member.suspicion.confirm(claim.accuser):
                self.broadcasts.add(claim)
        elif claim.state is State.ALIVE and claim.metadata != member.metadata:
            self._conflict(claim, member)

    def _change(self, member: Member, claim: Claim, now: float) -> None:
        """``claim`` is what is believed of ``member`` from now on."""
        was, said, was_met = member.state, member.metadata, member.incarnation != UNMET
        member.incarnation, member.accuser = claim.incarnation, claim.accuser
        member.metadata = claim.metadata or said
        if not claim.state.is_active or member.metadata != said:
            member.has_answered = False
        if claim.state is not was:
            member.state, member.since = claim.state, now
            self.members.changed(member)
            self._reschedule(member, was)
        self._give_time(member, now)
        if was_met or claim.state.is_active:
            for kind in _kinds(claim.state, was):
                self._tell(kind, claim)
        if was.is_active and claim.state.is_active and member.metadata != said:
            self._tell(EventKind.UPDATED, claim, _described(member.metadata))

    def _reschedule(self, member: Member, was: State) -> None:
        if member.state.is_active and not was.is_active:
            self.schedule.add(member.node)
        elif was.is_active and not member.state.is_active:
            self.schedule.remove(member.node)
            member.arrivals.restart()

    def _give_time(self, member: Member, now: float) -> None:
        """A suspect may refute, anew in each incarnation; nobody else needs time."""
        member.suspicion = None
        self._suspects.pop(member.node, None)
        if member.state is State.SUSPECT:
            accuser = member.accuser or member.node
            count = self.members.active_count
            member.suspicion = Suspicion(accuser, count, self._config, now)
            self._suspects[member.node] = member.suspicion

    # -- about this node itself -------------------------------------------------------------

    def _about_us(self, claim: Claim, now: float) -> None:
        own = self.own
        if own.state is not State.ALIVE:
            return  # We have left, or were told to go: there is nothing to refute.
        if claim.state is State.REMOVED:
            own.state, own.since = State.REMOVED, now
            self._tell(EventKind.REMOVED, claim)
        elif claim.precedence > own.precedence or _is_of_another(claim, own):
            # It was suspected, or has lived before in an incarnation that its disk forgot, or
            # somebody else goes by its name.
            self._refute(claim)

    def _refute(self, claim: Claim) -> None:
        is_accused = claim.state in (State.SUSPECT, State.DEAD)
        if is_accused:
            self._awareness.worsen()
            for kind in _kinds(claim.state, State.ALIVE):
                self._tell(kind, claim)
        elif _is_of_another(claim, self.own):
            self._conflict(claim, self.own)
        self.begin_incarnation(claim.incarnation + 1)
        if is_accused:
            self._tell(EventKind.REFUTED, self.own.claim())

    def spoken_to_by_own_name(self, sender: Sender) -> None:
        """By somebody else, unless it is an echo: our own address may be among our seeds."""
        assert self.own.metadata is not None
        if sender.address != self.own.metadata.address:
            claim = Claim(sender.node, State.ALIVE, sender.incarnation, Metadata(sender.address))
            self._conflict(claim, self.own)

    def begin_incarnation(self, incarnation: int) -> None:
        """From now on this node is in a later ``incarnation``, and says so."""
        self.own.incarnation = incarnation
        self.own.told += 1
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
            self.take(self._accuse(member, State.SUSPECT), now)

    def expire(self, now: float) -> None:
        """Whoever has not refuted in its time is dead."""
        due = [node for node, suspicion in self._suspects.items() if suspicion.deadline <= now]
        for node in due:
            member = self.members.get(node)
            assert member is not None
            self.take(self._accuse(member, State.DEAD), now)

    def _accuse(self, member: Member, state: State) -> Claim:
        return Claim(member.node, state, member.incarnation, member.metadata, self.own.node)

    @property
    def suspicion_deadline(self) -> float:
        """When the next suspect's time is over."""
        return min((s.deadline for s in self._suspects.values()), default=float("inf"))

    def phi(self, member: Member, now: float) -> float:
        """How surprising the silence of ``member`` is (:mod:`kvstore.phi`); of us, it is not."""
        if member is self.own:
            return 0.0
        # It is heard when either probes the other, which each does once in a round.
        member.arrivals.expect(self._config.probe_interval_s * self.members.active_count)
        return member.arrivals.phi(now)

    # -- what is told -------------------------------------------------------------------------

    def news_for(self, node: NodeId) -> tuple[Claim, ...]:
        """The claims for one message to ``node``.

        A suspect hears first that it is one, so that it can refute (Lifeguard section IV-C); so
        do those who are counted as gone. Whoever has left says so before all else.
        """
        first = None
        member = self.members.get(node) if self._config.buddy else None
        if not self.own.state.is_active:
            first = self.own.claim()
        elif member is not None and member.state is not State.ALIVE:
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


def _fault_of(claim: Claim, known: Member | None) -> str | None:
    """What about ``claim`` cannot be so."""
    if claim.metadata is not None and claim.metadata.size_bytes > METADATA_BYTES_MAX:
        return f"{claim.metadata.size_bytes} bytes of metadata"
    reached = (0 if known is None else known.told) + INCARNATION_JUMP_MAX
    if claim.incarnation > min(reached, INCARNATION_MAX) and claim.state is not State.REMOVED:
        return f"incarnation {claim.incarnation}"
    return None


def _described(said: Metadata | None) -> str:
    """What a member says of itself, for a person."""
    if said is None:
        return ""
    zone = f", zone {said.zone}" if said.zone else ""
    software = f", version {said.software}" if said.software else ""
    return f"{said.address}{zone}, weight {said.weight:g}{software}"


def _is_of_another(claim: Claim, own: Member) -> bool:
    """Whether ``claim`` is of a member that lives under our name in an incarnation of its own."""
    return (
        claim.state is State.ALIVE
        and claim.incarnation >= own.incarnation
        and claim.metadata != own.metadata
    )


def _kinds(state: State, was: State) -> tuple[EventKind, ...]:
    """What to call the change from ``was`` to ``state``."""
    joined = () if was.is_active else (EventKind.JOINED,)
    if state is State.ALIVE:
        return (EventKind.REFUTED,) if was is State.SUSPECT else joined
    if state is State.SUSPECT:
        return *joined, EventKind.SUSPECTED
    return () if state is was else (_GONE[state],)
