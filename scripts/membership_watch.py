"""Looking at a cluster's membership from outside, for what measures it.

Connections stay, and end with the nodes. They are patient enough for a node that starves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvstore.cli.conversation import Conversation
from kvstore.errors import Unavailable
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import (
    EventsRequest,
    decode_events_reply,
    decode_members_reply,
    encode_events,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvstore.cli.launcher.cluster import Cluster
    from kvstore.cli.launcher.node import Node
    from kvstore.wire.membership import EventRow

WAIT_S = 60.0
QUESTIONS_PER_S = 200
"""In all, however many nodes are asked: asking must not be what keeps the machine busy."""
NEWS_WAIT_MS = 5000


class Views:
    """Asks each node of a cluster, again and again, whom it has for what."""

    def __init__(self, cluster: Cluster) -> None:
        """Nothing is asked yet."""
        self._conversations = {node.id: _conversation(cluster, node) for node in cluster.nodes}
        self._poll_s = len(cluster.nodes) / QUESTIONS_PER_S

    async def until_all_alive(self) -> None:
        """Return when everybody has everybody for alive; raises as :meth:`until`."""
        everybody = list(self._conversations)
        await self.until(everybody, everybody, "alive")

    async def until(self, asked: Collection[str], about: Collection[str], state: str) -> None:
        """Return when each who is ``asked`` has said that all it is asked ``about`` are so.

        Raises:
            Unavailable: not within ``WAIT_S``; says who does not, and what instead.
        """
        lacks: dict[str, str] = {}

        async def watch(node: str) -> None:
            while lack := await self._lack(node, about, state):
                lacks[node] = lack
                await asyncio.sleep(self._poll_s)
            lacks.pop(node, None)

        watches = [asyncio.create_task(watch(node)) for node in asked]
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*watches)
        except TimeoutError:
            seen = "; ".join(lacks.values())
            raise Unavailable(f"not all are {state} after {WAIT_S:g} s: {seen}") from None
        finally:
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _lack(self, node: str, about: Collection[str], state: str) -> str:
        """What is not so in the view of ``node``; empty if all is."""
        try:
            body = await self._conversations[node].ask(Kind.MEMBERS)
        except Unavailable as error:
            return f"{node} does not answer ({error})"
        states: dict[str, str] = {row.id: row.state for row in decode_members_reply(body).members}
        others = {name: states.get(name, "unknown") for name in about if states.get(name) != state}
        return f"{node} has " + ", ".join(map(" for ".join, others.items())) if others else ""


class Follower:
    """What one node saw happen. Invariant: ``events`` has no gap."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        """Nothing is asked yet."""
        self.node = node.id
        self.events: list[EventRow] = []
        self._conversation = _conversation(cluster, node)
        self._after = self._stream = 0

    async def follow(self) -> None:
        """Take what happens until cancelled; raises as :meth:`take`."""
        while True:
            await self.take(NEWS_WAIT_MS)

    async def take(self, wait_ms: int = 0) -> None:
        """Take what has happened since the last time; if nothing did, wait for it.

        Raises:
            Unavailable: some of it cannot be had any more.
        """
        request = encode_events(EventsRequest(self._after, wait_ms, self._stream))
        reply = decode_events_reply(await self._conversation.ask(Kind.EVENTS, request))
        if self._stream not in (0, reply.stream):
            raise Unavailable(f"{self.node} has restarted, what it saw is gone")
        if reply.oldest > self._after + 1:
            missed = reply.oldest - self._after - 1
            raise Unavailable(f"{self.node} has seen {missed} events that were missed")
        self.events += reply.events
        self._after, self._stream = reply.next, reply.stream


def _conversation(cluster: Cluster, node: Node) -> Conversation:
    return Conversation(node.files.address, cluster.layout.spec.id, WAIT_S)
