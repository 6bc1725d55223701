"""What a network does to the traffic between nodes, and to answers on their way to clients."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chaos.target import Fault, Outcome, Target

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


async def _cut(target: Target, links: list[Link], what: str) -> Outcome:
    """Cut ``links`` for a while; it bit if traffic was held."""
    before = target.counted(links, "held")
    with _healed_after(links):
        for link in links:
            link.cut()
        await asyncio.sleep(target.rng.choice((SHORT_S, LONG_S)))
    return Outcome(target.counted(links, "held") > before, what)


async def partition(target: Target) -> Outcome:
    """A minority and the rest hear nothing of each other."""
    few, many = target.split()
    links = target.links(few, many) + target.links(many, few)
    return await _cut(target, links, f"{' '.join(few)} | {' '.join(many)}")


async def rejecting_partition(target: Target) -> Outcome:
    """The same, but connections break and are refused, which looks like a death."""
    few, many = target.split()
    links = target.links(few, many) + target.links(many, few)
    before = target.counted(links, "refused")
    with _healed_after(links):
        for link in links:
            link.refuse()
        await asyncio.sleep(target.rng.choice((SHORT_S, LONG_S)))
    return Outcome(target.counted(links, "refused") > before, f"{' '.join(few)} | {' '.join(many)}")


async def one_way_cut(target: Target) -> Outcome:
    """A leader is heard by nobody but hears all, or the other way round."""
    node, _ = await target.leader()
    names = [other.id for other in target.cluster.nodes]
    if target.rng.random() < 0.5:
        return await _cut(target, target.links([node.id], names), f"{node.id} cannot speak")
    return await _cut(target, target.links(names, [node.id]), f"{node.id} cannot hear")


async def bridge(target: Target) -> Outcome:
    """Two halves that only one node can reach both of."""
    names = [node.id for node in target.cluster.nodes]
    target.rng.shuffle(names)
    half = (len(names) - 1) // 2
    left, right = names[1 : 1 + half], names[1 + half :]
    links = target.links(left, right) + target.links(right, left)
    return await _cut(target, links, f"{' '.join(left)} | {names[0]} | {' '.join(right)}")


async def slow_network(target: Target) -> Outcome:
    """Delays of tens of milliseconds that vary, and less room than is needed on some ways."""
    links = target.links_between_nodes()
    before = target.counted(links, "delayed")
    with _healed_after(links):
        for link in links:
            link.delay_s = SLOW_S
            if target.rng.random() < 0.3:
                link.bytes_per_s = THIN_BYTES_PER_S
        await asyncio.sleep(LONG_S)
    return Outcome(target.counted(links, "delayed") > before, "all links")


async def breaking_connections(target: Target) -> Outcome:
    """Connections are reset in the middle of a stream, and what was on them is lost."""
    links = target.links_between_nodes()
    before = target.counted(links, "reset")
    with _healed_after(links):
        for link in links:
            link.resets_per_piece = BREAKING_SHARE
        await asyncio.sleep(LONG_S)
    broken = target.counted(links, "reset") - before
    return Outcome(broken > 0, f"{broken} connections")


async def lost_replies(target: Target) -> Outcome:
    """Writes are carried out, but their answers are cut off; it bit if they came again."""
    links = list(target.cluster.links.values())
    before = target.cluster.retries.retried
    with _healed_after(links):
        for _ in range(6):
            for link in links:
                link.replies_swallowed = True
            await asyncio.sleep(0.15)
            for link in links:
                link.replies_swallowed = False
            await asyncio.sleep(0.3)
    retried = target.cluster.retries.retried - before
    return Outcome(retried > 0, f"{retried} writes retried that had been done")


FAULTS: dict[str, Fault] = {
    "partition": partition,
    "rejecting partition": rejecting_partition,
    "one-way cut": one_way_cut,
    "bridge": bridge,
    "slow network": slow_network,
    "breaking connections": breaking_connections,
    "lost replies": lost_replies,
}
