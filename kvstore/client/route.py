"""Who leads one shard, and whom to ask while nobody knows.

While a leader is known, everything goes there. One that hands over names its successor, and is
believed: that costs a round trip. Once the leader is lost, or knows no other, *one* request
seeks: it asks the replicas, each at most once a round, those first that were hinted at, and
pauses a few milliseconds between rounds. The answer that serves it names the leader to all the
others that wait. So an election costs a shard one small request every few milliseconds, however
many calls are waiting.

Pure: connections are seen through ``contact``.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.ids import NodeId


class Contact(Enum):
    """How a node can be reached at this moment."""

    OPEN = "open"
    OPENING = "opening"
    """A connection is being made and may stand in a moment."""
    DOWN = "down"


class Route:
    """Invariant: while seeking, ``_asked`` holds who was asked in this round."""

    def __init__(self, replicas: Sequence[NodeId]) -> None:
        self._replicas = tuple(replicas)
        self._hint: NodeId | None = None
        self._asked: set[NodeId] = set()
        self._first = 0
        self.leader: NodeId | None = None
        """The node that last served a request of this shard, or whom that has named as its
        successor; None while seeking."""

    def pick(self, contact: Callable[[NodeId], Contact]) -> NodeId | None:
        """The node for the next request of the one that seeks.

        None: wait until a connection opens, at most a pause, then :meth:`next_round`.
        """
        hint = self._hint
        if hint is not None and hint not in self._asked:
            match contact(hint):
                case Contact.OPEN:
                    return self._ask(hint)
                case Contact.OPENING:
                    return None
                case Contact.DOWN:
                    pass
        count = len(self._replicas)
        for step in range(count):
            node = self._replicas[(self._first + step) % count]
            if node not in self._asked and contact(node) is Contact.OPEN:
                return self._ask(node)
        return None

    def _ask(self, node: NodeId) -> NodeId:
        self._asked.add(node)
        return node

    def next_round(self) -> None:
        """Every node may be asked again, beginning with another one."""
        self._asked.clear()
        self._first += 1

    def served(self, node: NodeId) -> None:
        """``node`` answered as a leader does."""
        if self.leader != node or self._asked:
            self.leader = self._hint = node
            self._asked.clear()

    def refused(self, node: NodeId, hint: NodeId | None, *, is_open: bool) -> None:
        """``node`` does not lead; ``hint`` is its guess who does, connected to if ``is_open``."""
        if self.leader is not None and self.leader != node:
            return  # an answer from before the present leader was found
        led_until_now = self.leader == node
        self._doubt(node)
        if hint is None or hint == node:
            return
        self._hint = hint
        if led_until_now and is_open and hint not in self._asked:
            self.leader = hint

    def busy(self, node: NodeId) -> None:
        """``node`` refuses for the moment: if it is believed to lead, ask it again."""
        if node == self._hint:
            self._asked.discard(node)

    def lost(self, node: NodeId) -> None:
        """``node`` dropped its connection or leaves requests unanswered."""
        if self.leader == node or self.leader is None:
            self._doubt(node)

    def _doubt(self, node: NodeId) -> None:
        self.leader = None
        self._asked.add(node)
        if self._hint == node:
            self._hint = None

    def suggest(self, node: NodeId) -> None:
        """Somebody believes that ``node`` leads: ask it first, if nobody better is known."""
        if self.leader is None:
            self._hint = node

    def learn(self, replicas: Sequence[NodeId]) -> None:
        """A newer shard map."""
        self._replicas = tuple(replicas)
        if self.leader not in self._replicas:
            self.leader = None
        if self._hint not in self._replicas:
            self._hint = None
