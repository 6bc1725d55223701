"""What faults are done to, and what they have in common."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chaos.cluster import CLIENTS, Cluster, comes_true
from chaos.history import History

if TYPE_CHECKING:
    from chaos.cluster import Node
    from chaos.proxy import Link
    from kvstore.ids import NodeId


ELECTION_WAIT_S = 10.0


class Outcome(NamedTuple):
    """What came of a fault."""

    bit: bool
    """There is proof that it hurt; how, depends on the fault."""
    what: str
    """Whom it hit, for the report."""


@dataclass
class Target:
    """The cluster, its load, and the chance by which victims are chosen."""

    cluster: Cluster
    history: History
    rng: random.Random
    kills: int = 0

    async def leader(self) -> tuple[Node, frozenset[int]]:
        """The running node that leads most shards, and which; none if nobody leads."""
        leaders = await self.cluster.leaders()
        node = self._by_leadership(list(leaders.values()))[-1]
        return node, frozenset(shard for shard, leader in leaders.items() if leader == node.id)

    async def follower(self) -> Node:
        """The running node that leads the fewest shards."""
        return self._by_leadership(list((await self.cluster.leaders()).values()))[0]

    def _by_leadership(self, leaders: list[str]) -> list[Node]:
        nodes = self.rng.sample(self.cluster.nodes, len(self.cluster.nodes))
        up = [node for node in nodes if node.is_up] or nodes
        return sorted(up, key=lambda node: leaders.count(node.id))

    async def has_successor(self, node: Node, led: frozenset[int]) -> bool:
        """Whether others elect a leader of their own where ``node`` has led; waits for it."""

        async def is_led_by_another() -> bool:
            leaders = await self.cluster.leaders()
            return any(leaders.get(shard, node.id) != node.id for shard in led)

        return bool(led) and await comes_true(is_led_by_another, ELECTION_WAIT_S)

    async def kill(self, *nodes: Node) -> bool:
        """``kill -9`` of all at once; whether all were alive and died of it."""
        hit = [node for node in nodes if node.kill()]
        died = await asyncio.gather(*(asyncio.to_thread(node.has_died_of_it) for node in hit))
        self.kills += sum(died)
        return sum(died) == len(nodes)

    def lose_power(self, *nodes: Node) -> int:
        """Dead nodes lose what they had not synced; how many bytes that was."""
        return sum(node.shim.lose_power(self.rng) for node in nodes if node.shim is not None)

    def split(self) -> tuple[list[NodeId], list[NodeId]]:
        """A minority and the rest."""
        names = [node.id for node in self.cluster.nodes]
        self.rng.shuffle(names)
        size = (len(names) - 1) // 2
        return names[:size], names[size:]

    def links(self, sources: Iterable[NodeId], targets: Iterable[NodeId]) -> list[Link]:
        """Those from any of ``sources`` to any of ``targets``."""
        goals = list(targets)
        return [self.cluster.links[a, b] for a in sources for b in goals if a != b]

    def links_between_nodes(self) -> list[Link]:
        return [link for (a, _), link in self.cluster.links.items() if a != CLIENTS]

    def counted(self, links: Iterable[Link], *names: str) -> int:
        """How often ``links`` did one of these to traffic."""
        return sum(link.counts[name] for link in links for name in names)


Fault = Callable[[Target], Awaitable[Outcome]]
"""Begins, lasts, and heals what it did to links and disks, also when it is cancelled."""


async def down_for(nodes: Iterable[Node], seconds: float) -> None:
    """Leave them dead for a while, then start them."""
    try:
        await asyncio.sleep(seconds)
    finally:
        for node in nodes:
            if not node.is_up:
                node.start()
