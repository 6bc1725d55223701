"""Who is there? Probes, directly and through others (SWIM section 4.1, Lifeguard section IV-A).

A probe is a ping. Unanswered for the probe timeout, it asks a few others to ping the same member
on its behalf; unanswered by the end of its interval, it has failed and the member is suspected.
Every probe also tells of this node: a helper that could not reach the target either says so,
and if even that does not arrive, it is probably we who are slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kvstore.ids import NodeId
from kvstore.swim.messages import Ack, Message, Nack, Ping, PingRequest, Sender

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kvstore.config import SwimConfig
    from kvstore.swim.awareness import Awareness
    from kvstore.swim.view import View

NACK_SHARE: Final = 0.8
"""Of the probe timeout, after which a helper gives up: in time for the nack to arrive."""

RELAYS_MAX: Final = 1024
"""Pings on behalf of others that may be under way at once; more are not taken on."""


@dataclass(slots=True)
class _Probe:
    target: NodeId
    incarnation: int
    """The one it was in when the probe began."""
    ask_others_at: float
    ends_at: float
    is_asked: bool = False
    """Whether others were asked, if there are any."""
    helpers: set[NodeId] = field(default_factory=set)
    nacked: set[NodeId] = field(default_factory=set)


@dataclass(slots=True)
class _Relay:
    """A ping that another member asked for."""

    target: NodeId
    origin: Sender
    sequence: int
    """Its number for it."""
    nack_at: float
    ends_at: float
    is_nacked: bool = False


class Prober:
    """Invariant: each probe and relay ends with its interval, at most one probe a target."""

    def __init__(
        self,
        view: View,
        awareness: Awareness,
        send: Callable[[NodeId | None, str, Message], None],
        make_sender: Callable[[], Sender],
        *,
        config: SwimConfig,
        rng: random.Random,
    ) -> None:
        self._view = view
        self._awareness = awareness
        self._send = send
        self._sender = make_sender
        self._config = config
        self._rng = rng
        # Not from 0: an ack of an earlier life must not be taken for one of this.
        self._sequence = rng.getrandbits(32)
        self._probes: dict[int, _Probe] = {}
        self._relays: dict[int, _Relay] = {}
        self._next_at = rng.uniform(0.0, config.probe_interval_s)

    @property
    def deadline(self) -> float:
        """When to look again."""
        times = [self._next_at]
        times += [p.ends_at if p.is_asked else p.ask_others_at for p in self._probes.values()]
        times += [r.ends_at if r.is_nacked else r.nack_at for r in self._relays.values()]
        return min(times)

    def tick(self, now: float) -> None:
        """Begin, continue and end what is due."""
        for sequence, probe in list(self._probes.items()):
            if now >= probe.ends_at:
                del self._probes[sequence]
                self._failed(probe, now)
            elif now >= probe.ask_others_at and not probe.is_asked:
                self._ask_others(sequence, probe)
        for sequence, relay in list(self._relays.items()):
            if now >= relay.ends_at:
                del self._relays[sequence]
            elif now >= relay.nack_at and not relay.is_nacked:
                relay.is_nacked = True
                nack = Nack(self._sender(), relay.sequence)
                self._send(relay.origin.node, relay.origin.address, nack)
        if now >= self._next_at:
            self._next_at = now + self._awareness.scale(self._config.probe_interval_s)
            target = self._view.schedule.take()
            if target is not None:
                self.probe(target, now)

    def probe(self, target: NodeId, now: float, *, is_unreachable: bool = False) -> None:
        """Probe ``target`` now.

        Args:
            target: A member, in whatever state.
            now: Awake time.
            is_unreachable: This node cannot reach it: others are asked at once.
        """
        member = self._view.members.get(target)
        if member is None or member is self._view.own or member.metadata is None:
            return
        probe = next((p for p in self._probes.values() if p.target == target), None)
        if probe is None:
            sequence = self._next_sequence()
            timeout_s = self._awareness.scale(self._config.probe_timeout_s)
            interval_s = self._awareness.scale(self._config.probe_interval_s)
            probe = self._probes[sequence] = _Probe(
                target, member.incarnation, now + timeout_s, now + interval_s
            )
            ping = Ping(self._sender(), sequence, target, self._view.news_for(target))
            self._send(target, member.metadata.address, ping)
        if is_unreachable:
            probe.ask_others_at = now

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % (1 << 63)
        return self._sequence

    def _ask_others(self, sequence: int, probe: _Probe) -> None:
        probe.is_asked = True
        target = self._view.members.get(probe.target)
        if target is None or target.metadata is None or not target.state.is_active:
            return
        count = self._config.indirect_probes
        for helper in self._view.members.sample(self._rng, count, {probe.target}):
            assert helper.metadata is not None
            probe.helpers.add(helper.node)
            request = PingRequest(
                self._sender(),
                sequence,
                probe.target,
                target.metadata.address,
                self._view.news_for(helper.node),
            )
            self._send(helper.node, helper.metadata.address, request)

    def _failed(self, probe: _Probe, now: float) -> None:
        member = self._view.members.get(probe.target)
        if member is None or not member.state.is_active:
            return  # One of the dead was asked whether it is back; it is not.
        if member.incarnation != probe.incarnation:
            return  # It has spoken for itself since; perhaps it was dead when the ping was sent.
        # Helpers that are well answer one way or the other; without any, the failure is all
        # that there is to go by (as in memberlist).
        missed = len(probe.helpers - probe.nacked) if probe.helpers else 1
        self._awareness.worsen(missed)
        self._view.suspect(probe.target, now)

    # -- messages -----------------------------------------------------------------------------

    def pinged(self, ping: Ping) -> None:
        """Answer, if it is for us."""
        if ping.target == self._view.own.node:
            sender = ping.sender
            ack = Ack(self._sender(), ping.sequence, self._view.news_for(sender.node))
            self._send(sender.node, sender.address, ack)

    def requested(self, request: PingRequest, now: float) -> None:
        """Ping somebody on the sender's behalf."""
        if len(self._relays) >= RELAYS_MAX:
            return
        sequence = self._next_sequence()
        timeout_s = self._config.probe_timeout_s
        self._relays[sequence] = _Relay(
            request.target,
            request.sender,
            request.sequence,
            now + NACK_SHARE * timeout_s,
            now + self._config.probe_interval_s,
        )
        ping = Ping(self._sender(), sequence, request.target, self._view.news_for(request.target))
        self._send(request.target, request.target_address, ping)

    def acknowledged(self, ack: Ack) -> None:
        """Of our own probe, or one to pass on."""
        relay = self._relays.get(ack.sequence)
        if relay is not None and ack.sender.node == relay.target:
            del self._relays[ack.sequence]
            passed_on = Ack(self._sender(), relay.sequence, self._view.news_for(relay.origin.node))
            self._send(relay.origin.node, relay.origin.address, passed_on)
            return
        probe = self._probes.get(ack.sequence)
        if probe is not None and ack.sender.node in {probe.target, *probe.helpers}:
            del self._probes[ack.sequence]
            self._awareness.improve()
            if ack.sender.node == probe.target:
                self._has_answered(ack.sender)

    def _has_answered(self, sender: Sender) -> None:
        member = self._view.members.get(sender.node)
        if member is None or member.metadata is None or not member.state.is_active:
            return
        if sender.address == member.metadata.address:
            member.has_answered = True

    def refused(self, nack: Nack) -> None:
        """A helper could not reach the target in time: at least the helper reaches us."""
        probe = self._probes.get(nack.sequence)
        if probe is not None:
            probe.nacked.add(nack.sender.node)
