"""The network between nodes: what is lost, late, doubled, overtaken, cut off.

Two kinds, as the seed draws. A *stream* is what TCP gives: a lane keeps its order, and what
was under way when either end died is gone. *Datagrams* are unkinder than TCP can be: messages
overtake each other, come twice, and reach a process that was started after they were sent.
The protocol must bear both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.wire.frames import HEADER_BYTES
from kvstore.wire.raft_codec import decode_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvstore.ids import NodeId
    from kvstore.net.transport import Lane
    from sim.node import SimNode
    from sim.world import World


@dataclass
class Weather:
    """How messages fare; all zero for a perfect network."""

    is_stream: bool = True
    loss: float = 0.0
    duplication: float = 0.0
    delay_s_max: float = 0.002
    slow_share: float = 0.0
    """Messages that take up to a hundred times as long."""


class Network:
    """Carries frames between nodes, and requests and replies of clients."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.nodes: dict[NodeId, SimNode] = {}
        self._cut: set[tuple[str, str]] = set()
        self._busy_until: dict[tuple[NodeId, NodeId, Lane], float] = {}
        self.frames_lost = 0

    # -- partitions -------------------------------------------------------------------------

    def cut(self, links: Iterable[tuple[str, str]]) -> None:
        """Nothing passes from the first to the second of each pair any more."""
        self._cut |= set(links)

    def heal(self) -> None:
        self._cut.clear()

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut

    # -- between nodes ----------------------------------------------------------------------

    def send(self, source: SimNode, target: NodeId, lane: Lane, frame: bytes) -> bool:
        """As :class:`kvstore.net.transport.PeerTransport` has it."""
        weather, rng = self.weather, self.world.rng
        if self.is_cut(source.id, target) or rng.random() < weather.loss:
            self.frames_lost += 1
            if weather.is_stream and rng.random() < 0.5:
                source.later(0.01, lambda: source.driver.messages_dropped(target))
            return True
        for _ in range(2 if rng.random() < weather.duplication else 1):
            arrives_at = self.world.now + self.delay_s()
            if weather.is_stream:
                link = source.id, target, lane
                arrives_at = max(arrives_at, self._busy_until.get(link, 0.0))
                self._busy_until[link] = arrives_at
            self.world.at(arrives_at, self._arrival(source, target, frame))
        return True

    def delay_s(self) -> float:
        weather, rng = self.weather, self.world.rng
        slow = 100.0 if weather.slow_share and rng.random() < weather.slow_share else 1.0
        return rng.random() * weather.delay_s_max * slow

    def _arrival(self, source: SimNode, target: NodeId, frame: bytes) -> Callable[[], None]:
        """What happens when ``frame`` reaches the other end, if it does."""
        node = self.nodes[target]
        lives = source.life, node.life

        def arrive() -> None:
            if not node.is_up or self.is_cut(source.id, target):
                return
            if not self.weather.is_stream or lives == (source.life, node.life):
                node.later(0.0, lambda: self._receive(node, source.id, frame[HEADER_BYTES:]))

        return arrive

    def _receive(self, node: SimNode, source: NodeId, body: bytes) -> None:
        messages = decode_messages(body)
        if self.world.tracing:
            for _, message in messages:
                self.world.note(node.id, f"<- {source} {message}")
        node.checks.received(messages)
        node.driver.receive(source, messages)

    # -- news of each other -------------------------------------------------------------------

    def news_of(self, node: SimNode, *, is_dead: bool, share: float) -> None:
        """Some of the others notice that a process died, or is back."""
        for other in self.nodes.values():
            if other is node or not other.is_up or self.world.rng.random() >= share:
                continue
            if self.is_cut(node.id, other.id) or self.is_cut(other.id, node.id):
                continue
            other.later(0.005 * self.world.rng.random(), _telling(other, node.id, is_dead))


def _telling(node: SimNode, about: NodeId, is_dead: bool) -> Callable[[], None]:
    if is_dead:
        return lambda: node.driver.peer_gone(about)
    return lambda: node.driver.peer_connected(about)
