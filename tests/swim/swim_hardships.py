"""What keeps a healthy member from keeping up.

Lifeguard was measured with *anomalies* (section V): a member is blocked for a while, runs for a
short while, is blocked again. Two kinds are played here. A :class:`Clogged` member is late with
its messages only, as in the paper: its timers fire in time, so it misses every answer. A
:class:`Starving` one gets the processor only now and then, so that its timers are late, too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from swim_world import SwimMember, SwimWorld

    from kvstore.swim.messages import Message
    from kvstore.swim.ready import Outgoing

WORK_S = 0.0001
"""Processor time to take one message, or to see to the timers."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Blocked for so long, then running for so long, and so on."""

    blocked_s: float
    runs_s: float


class Hardship(Protocol):
    """Stands between a member and the world."""

    def ticks(self, member: SwimMember) -> None:
        """A timer of the member has gone off."""
        ...

    def receives(self, member: SwimMember, message: Message) -> None:
        """A message has reached its machine."""
        ...

    def sends(self, member: SwimMember, outgoing: Outgoing) -> None:
        """It wants to send a message."""
        ...


class Ease:
    """No hardship at all."""

    def ticks(self, member: SwimMember) -> None:
        member.tick()

    def receives(self, member: SwimMember, message: Message) -> None:
        member.receive(message)

    def sends(self, member: SwimMember, outgoing: Outgoing) -> None:
        member.send(outgoing)


class Clogged(Ease):
    """While blocked, messages wait on either side of the member."""

    def __init__(self, world: SwimWorld, anomaly: Anomaly) -> None:
        """The first block begins anywhere in a cycle."""
        self._world = world
        self._anomaly = anomaly
        self._until = 0.0
        first = world.now + world.rng.uniform(0.0, anomaly.blocked_s + anomaly.runs_s)
        world.at(first, self._block, None)

    def _block(self, _: None) -> None:
        self._until = self._world.now + self._anomaly.blocked_s
        self._world.at(self._until + self._anomaly.runs_s, self._block, None)

    def receives(self, member: SwimMember, message: Message) -> None:
        self._world.at(max(self._until, self._world.now), member.receive, message)

    def sends(self, member: SwimMember, outgoing: Outgoing) -> None:
        self._world.at(max(self._until, self._world.now), member.send, outgoing)


class Starving(Ease):
    """Work waits for the next slice of the processor, and is done as far as the slice allows.

    Whether the timers or the messages are seen to first is left to chance, as it is in real
    event loops.
    """

    def __init__(self, world: SwimWorld, anomaly: Anomaly) -> None:
        """The first slice begins anywhere in a cycle."""
        self._world = world
        self._anomaly = anomaly
        self._inbox: deque[Message] = deque()
        self._is_tick_due = False
        self._is_working = False
        self._runs_until = 0.0
        first = world.now + world.rng.uniform(0.0, anomaly.blocked_s + anomaly.runs_s)
        self._next_slice_at = first

    def ticks(self, member: SwimMember) -> None:
        self._is_tick_due = True
        self._go_on(member)

    def receives(self, member: SwimMember, message: Message) -> None:
        self._inbox.append(message)
        self._go_on(member)

    def _go_on(self, member: SwimMember) -> None:
        if not self._is_working:
            self._is_working = True
            self._work(member)

    def _work(self, member: SwimMember) -> None:
        """Do one thing, now or in the next slice."""
        world = self._world
        if not (self._is_tick_due or self._inbox):
            self._is_working = False
        elif world.now >= self._runs_until:
            self._await_slice(member)
        else:
            if self._is_tick_due and (not self._inbox or world.rng.random() < 0.5):
                self._is_tick_due = False
                member.tick()
            else:
                member.receive(self._inbox.popleft())
            world.at(world.now + WORK_S, self._work, member)

    def _await_slice(self, member: SwimMember) -> None:
        cycle_s = self._anomaly.blocked_s + self._anomaly.runs_s
        while self._next_slice_at + self._anomaly.runs_s <= self._world.now:
            self._next_slice_at += cycle_s
        at = max(self._next_slice_at, self._world.now)
        self._runs_until = self._next_slice_at + self._anomaly.runs_s
        self._world.at(at, self._work, member)
