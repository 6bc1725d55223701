"""The membership of one node: messages and time in, messages and events out.

Pure, as :mod:`kvstore.raft.core` is. ``step``, ``tick``, ``hint``, ``leave`` change the view;
``ready`` hands over what to send and what has happened; ``deadline`` says when to tick. Time is
a steady clock of the caller, in seconds; see :mod:`kvstore.swim.awake` for what is made of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvstore.swim.awake import AwakeClock
from kvstore.swim.awareness import Awareness
from kvstore.swim.claims import METADATA_BYTES_MAX, Claim, State, Vitals
from kvstore.swim.exchange import Exchange
from kvstore.swim.messages import (
    Ack,
    Gossip,
    Message,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Sender,
)
from kvstore.swim.prober import Prober
from kvstore.swim.ready import MemberStatus, Outgoing, Ready
from kvstore.swim.view import View

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId
    from kvstore.swim.claims import Metadata
    from kvstore.swim.member import Member


class SwimCore:
    """Invariant: whatever comes in, only this node begins its own incarnations."""

    def __init__(
        self,
        own: NodeId,
        metadata: Metadata,
        *,
        incarnation: int,
        seeds: tuple[str, ...],
        known: Iterable[tuple[Claim, float]] = (),
        config: SwimConfig,
        rng: random.Random,
        now: float,
    ) -> None:
        """Begin as a member that knows only what it knew before.

        Args:
            own: This node.
            metadata: What it says of itself.
            incarnation: Higher than in any earlier life, if the disk remembers.
            seeds: Addresses (``host:port``) to ask while nobody else is known.
            known: Members of an earlier life's view, each with its age in seconds.
            config: The knobs.
            rng: For whom to probe and to tell.
            now: The caller's clock.

        Raises:
            ValueError: the metadata is too long; nobody would let this node in.
        """
        if metadata.size_bytes > METADATA_BYTES_MAX:
            raise ValueError(f"metadata of {metadata.size_bytes} bytes")
        self._clock = AwakeClock(config.late_s_max, now)
        self._awareness = Awareness(config.awareness_max)
        self._view = View(
            own, metadata, incarnation, config=config, awareness=self._awareness, rng=rng
        )
        for claim, age_s in known:
            self._view.take(claim, self._clock.now, age_s, is_joining=True)
        self._vitals = Vitals()
        self._messages: list[Outgoing] = []
        self._prober = Prober(
            self._view, self._awareness, self._send, self._sender, config=config, rng=rng
        )
        self._exchange = Exchange(
            self._view,
            self._prober,
            self._send,
            self._sender,
            seeds=seeds,
            config=config,
            rng=rng,
        )

    # -- what comes in ------------------------------------------------------------------------

    def step(self, message: Message, now: float) -> None:
        """Take one message."""
        awake = self._advance(now)
        if not self._listens_to(message.sender):
            return
        match message:
            case PushPull():
                self._exchange.exchanged(message, awake)
            case Nack():
                self._prober.refused(message)
            case Ping() | Ack() | PingRequest() | Gossip():
                for claim in message.claims:
                    self._view.hear(claim, awake)
                self._answer(message, awake)
        self._heard(message.sender, awake)

    def _listens_to(self, sender: Sender) -> bool:
        view = self._view
        if view.own.state is State.REMOVED:
            return False
        if sender.node == view.own.node:
            view.spoken_to_by_own_name(sender)
            return False
        member = view.members.get(sender.node)
        if member is not None and member.state is State.REMOVED:
            gossip = Gossip(self._sender(), (member.claim(),))
            self._send(sender.node, sender.address, gossip)
            return False
        return True

    def _answer(self, message: Ping | Ack | PingRequest | Gossip, now: float) -> None:
        match message:
            case Ping():
                self._prober.pinged(message)
            case Ack():
                self._prober.acknowledged(message)
            case PingRequest():
                self._prober.requested(message, now)
            case Gossip():
                pass

    def _heard(self, sender: Sender, now: float) -> None:
        """What it means that ``sender`` speaks at all, beside what it has just said."""
        member = self._view.members.get(sender.node)
        if member is not None and sender.incarnation >= member.incarnation:
            member.arrivals.arrived(now)
            member.told = max(member.told, member.incarnation)
            member.learn(sender.vitals, sender.incarnation)
        if member is None or member.state is State.DEAD or member.incarnation != sender.incarnation:
            self._exchange.missed_news_of(sender, now)

    def tick(self, now: float) -> None:
        """Look at the timers; call it at :meth:`deadline` at the latest."""
        awake = self._advance(now)
        if self._clock.is_still:
            return  # We have slept; what has come in meanwhile is read first.
        if self._view.own.state.is_active:
            self._prober.tick(awake)
            self._view.expire(awake)
        if self._view.own.state is not State.REMOVED:
            self._exchange.tick(awake)

    def hint(self, node: NodeId, now: float, *, is_gone: bool = False) -> None:
        """A connection to ``node`` was closed, or refused (``is_gone``): see whether it lives."""
        member = self._view.members.get(node)
        is_expected = member is not None and member.state.is_active
        if is_expected and self._view.own.state.is_active:
            self._prober.probe(node, self._advance(now), is_unreachable=is_gone)

    def greet(self, node: NodeId, address: str, now: float) -> None:
        """A connection to ``node`` stands: exchange views, unless it takes part already."""
        member = self._view.members.get(node)
        is_expected = member is None or not member.state.is_active
        if is_expected and self._view.own.state.is_active:
            self._exchange.greet(node, address, self._advance(now))

    def expect(self, nodes: Iterable[NodeId]) -> None:
        """These are in the shard map: of others not too many are kept."""
        self._view.members.expected = frozenset(nodes)

    def set_vitals(self, map_version: int, load: float) -> None:
        """What to tell of this node from now on."""
        vitals = Vitals(self._vitals.beat + 1, map_version, load)
        self._vitals = vitals
        self._view.own.learn(vitals, self._view.own.incarnation)

    def leave(self, now: float) -> None:
        """Say goodbye; nothing but that is said from now on."""
        awake = self._advance(now)
        if self._view.own.state.is_active:
            self._view.leave(awake)
            self._exchange.leave()

    def remove(self, node: NodeId, now: float) -> None:
        """Expel ``node`` for good: whatever it or others say of it later, it stays removed.

        Only whoever goes by the shard map may decide so, as what others claim does not count. If
        it is this node, it falls silent.
        """
        awake = self._advance(now)
        member = self._view.members.get(node)
        incarnation = 0 if member is None else member.incarnation
        own = self._view.own.node
        accuser = None if node == own else own
        claim = Claim(node, State.REMOVED, incarnation, accuser=accuser)
        self._view.take(claim, awake)

    def _advance(self, now: float) -> float:
        slept_s = self._clock.advance(now, self._deadline())
        if slept_s > 0.0:
            self._awareness.worsen()
        return self._clock.now

    # -- what goes out ------------------------------------------------------------------------

    def ready(self) -> Ready:
        """Everything that has come up since the last call."""
        messages, self._messages = tuple(self._messages), []
        events, self._view.events = tuple(self._view.events), []
        return Ready(messages, events)

    def deadline(self) -> float:
        """When to tick, by the caller's clock."""
        return self._clock.outside(self._deadline())

    def _deadline(self) -> float:
        state = self._view.own.state
        if state is State.REMOVED:
            return math.inf
        if not state.is_active:
            return self._exchange.deadline
        return min(self._prober.deadline, self._exchange.deadline, self._view.suspicion_deadline)

    @property
    def incarnation(self) -> int:
        """This node's own, to be kept on disk."""
        return self._view.own.incarnation

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell, and somebody to tell it."""
        return self._exchange.has_news

    @property
    def local_health(self) -> int:
        """0 is well; see :mod:`kvstore.swim.awareness`."""
        return self._awareness.score

    def members(self, now: float) -> list[MemberStatus]:
        """The whole view, this node first."""
        awake = self._advance(now)
        return [self._status(member, awake) for member in self._view.members]

    def member(self, node: NodeId, now: float) -> MemberStatus | None:
        """One member of the view."""
        member = self._view.members.get(node)
        return None if member is None else self._status(member, self._advance(now))

    def _status(self, member: Member, awake: float) -> MemberStatus:
        return MemberStatus(
            member.node,
            member.metadata,
            member.state,
            member.incarnation,
            max(0.0, awake - member.since),
            self._view.phi(member, awake),
            member.vitals,
            member.has_answered,
        )

    def known(self, now: float) -> list[tuple[Claim, float]]:
        """What is believed of each other member, and for how long (seconds): for the disk."""
        awake = self._advance(now)
        others = (member for member in self._view.members if member is not self._view.own)
        return [(other.claim(), max(0.0, awake - other.since)) for other in others]

    def _sender(self) -> Sender:
        own = self._view.own
        assert own.metadata is not None
        return Sender(own.node, own.metadata.address, own.incarnation, self._vitals)

    def _send(self, node: NodeId | None, address: str, message: Message) -> None:
        self._messages.append(Outgoing(node, address, message))
