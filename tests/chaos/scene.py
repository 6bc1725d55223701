"""Where faults take place, and what they have in common."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chaos.clients import Books
from chaos.cluster import CLIENTS, Cluster

if TYPE_CHECKING:
    from chaos.cluster import Node
    from chaos.proxy import Link
    from kvstore.ids import NodeId


class Outcome(NamedTuple):
    """What came of a fault."""

    bit: bool
    """There is proof that it hurt; how, depends on the fault."""
    what: str
    """Whom it hit, for the report."""


@dataclass
class Scene:
    """The cluster, its load, and the chance by which victims are chosen."""

    cluster: Cluster
    books: Books
    rng: random.Random
    kills: int = 0

    async def victim(self, *, leads: bool) -> Node:
        """A running node that leads some shard, or as few as possible."""
        leaders = list((await self.cluster.leaders()).values())
        nodes = self.rng.sample(self.cluster.nodes, len(self.cluster.nodes))
        up = [node for node in nodes if node.is_up] or nodes
        return sorted(up, key=lambda node: leaders.count(node.id), reverse=leads)[0]

    def kill(self, *nodes: Node) -> bool:
        """``kill -9``; whether all were alive and died of it."""
        died = [node.kill() for node in nodes]
        self.kills += sum(died)
        return all(died)

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


Fault = Callable[[Scene], Awaitable[Outcome]]
"""Begins, lasts, and heals whatever it did, also when it is cancelled."""


async def down_for(nodes: Iterable[Node], seconds: float) -> None:
    """Leave them dead for a while, then start them."""
    try:
        await asyncio.sleep(seconds)
    finally:
        for node in nodes:
            if not node.is_up:
                node.start()
