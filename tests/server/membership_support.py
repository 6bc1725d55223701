"""A node's part in the membership, its clocks and couriers in the hands of a test."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kvstore.config import PROFILES, ClusterConfig, NodeAddress, NodeConfig
from kvstore.ids import NodeId
from kvstore.server.event_log import EventLog
from kvstore.server.membership import Membership
from kvstore.server.swim_driver import SwimDriver
from kvstore.sharding.shard_map import bootstrap
from kvstore.storage import membership_file
from kvstore.storage.membership_file import MEMBERSHIP_FILE, Remembered
from kvstore.swim.claims import Claim, Metadata, State, Vitals
from kvstore.swim.core import SwimCore
from kvstore.swim.messages import Gossip, Ping, Sender
from kvstore.wire.frames import Frame, FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import EventsReply, EventsRequest, decode_events_reply
from kvstore.wire.swim_codec import decode_message, encode_message

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from kvstore.config import SwimConfig
    from kvstore.errors import KVError
    from kvstore.server.membership import MemberCouriers
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.swim.messages import Message

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
WALL_MS = 1_700_000_000_000
FRAME_BYTES_MAX = 1 << 24
STREAM = 11

QUIET = dataclasses.replace(
    PROFILES["lan"],
    push_pull_interval_s=1e6,
    reconnect_interval_s=1e6,
    gossip_interval_s=0.001,
)
"""Nothing is said but probes and news."""
SILENT = dataclasses.replace(QUIET, probe_interval_s=1e6)
"""Nothing is said before there is news."""


class Clock:
    """Stands still unless it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def pass_time(clock: Clock, driver: SwimDriver, seconds: float) -> None:
    """The driver ticks as often as it wants to."""
    end = clock.now + seconds
    while (until_s := driver.until_tick_s()) <= end - clock.now:
        clock.now += until_s
        driver.tick()
    clock.now = end


@dataclass(frozen=True)
class Sent:
    node: NodeId | None
    address: str
    frame: Frame

    @property
    def message(self) -> Message:
        assert (self.frame.kind, self.frame.request) == (Kind.SWIM, 0)
        return decode_message(self.frame.body)


class FakeCouriers:
    """Keeps what was sent, and what else it was told."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.heard_at: list[str] = []
        self.drains = 0
        self.asked_under = 0
        """The number of the last question for a map."""

    def send(self, node: NodeId | None, address: str, frame: bytes) -> None:
        (decoded,) = FrameDecoder(FRAME_BYTES_MAX).feed(frame)
        if decoded.kind == Kind.MAP_PULL:
            self.asked_under = decoded.request
        self.sent.append(Sent(node, address, decoded))

    def heard(self, address: str) -> None:
        self.heard_at.append(address)

    async def drain(self) -> None:
        self.drains += 1

    def take(self, kind: Kind) -> list[Sent]:
        """The frames of one kind that were sent since the last time."""
        taken = [sent for sent in self.sent if sent.frame.kind == kind]
        self.sent = [sent for sent in self.sent if sent.frame.kind != kind]
        return taken

    def messages(self) -> list[Message]:
        """What was said to other members since the last time."""
        return [sent.message for sent in self.take(Kind.SWIM)]


class Asker:
    """Whoever asks for events: every answer it got."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.errors: list[KVError] = []
        self.is_wanted = True

    def reply(self, body: bytes) -> None:
        self.answers.append(body)

    def fail(self, error: KVError) -> None:
        self.errors.append(error)


# -- what members say -----------------------------------------------------------------------


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


def sender(node: NodeId, incarnation: int = 1, *, map_version: int = 0) -> Sender:
    return Sender(node, metadata(node).address, incarnation, Vitals(1, map_version))


def gossip(source: NodeId, *claims: Claim) -> Gossip:
    return Gossip(sender(source), claims)


def ping(source: NodeId, *, map_version: int = 0) -> Ping:
    return Ping(sender(source, map_version=map_version), 7, N1)


# -- a driver alone -------------------------------------------------------------------------


def make_events() -> EventLog:
    """A log whose answers are the numbers of the events."""

    def encode(after: int) -> bytes:
        return b" ".join(b"%d" % row.number for row in events.after(after))

    events = EventLog(encode, STREAM)
    return events


class DriverRig:
    """The driver of ``n1``, which knows others for alive."""

    def __init__(
        self,
        *others: NodeId,
        config: SwimConfig = QUIET,
        seeds: tuple[str, ...] = (),
        known: Iterable[tuple[Claim, float]] = (),
    ) -> None:
        self.clock, self.wall = Clock(1000.0), Clock(WALL_MS)
        self.couriers = FakeCouriers()
        self.events = make_events()
        self.changes = 0
        core = SwimCore(
            N1,
            metadata(N1),
            incarnation=1,
            seeds=seeds,
            known=[*((claim(other), 0.0) for other in others), *known],
            config=config,
            rng=random.Random(1),
            now=self.clock.now,
        )
        while core.has_news:  # that it has begun
            self.clock.now += config.gossip_interval_s
            core.tick(self.clock.now)
        core.ready()
        self.clock.now += config.gossip_interval_s
        self.driver = SwimDriver(
            core,
            self.couriers,
            self.events,
            clock=self.clock,
            wall_ms=lambda: int(self.wall()),
            on_changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def receive(self, *messages: Message) -> None:
        for message in messages:
            self.driver.receive(message)

    def pass_time(self, seconds: float) -> None:
        pass_time(self.clock, self.driver, seconds)

    def kinds(self) -> list[str]:
        """The events so far."""
        return [row.kind for row in self.events.after(0)]


# -- a whole membership ---------------------------------------------------------------------

CLUSTER = ClusterConfig(
    "c", tuple(NodeAddress(node, f"{node}:1", 2.0, "a") for node in (N1, N2, N3)), shards=4
)
MAP = bootstrap(CLUSTER)
NEWER = dataclasses.replace(MAP, version=2)


class MembershipRig:
    """The membership of ``n1``, which keeps its file in a directory of the test."""

    def __init__(
        self,
        data_dir: Path,
        remembered: Remembered | None = None,
        *,
        shard_map: ShardMap | None = MAP,
        wall_ms: int = WALL_MS,
    ) -> None:
        self.clock, self.wall, self.cpu = Clock(1000.0), Clock(wall_ms), Clock(0.0)
        self.couriers = FakeCouriers()
        self.path = data_dir / MEMBERSHIP_FILE
        self.membership = Membership(
            NodeConfig(N1, data_dir, CLUSTER, swim=SILENT),
            remembered or Remembered(),
            cast("MemberCouriers", self.couriers),
            shard_map,
            clock=self.clock,
            wall_ms=lambda: int(self.wall()),
            cpu_s=self.cpu,
            rng=random.Random(1),
        )

    def receive(self, *messages: Message) -> None:
        """Each from whoever it says it is of."""
        for message in messages:
            frame = Frame(Kind.SWIM, 0, 0, encode_message(message))
            self.membership.receive(message.sender.node, frame)

    def pass_time(self, seconds: float) -> None:
        """By both clocks."""
        pass_time(self.clock, self.membership.driver, seconds)
        self.wall.now += 1000 * seconds

    def events(self) -> EventsReply:
        """All that has happened, as a client is told."""
        asker = Asker()
        self.membership.ask_events(EventsRequest(0, 0, 0), asker)
        (body,) = asker.answers
        return decode_events_reply(body)

    def saved(self) -> Remembered:
        return membership_file.load(self.path)


def lines(caplog: pytest.LogCaptureFixture, logger: str = "kvstore") -> list[tuple[str, str]]:
    """What was logged since the last time: level and words."""
    said = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name.startswith(logger)
    ]
    caplog.clear()
    return said
