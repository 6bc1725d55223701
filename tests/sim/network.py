"""The network between nodes: what is lost, late, doubled, overtaken, cut off.

Two kinds, as the seed draws. A *stream* is what TCP gives: a lane keeps its order, what was
sent arrives even if the sender has died since, and nothing that was sent to a process reaches
the next one. *Datagrams* are unkinder than TCP can be: messages overtake each other, come
twice, and reach a process that was started after they were sent. The protocol must bear both.

A partition drops what is sent across it, or holds it until it is over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kvstore.ids import META_GROUP
from kvstore.net.transport import Lane
from kvstore.wire.frames import HEADER_BYTES, Frame, decode_header
from kvstore.wire.raft_codec import decode_messages
from kvstore.wire.swim_codec import decode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from kvstore.ids import GroupId, NodeId
    from kvstore.raft.messages import Message
    from sim.node import SimNode
    from sim.world import World

Link: TypeAlias = tuple[str, str]
"""From a node, to a node."""
Messages: TypeAlias = "Sequence[tuple[GroupId, Message]]"

HELD_MAX = 1000
"""Frames that a cut link holds, as buffers do; the rest is dropped."""


@dataclass
class Conditions:
    """How messages fare; all zero for a perfect network."""

    is_stream: bool = True
    loss: float = 0.0
    duplication: float = 0.0
    delay_s_max: float = 0.002
    slow_share: float = 0.0
    """Messages that take up to a hundred times as long."""
    copy_late_s_max: float = 0.0
    """How late the second copy of a doubled message may be, one time in three."""


class Network:
    """Carries frames between nodes, and requests and replies of clients."""

    def __init__(self, world: World, conditions: Conditions) -> None:
        self.world = world
        self.conditions = conditions
        self.nodes: dict[NodeId, SimNode] = {}
        self._cuts: Counter[Link] = Counter()
        """How many partitions cut a link."""
        self._held: dict[Link, list[Callable[[], None]]] = {}
        """What arrives once a link that holds is whole again."""
        self._busy_until: dict[tuple[NodeId, NodeId, Lane], float] = {}
        self.frames_lost = 0

    # -- partitions -------------------------------------------------------------------------

    def cut(self, links: Collection[Link], *, is_holding: bool) -> None:
        """Nothing passes from the first to the second of each pair any more."""
        in_order = sorted(links)  # They may come as a set, and are mended in this order.
        self._cuts.update(in_order)
        if is_holding:
            for link in in_order:
                self._held.setdefault(link, [])

    def mend(self, links: Iterable[Link]) -> None:
        """One partition is over."""
        for link in sorted(links):
            self._cuts[link] -= 1
            if self._cuts[link] <= 0:
                del self._cuts[link]
                for arrive in self._held.pop(link, []):
                    self.world.after(self.delay_s(), arrive)

    def heal(self) -> None:
        """All partitions are over."""
        self.mend(list(self._cuts.elements()))

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    # -- between nodes ----------------------------------------------------------------------

    def send(self, source: SimNode, target: NodeId, lane: Lane, frame: bytes) -> bool:
        """As :class:`kvstore.net.transport.PeerTransport` has it."""
        messages = decode_messages(frame[HEADER_BYTES:])
        source.checks.sent(source, messages)
        arrives = self._carry(
            source, target, lane, lambda node: self._receive(node, source.id, messages)
        )
        if not arrives and self.conditions.is_stream and self.world.rng.random() < 0.5:
            source.later(0.01, lambda: source.driver.messages_dropped(target))
        return True

    def send_swim(self, source: SimNode, target: NodeId, frame: bytes) -> None:
        """A message of the membership, on the control lane."""
        message = decode_message(frame[HEADER_BYTES:])

        def receive(node: SimNode) -> None:
            if node.member is not None:
                node.member.receive(message)

        self._carry(source, target, Lane.CONTROL, receive)

    def send_map(self, source: SimNode, target: NodeId, frame: bytes) -> None:
        """What nodes tell each other about shard maps, on the control lane."""
        if target not in self.nodes:
            return
        kind, request = decode_header(frame)
        told = Frame(kind, 0, request, frame[HEADER_BYTES:])

        def receive(node: SimNode) -> None:
            if node.moving is not None:
                node.moving.receive(source.id, told)

        self._carry(source, target, Lane.CONTROL, receive)

    def _carry(
        self, source: SimNode, target: NodeId, lane: Lane, receive: Callable[[SimNode], None]
    ) -> bool:
        """Have ``receive`` called at the target when it arrives; whether it ever may."""
        conditions, rng = self.conditions, self.world.rng
        is_held = (source.id, target) in self._held
        if (self.is_cut(source.id, target) and not is_held) or rng.random() < conditions.loss:
            self.frames_lost += 1
            return False
        if source.has_removed(target):
            return False
        copies = 2 if rng.random() < conditions.duplication else 1
        for copy in range(copies):
            arrives_at = self.world.now + self.delay_s()
            if copy and rng.random() < 1 / 3:
                arrives_at += rng.random() * conditions.copy_late_s_max
            if conditions.is_stream:
                link = source.id, target, lane
                arrives_at = max(arrives_at, self._busy_until.get(link, 0.0))
                self._busy_until[link] = arrives_at
            self.world.at(arrives_at, self._arrival(source.id, target, receive))
        return True

    def delay_s(self) -> float:
        conditions, rng = self.conditions, self.world.rng
        slow = 100.0 if conditions.slow_share and rng.random() < conditions.slow_share else 1.0
        return rng.random() * conditions.delay_s_max * slow

    def _arrival(
        self, source: NodeId, target: NodeId, receive: Callable[[SimNode], None]
    ) -> Callable[[], None]:
        """What happens when a frame reaches the other end, if it does."""
        node = self.nodes[target]
        life = node.life

        def arrive() -> None:
            if (source, target) in self._cuts:
                held = self._held.get((source, target))
                if held is not None and len(held) < HELD_MAX:
                    held.append(arrive)
                return
            if node.is_up and (not self.conditions.is_stream or life == node.life):
                node.later(0.0, welcome)

        def welcome() -> None:
            if node.has_removed(source):
                self.turn_away(node, source)
            else:
                receive(node)

        return arrive

    def _receive(self, node: SimNode, source: NodeId, messages: Messages) -> None:
        if self.world.tracing:
            for _, message in messages:
                self.world.note(node.id, f"<- {source} {message}")
        if node.is_deaf:
            messages = [told for told in messages if told[0] != META_GROUP]
        node.driver.receive(source, messages)

    def turn_away(self, node: SimNode, source: NodeId) -> None:
        """Whoever was removed is told so when it calls."""
        removed = self.nodes[source]
        if removed.is_up and removed.member is not None and not self.is_cut(node.id, source):
            removed.later(self.delay_s(), lambda: removed.be_removed())

    # -- news of each other -------------------------------------------------------------------

    def notify(self, node: SimNode, *, is_dead: bool, share: float) -> None:
        """Some of the others notice that a process died, or is back."""
        for other in self.nodes.values():
            if other is node or not other.is_up or self.world.rng.random() >= share:
                continue
            if self.is_cut(node.id, other.id) or self.is_cut(other.id, node.id):
                continue
            other.later(0.005 * self.world.rng.random(), _telling(other, node.id, is_dead))

    def introduce(self, node: SimNode, *, share: float) -> None:
        """A process that has just started connects to the others, or to most of them."""
        for other in self.nodes.values():
            if other is node or not other.is_up or self.world.rng.random() >= share:
                continue
            if not (self.is_cut(node.id, other.id) or self.is_cut(other.id, node.id)):
                node.later(0.005 * self.world.rng.random(), _telling(node, other.id, False))


def _telling(node: SimNode, about: NodeId, is_dead: bool) -> Callable[[], None]:
    if is_dead:
        return lambda: node.peer_gone(about)
    return lambda: node.peer_connected(about)
