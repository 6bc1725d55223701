"""A simulated cluster: the real cores on a simulated network, clock and processor.

One seed is one run. Messages are late, lost, or cut off; members die, begin again, and fall on
hard times (:mod:`swim_hardships`).
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swim_hardships import Ease

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.claims import Claim, Metadata, State
from kvstore.swim.core import SwimCore
from kvstore.swim.ready import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from swim_hardships import Hardship

    from kvstore.config import SwimConfig
    from kvstore.swim.messages import Message
    from kvstore.swim.ready import EventKind, MemberStatus, Outgoing


@dataclass(frozen=True, slots=True)
class Conditions:
    """How messages fare."""

    delay_s_min: float = 0.0002
    delay_s_max: float = 0.001
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An event in one member's view."""

    at: float
    by: NodeId
    event: Event


class SwimMember:
    """One life of one process."""

    def __init__(self, world: SwimWorld, core: SwimCore, node: NodeId) -> None:
        self.node = node
        self.core = core
        self.is_up = True
        self.hardship: Hardship = Ease()
        self._world = world
        self._armed_for = math.inf

    def arm(self) -> None:
        """See that it ticks in time."""
        at = self.core.deadline()
        if at < self._armed_for and self.is_up:
            self._armed_for = max(at, self._world.now)
            self._world.at(self._armed_for, self._wake, self._armed_for)

    def _wake(self, armed_for: float) -> None:
        if armed_for == self._armed_for:
            self.hardship.ticks(self)

    def tick(self) -> None:
        if self.is_up:
            self._armed_for = math.inf
            self.core.tick(self._world.now)
            self.settle()

    def receive(self, message: Message) -> None:
        if self.is_up:
            self.core.step(message, self._world.now)
            self.settle()

    def settle(self) -> None:
        """Hand over what the core has to say."""
        ready = self.core.ready()
        for outgoing in ready.messages:
            self.hardship.sends(self, outgoing)
        self._world.log += [Seen(self._world.now, self.node, event) for event in ready.events]
        self.arm()

    def send(self, outgoing: Outgoing) -> None:
        self._world.send(self.node, outgoing)

    def view(self) -> dict[NodeId, MemberStatus]:
        return {status.node: status for status in self.core.members(self._world.now)}


class SwimWorld:
    """Events run one by one, in the order of their time; equal times in the order of asking."""

    def __init__(
        self,
        seed: int,
        members: int = 0,
        *,
        config: SwimConfig = PROFILES["lan"],
        conditions: Conditions = Conditions(),
    ) -> None:
        """A cluster of so many that know each other already."""
        self.rng = random.Random(seed)
        self.now = 0.0
        self.config = config
        self.conditions = conditions
        self.members: dict[NodeId, SwimMember] = {}
        """By name, the living and the dead; each in its last life."""
        self.log: list[Seen] = []
        self.on_sent: Callable[[Message], None] | None = None
        self.cuts: set[tuple[NodeId, NodeId]] = set()
        """Nothing passes from the first to the second."""
        self._island: dict[NodeId, int] = {}
        self._queue: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._asked = 0
        names = [NodeId(f"n{number}") for number in range(members)]
        known = [(alive(name), 0.0) for name in names]
        for name in names:
            self.start(name, known=known)

    # -- time -----------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[Any], None], argument: Any) -> None:
        self._asked += 1
        heapq.heappush(self._queue, (when, self._asked, action, argument))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end, queue = self.now + seconds, self._queue
        while queue and queue[0][0] <= end:
            self.now, _, action, argument = heapq.heappop(queue)
            action(argument)
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float, step_s: float = 0.1) -> None:
        """Let time pass until ``condition`` holds, which is looked at every ``step_s``.

        Raises:
            AssertionError: it does not within ``seconds``.
        """
        end = self.now + seconds
        while not condition():
            assert self.now < end, f"not within {seconds:g} s"
            self.run(step_s)

    # -- processes ------------------------------------------------------------------------------

    def start(
        self,
        node: NodeId,
        *,
        seeds: Sequence[NodeId] = (),
        incarnation: int = 1,
        known: Iterable[tuple[Claim, float]] = (),
        address: str = "",
    ) -> SwimMember:
        """A process begins; by default with no memory and alone."""
        core = SwimCore(
            node,
            Metadata(address or address_of(node)),
            incarnation=incarnation,
            seeds=tuple(map(address_of, seeds)),
            known=known,
            config=self.config,
            rng=random.Random(self.rng.getrandbits(64)),
            now=self.now,
        )
        member = self.members[node] = SwimMember(self, core, node)
        member.settle()
        return member

    def restart(self, node: NodeId) -> SwimMember:
        """The process begins again, with all that its disk could remember."""
        core = self.members[node].core
        return self.start(node, incarnation=core.incarnation + 1, known=core.known(self.now))

    def kill(self, node: NodeId) -> None:
        self.members[node].is_up = False

    @property
    def living(self) -> list[SwimMember]:
        return [member for member in self.members.values() if member.is_up]

    # -- network --------------------------------------------------------------------------------

    def send(self, source: NodeId, outgoing: Outgoing) -> None:
        if self.on_sent is not None:
            self.on_sent(outgoing.message)
        target = node_at(outgoing.address)
        conditions, rng = self.conditions, self.rng
        if self._is_cut(source, target) or (conditions.loss and rng.random() < conditions.loss):
            return
        delay_s = rng.uniform(conditions.delay_s_min, conditions.delay_s_max)
        self.at(self.now + delay_s, self._deliver, (target, outgoing.message))

    def _deliver(self, arrival: tuple[NodeId, Message]) -> None:
        target, message = arrival
        member = self.members.get(target)
        if member is not None:
            member.hardship.receives(member, message)

    def _is_cut(self, source: NodeId, target: NodeId) -> bool:
        island = self._island
        return (source, target) in self.cuts or island.get(source, 0) != island.get(target, 0)

    def part(self, *islands: Collection[NodeId]) -> None:
        """Only members of one island hear each other; those not named are one, too."""
        self._island = {
            node: number for number, island in enumerate(islands, start=1) for node in island
        }

    def heal(self) -> None:
        self._island = {}
        self.cuts.clear()

    # -- what is seen ---------------------------------------------------------------------------

    def agree(self) -> bool:
        """Whether all who live have each other, and nobody else, for alive and no suspect."""
        names = {member.node for member in self.living}
        return all(
            {node for node, status in member.view().items() if status.state is State.ALIVE} == names
            for member in self.living
        )

    def states_of(self, node: NodeId) -> set[State | None]:
        """What those who live believe of ``node``."""
        seen = [m.core.member(node, self.now) for m in self.living if m.node != node]
        return {None if status is None else status.state for status in seen}

    def seen(self, kind: EventKind, node: NodeId | None = None) -> list[Seen]:
        """The events of one kind, about ``node`` if given."""
        return [
            seen for seen in self.log if seen.event.kind is kind and node in (None, seen.event.node)
        ]


def address_of(node: NodeId) -> str:
    """Where a simulated node listens."""
    return f"{node}:1"


def node_at(address: str) -> NodeId:
    """Who listens there."""
    return NodeId(address.removesuffix(":1"))


def alive(node: NodeId, incarnation: int = 1) -> Claim:
    """What a simulated node says of itself."""
    return Claim(node, State.ALIVE, incarnation, Metadata(address_of(node)))
