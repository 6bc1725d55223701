"""One core alone, the other members played by the test: every message in and out is named."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, TypeVar

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.claims import Claim, Metadata, State, Vitals
from kvstore.swim.core import SwimCore
from kvstore.swim.messages import Ack, Gossip, Nack, Ping, PingRequest, PushPull, Row, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.config import SwimConfig
    from kvstore.swim.messages import Message
    from kvstore.swim.ready import Event, EventKind, MemberStatus, Outgoing

A, B, C, D, E, F = map(NodeId, "abcdef")
M = TypeVar("M")

QUIET = dataclasses.replace(PROFILES["lan"], push_pull_interval_s=1e6, reconnect_interval_s=1e6)
"""Nothing is said but what the test is about: probes and news."""


def metadata(node: NodeId, life: int = 1) -> Metadata:
    """What ``node`` says of itself; in another life, of another address."""
    return Metadata(f"{node}:{life}")


def claim(
    node: NodeId,
    state: State = State.ALIVE,
    incarnation: int = 1,
    accuser: NodeId | None = None,
    *,
    life: int = 1,
) -> Claim:
    return Claim(node, state, incarnation, metadata(node, life), accuser)


def sender(node: NodeId, incarnation: int = 1, *, life: int = 1, beat: int = 0) -> Sender:
    return Sender(node, metadata(node, life).address, incarnation, Vitals(beat))


def gossip(source: NodeId, *claims: Claim) -> Gossip:
    return Gossip(sender(source), claims)


def ping(source: NodeId, sequence: int = 1, target: NodeId = A, incarnation: int = 1) -> Ping:
    return Ping(sender(source, incarnation), sequence, target)


def push_pull(
    source: NodeId, *claims: Claim, is_reply: bool = False, age_s: float = 0.0
) -> PushPull:
    rows = tuple(Row(said, age_s, Vitals(), 0) for said in claims)
    return PushPull(sender(source), is_reply, rows)


class Solo:
    """The core of ``a``, which knows ``others`` for alive, and its clock."""

    def __init__(
        self,
        *others: NodeId,
        config: SwimConfig = QUIET,
        incarnation: int = 1,
        seeds: tuple[str, ...] = (),
        known: Iterable[tuple[Claim, float]] = (),
        said: Metadata | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 100.0
        self.config = config
        self.silent: set[NodeId] = set()
        """Who answers no pings."""
        self.outbox: list[Outgoing] = []
        self.events: list[Event] = []
        self.core = SwimCore(
            A,
            said or metadata(A),
            incarnation=incarnation,
            seeds=seeds,
            known=[*((claim(other), 0.0) for other in others), *known],
            config=config,
            rng=random.Random(seed),
            now=self.now,
        )
        self.drain()
        self.events.clear()

    def drain(self) -> None:
        ready = self.core.ready()
        self.outbox += ready.messages
        self.events += ready.events

    def step(self, *messages: Message) -> None:
        for message in messages:
            self.core.step(message, self.now)
        self.drain()

    def hint(self, node: NodeId, *, is_gone: bool = False) -> None:
        self.core.hint(node, self.now, is_gone=is_gone)
        self.drain()

    def leave(self) -> None:
        self.core.leave(self.now)
        self.drain()

    def tick(self) -> None:
        self.core.tick(self.now)
        self.drain()

    def wait(self, seconds: float) -> None:
        """So much time passes: the core ticks when it wants to, and pings are answered."""
        end = self.now + seconds
        while self.core.deadline() <= end:
            self.now = max(self.now, self.core.deadline())
            before = len(self.outbox)
            self.tick()
            for sent in self.outbox[before:]:
                if isinstance(sent.message, Ping) and sent.message.target not in self.silent:
                    self.answer(sent)
        self.now = end

    def wait_for(self, kind: type[M], seconds: float = 20.0) -> tuple[Outgoing, M]:
        """Time passes until a message of one kind is sent: the first, and nothing after it."""
        end = self.now + seconds
        while True:
            for sent in self.outbox:
                if isinstance(sent.message, kind):
                    self.outbox.clear()
                    return sent, sent.message
            self.outbox.clear()
            self.now = max(self.now, self.core.deadline())
            assert self.now < end, f"no {kind.__name__} within {seconds:g} s"
            self.tick()

    def freeze(self, seconds: float) -> None:
        """So much time passes, and the process does not run."""
        self.now += seconds

    def take(self, kind: type[M]) -> list[M]:
        """The messages of one kind that were sent since the last time."""
        taken: list[M] = [sent.message for sent in self.outbox if isinstance(sent.message, kind)]
        self.outbox = [sent for sent in self.outbox if not isinstance(sent.message, kind)]
        return taken

    def said_of(self, node: NodeId) -> list[Claim]:
        """The claims about ``node`` in all that was sent since the last time; forgets the rest."""
        messages = [sent.message for sent in self.outbox]
        self.outbox.clear()
        news = [m.claims for m in messages if isinstance(m, Ping | Ack | PingRequest | Gossip)]
        return [said for claims in news for said in claims if said.node == node]

    def happened(self) -> list[tuple[EventKind, NodeId]]:
        """The events since the last time."""
        events, self.events = self.events, []
        return [(event.kind, event.node) for event in events]

    def view(self) -> dict[NodeId, MemberStatus]:
        return {status.node: status for status in self.core.members(self.now)}

    def state(self, node: NodeId) -> State | None:
        status = self.core.member(node, self.now)
        return None if status is None else status.state

    def answer(self, sent: Outgoing) -> None:
        """Whoever was pinged answers."""
        assert isinstance(sent.message, Ping)
        self.step(Ack(sender(sent.message.target), sent.message.sequence))

    def nack(self, request: PingRequest, helper: NodeId) -> None:
        self.step(Nack(sender(helper), request.sequence))

    def is_suspected(self, *nodes: NodeId, by: NodeId = B, incarnation: int = 1) -> None:
        """``by`` says so."""
        suspects = [claim(node, State.SUSPECT, incarnation, by) for node in nodes]
        self.step(gossip(by, *suspects))
