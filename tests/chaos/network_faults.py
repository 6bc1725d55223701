"""What a network does to the traffic between nodes, and to answers on their way to clients."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chaos.scene import Fault, Outcome, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.proxy import Link

SHORT_S, LONG_S = 1.0, 3.0
SLOW_S = 0.04
THIN_BYTES_PER_S = 50_000.0
BREAKING_SHARE = 0.01


@contextmanager
def _healed_after(links: list[Link]) -> Iterator[None]:
    try:
        yield
    finally:
        for link in links:
            link.heal()


async def _cut(scene: Scene, links: list[Link], what: str) -> Outcome:
    """Cut ``links`` for a while; it bit if traffic was held."""
    before = scene.counted(links, "held")
    with _healed_after(links):
        for link in links:
            link.cut()
        await asyncio.sleep(scene.rng.choice((SHORT_S, LONG_S)))
    return Outcome(scene.counted(links, "held") > before, what)


async def partition(scene: Scene) -> Outcome:
    """A minority and the rest hear nothing of each other."""
    few, many = scene.split()
    links = scene.links(few, many) + scene.links(many, few)
    return await _cut(scene, links, f"{' '.join(few)} | {' '.join(many)}")


async def rejecting_partition(scene: Scene) -> Outcome:
    """The same, but connections break and are refused, which looks like a death."""
    few, many = scene.split()
    links = scene.links(few, many) + scene.links(many, few)
    before = scene.counted(links, "refused")
    with _healed_after(links):
        for link in links:
            link.refuse()
        await asyncio.sleep(scene.rng.choice((SHORT_S, LONG_S)))
    return Outcome(scene.counted(links, "refused") > before, f"{' '.join(few)} | {' '.join(many)}")


async def one_way_cut(scene: Scene) -> Outcome:
    """A leader is heard by nobody but hears all, or the other way round."""
    node = await scene.victim(leads=True)
    names = [other.id for other in scene.cluster.nodes]
    if scene.rng.random() < 0.5:
        return await _cut(scene, scene.links([node.id], names), f"{node.id} cannot speak")
    return await _cut(scene, scene.links(names, [node.id]), f"{node.id} cannot hear")


async def bridge(scene: Scene) -> Outcome:
    """Two halves that only one node can reach both of."""
    names = [node.id for node in scene.cluster.nodes]
    scene.rng.shuffle(names)
    half = (len(names) - 1) // 2
    left, right = names[1 : 1 + half], names[1 + half :]
    links = scene.links(left, right) + scene.links(right, left)
    return await _cut(scene, links, f"{' '.join(left)} | {names[0]} | {' '.join(right)}")


async def slow_network(scene: Scene) -> Outcome:
    """Delays of tens of milliseconds that vary, and less room than is needed on some ways."""
    links = scene.links_between_nodes()
    before = scene.counted(links, "delayed")
    with _healed_after(links):
        for link in links:
            link.delay_s = SLOW_S
            if scene.rng.random() < 0.3:
                link.bytes_per_s = THIN_BYTES_PER_S
        await asyncio.sleep(LONG_S)
    return Outcome(scene.counted(links, "delayed") > before, "all links")


async def breaking_connections(scene: Scene) -> Outcome:
    """Connections are reset in the middle of a stream, and what was on them is lost."""
    links = scene.links_between_nodes()
    before = scene.counted(links, "reset")
    with _healed_after(links):
        for link in links:
            link.resets_per_piece = BREAKING_SHARE
        await asyncio.sleep(LONG_S)
    broken = scene.counted(links, "reset") - before
    return Outcome(broken > 0, f"{broken} connections")


async def lost_replies(scene: Scene) -> Outcome:
    """Writes are carried out, but their answers are cut off; it bit if they came again."""
    links = list(scene.cluster.links.values())
    before = scene.cluster.retries.retried
    with _healed_after(links):
        for _ in range(6):
            for link in links:
                link.replies_swallowed = True
            await asyncio.sleep(0.15)
            for link in links:
                link.replies_swallowed = False
            await asyncio.sleep(0.3)
    retried = scene.cluster.retries.retried - before
    return Outcome(retried > 0, f"{retried} answered writes asked for again")


FAULTS: dict[str, Fault] = {
    "partition": partition,
    "rejecting partition": rejecting_partition,
    "one-way cut": one_way_cut,
    "bridge": bridge,
    "slow network": slow_network,
    "breaking connections": breaking_connections,
    "lost replies": lost_replies,
}
