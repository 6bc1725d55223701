"""What simulated clusters take: time to find a failure, load, members wronged.

Everything is counted by what the cores themselves send and report.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

from swim_hardships import Anomaly, Clogged, Starving
from swim_world import SwimWorld

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.messages import Message, PushPull
from kvstore.swim.ready import EventKind
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.swim_codec import encode_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swim_world import Seen

    from kvstore.config import SwimConfig

SETTLE_S: Final = 10.0
"""After a start or a death, until there is no news any more."""
IDLE_S: Final = 60.0
HARD_S: Final = 120.0
"""For how long members have a hard time, as in the paper."""

LIFEGUARD: Final = PROFILES["lan"]
NO_AWAKE_CLOCK: Final = dataclasses.replace(LIFEGUARD, late_s_max=math.inf)
PLAIN_SWIM: Final = dataclasses.replace(
    NO_AWAKE_CLOCK, awareness_max=0, suspicion_max_mult=1.0, buddy=False
)

ANOMALIES: Final = {
    Clogged: [Anomaly(*times) for times in ((2.048, 0.004), (8.192, 0.256), (32.768, 1.024))],
    Starving: [Anomaly(*times) for times in ((0.512, 0.001), (2.048, 0.004), (8.192, 0.004))],
}
"""Of the paper's, such that SWIM alone fails. With the processor it does only if a slice is no
longer than about a round trip: in a longer one pings are sent and answered within it."""


def size_of(message: Message) -> int:
    """The bytes of ``message`` on the wire, frame included."""
    return len(encode_frame(Kind.SWIM, 0, encode_message(message)))


@dataclass(slots=True)
class Traffic:
    """What was sent."""

    messages: int = 0
    size_bytes: int = 0
    views_bytes: int = 0
    """Of these, whole views."""

    def count(self, message: Message) -> None:
        size = size_of(message)
        self.messages += 1
        self.size_bytes += size
        if isinstance(message, PushPull):
            self.views_bytes += size


@dataclass(frozen=True, slots=True)
class Load:
    """Sent by each member in each second."""

    messages: float
    size_bytes: float
    views_bytes: float


def load_of(world: SwimWorld, seconds: float) -> Load:
    """Let so much time pass, and see what is sent in it."""
    traffic = Traffic()
    world.on_sent = traffic.count
    world.run(seconds)
    world.on_sent = None
    share = len(world.living) * seconds
    return Load(traffic.messages / share, traffic.size_bytes / share, traffic.views_bytes / share)


@dataclass(frozen=True, slots=True)
class Death:
    """How the others learned of it; seconds from the death on."""

    suspected_s: float
    """By the first."""
    all_suspect_s: float
    found_s: float
    """To be dead, by the first."""
    all_know_s: float
    load: Load
    """From the first suspicion until all knew."""


class Measured:
    """One cluster, whose members die one at a time and begin again."""

    def __init__(self, members: int, seed: int, config: SwimConfig = LIFEGUARD) -> None:
        self.config = config
        self._world = SwimWorld(seed, members, config=config)
        self._world.run(SETTLE_S)

    def idle(self) -> Load:
        return load_of(self._world, IDLE_S)

    def death(self) -> Death:
        world = self._world
        world.log.clear()
        world.run(world.rng.uniform(0.0, self.config.probe_interval_s))
        victim = world.rng.choice(world.living).node
        others = len(world.living) - 1
        world.kill(victim)
        began = world.now
        world.run_until(lambda: bool(world.seen(EventKind.SUSPECTED, victim)), 60.0)
        traffic = Traffic()
        world.on_sent = traffic.count
        suspected_at = world.now
        world.run_until(lambda: len(world.seen(EventKind.DIED, victim)) >= others, 300.0)
        world.on_sent = None
        share = others * (world.now - suspected_at)
        load = Load(
            traffic.messages / share, traffic.size_bytes / share, traffic.views_bytes / share
        )
        suspected = [seen.at - began for seen in world.seen(EventKind.SUSPECTED, victim)]
        died = [seen.at - began for seen in world.seen(EventKind.DIED, victim)]
        world.restart(victim)
        world.run(SETTLE_S)
        return Death(min(suspected), max(suspected), min(died), max(died), load)


@dataclass(frozen=True, slots=True)
class Wronged:
    """What healthy members had to bear from those that had a hard time."""

    dead: int = 0
    """Lives that somebody took for ended."""
    dead_told: int = 0
    """How many believed it, in all: the paper's FP."""
    dead_told_healthy: int = 0
    """Of these, healthy themselves: the paper's FP-."""
    suspected: int = 0
    """Lives that somebody suspected."""

    def __add__(self, other: Wronged) -> Wronged:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Wronged(*(one + another for one, another in pairs))


def wronged(
    members: int,
    suffering: int,
    hardship: type[Clogged | Starving],
    config: SwimConfig,
    seed: int,
) -> Wronged:
    """Sum over all anomalies; ``suffering`` members have each for ``HARD_S``."""
    total = Wronged()
    for anomaly in ANOMALIES[hardship]:
        world = SwimWorld(seed, members, config=config)
        world.run(SETTLE_S)
        world.log.clear()
        ill = {NodeId(f"n{number}") for number in range(suffering)}
        for name in sorted(ill):
            world.members[name].hardship = hardship(world, anomaly)
        world.run(HARD_S)
        total += _wronged(world.log, ill)
    return total


def _wronged(log: list[Seen], ill: set[NodeId]) -> Wronged:
    def of(kind: EventKind) -> Iterator[Seen]:
        return (s for s in log if s.event.kind is kind and s.event.node not in ill | {s.by})

    died = list(of(EventKind.DIED))
    return Wronged(
        dead=len({(seen.event.node, seen.event.incarnation) for seen in died}),
        dead_told=len(died),
        dead_told_healthy=sum(seen.by not in ill for seen in died),
        suspected=len({(s.event.node, s.event.incarnation) for s in of(EventKind.SUSPECTED)}),
    )


def mean_load(loads: list[Load]) -> Load:
    """Of several."""
    return Load(
        fmean(load.messages for load in loads),
        fmean(load.size_bytes for load in loads),
        fmean(load.views_bytes for load in loads),
    )
