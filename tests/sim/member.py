"""The membership of a simulated node: the real core and driver, on simulated time.

It shares nodes, network and faults with the consensus, and must not disturb it: nothing that
it decides reaches a Raft core. What is checked here is what its view promises.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.server.event_log import EventLog
from kvstore.server.membership import INCARNATIONS_RESERVED
from kvstore.server.swim_driver import SwimDriver
from kvstore.storage.membership_file import Remembered
from kvstore.swim.claims import Metadata, State, precedence
from kvstore.swim.core import SwimCore
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvstore.config import SwimConfig
    from kvstore.swim.messages import Message
    from kvstore.swim.ready import MemberStatus
    from sim.node import SimNode

SAVE_S: Final = 1.0


def swim_config(time_scale: float) -> SwimConfig:
    """The profile of one machine, for a cluster that is so much slower."""
    local = PROFILES["local"]
    times = {
        name: time_scale * getattr(local, name)
        for name in (
            "probe_interval_s", "probe_timeout_s", "gossip_interval_s", "push_pull_interval_s",
            "reconnect_interval_s", "late_s_max",
        )
    }  # fmt: skip
    return replace(local, **times)


class SimMember:
    """Of one node, in one life of its process.

    Invariants, checked: what it believes of another never loses precedence; it begins in a higher
    incarnation than it has ever spoken in.
    """

    def __init__(self, node: SimNode, remembered: Remembered) -> None:
        self._node = node
        self._life = node.life
        self._seen: dict[NodeId, tuple[bool, int, State]] = {}
        others = [other for other in node.network.nodes if other != node.id]
        core = SwimCore(
            node.id,
            Metadata(address_of(node.id)),
            incarnation=remembered.incarnation + 1,
            seeds=tuple(map(address_of, others)),
            known=remembered.members,
            config=swim_config(node.swarm.time_scale),
            rng=random.Random(node.rng.random()),
            now=node.clock(),
        )
        if core.incarnation <= node.incarnation_spoken:
            raise Violation(f"{node.id} begins again in incarnation {core.incarnation}")
        events = EventLog(lambda after: b"", stream=0)
        self.driver = SwimDriver(core, self, events, clock=node.clock, wall_ms=node.wall_ms)
        self._armed_for = float("inf")
        self._save()
        self._arm()

    # -- what the driver asks for -------------------------------------------------------------

    def send(self, node: NodeId | None, address: str, frame: bytes) -> None:
        """See :class:`kvstore.server.swim_driver.Couriers`."""
        self._node.incarnation_spoken = self.driver.core.incarnation
        target = node_at(address)
        if node in (None, target):
            self._node.network.send_swim(self._node, target, frame)

    def _arm(self) -> None:
        """See that it ticks in time."""
        wait_s = max(0.001, self.driver.until_tick_s())
        at = self._node.world.now + wait_s
        if at < self._armed_for:
            self._armed_for = at
            self._node.later(wait_s, self._tick)

    def _tick(self) -> None:
        self._armed_for = float("inf")
        self.driver.tick()
        self._look()
        self._arm()

    def receive(self, message: Message) -> None:
        """From another member."""
        if self._node.life == self._life:
            self.driver.receive(message)
            if self._node.moving is not None:
                self._node.moving.heard(message.sender.node, message.sender.vitals.map_version)
            self._look()
            self._arm()

    def hint(self, gone: NodeId) -> None:
        """The process of another member is known to be dead."""
        self.driver.hint(gone, is_gone=True)
        self._arm()

    def greet(self, peer: NodeId) -> None:
        """A connection to another member stands."""
        self.driver.greet(peer, address_of(peer))
        self._arm()

    def forget(self, removed: Collection[NodeId]) -> None:
        """These were removed from the cluster."""
        for name in removed:
            if not self.has_removed(name):
                self.driver.remove(name)
        self._arm()

    def has_removed(self, name: NodeId) -> bool:
        """Whether that node was removed, as far as is known here."""
        member = self.driver.core.member(name, self._node.clock())
        return member is not None and member.state is State.REMOVED

    def leave(self) -> None:
        """The process is about to stop."""
        self.driver.core.leave(self._node.clock())
        self._tick()

    def _save(self) -> None:
        core = self.driver.core
        now = self._node.clock()
        reached = core.incarnation + INCARNATIONS_RESERVED
        self._node.remembered = Remembered(reached, 0, tuple(core.known(now)))
        self._node.later(SAVE_S, self._save)

    # -- what is checked ------------------------------------------------------------------------

    def view(self) -> dict[NodeId, MemberStatus]:
        """Whom it knows."""
        return {member.node: member for member in self.driver.core.members(self._node.clock())}

    def _look(self) -> None:
        for name, member in self.view().items():
            now = precedence(member.state, member.incarnation)
            before = self._seen.get(name, now)
            if now < before:
                raise Violation(f"{self._node.id} believed {before} of {name}, and now {now}")
            self._seen[name] = now


def address_of(node: NodeId) -> str:
    """Where a simulated node listens."""
    return f"{node}:1"


def node_at(address: str) -> NodeId:
    """The node that listens there."""
    return NodeId(address.removesuffix(":1"))


def agree(nodes: Collection[SimNode]) -> bool:
    """Whether all of ``nodes`` have each other for alive, in the same incarnations."""
    names = {node.id for node in nodes}
    views = [node.member.view() for node in nodes if node.member is not None]
    alive = [
        {name: m.incarnation for name, m in view.items() if m.state is State.ALIVE}
        for view in views
    ]
    return all(known.keys() == names and known == alive[0] for known in alive)
