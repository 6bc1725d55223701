"""What is done to a cluster. Each fault begins, lasts, heals, and says whether it bit."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.clients import Books
from chaos.cluster import CLIENTS, Cluster, Node, wait_for

BALLAST = "ballast"


@dataclass
class Scene:
    """Where faults take place."""

    cluster: Cluster
    books: Books
    rng: random.Random
    kills: int = 0

    async def victim(self, *, leads: bool) -> Node:
        """A running node that leads some shard, or as few as possible."""
        leaders = list((await self.cluster.leaders()).values())
        up = [node for node in self.cluster.nodes if node.is_up]
        self.rng.shuffle(up)
        return sorted(up, key=lambda node: leaders.count(node.id), reverse=leads)[0]

    def kill(self, node: Node, *, power: bool) -> bool:
        """``kill -9``, and with ``power`` the loss of what was not synced."""
        died = node.kill()
        self.kills += died
        if power and died and node.shim is not None:
            node.shim.lose_power(self.rng)
        return died

    def split(self) -> tuple[list[str], list[str]]:
        """A minority and the rest."""
        names = [node.id for node in self.cluster.nodes]
        self.rng.shuffle(names)
        size = (len(names) - 1) // 2
        return names[:size], names[size:]

    async def cut(self, links: list[tuple[str, str]], seconds: float) -> bool:
        """Cut ``links`` for a while; it bit if traffic was held."""
        chosen = [self.cluster.links[link] for link in links]
        before = sum(link.counts["held"] for link in chosen)
        for link in chosen:
            link.cut()
        await asyncio.sleep(seconds)
        for link in chosen:
            link.heal()
        return sum(link.counts["held"] for link in chosen) > before


Fault = Callable[[Scene], Awaitable[bool]]


async def _down_for(scene: Scene, nodes: list[Node], seconds: float) -> None:
    await asyncio.sleep(seconds)
    for node in nodes:
        if not node.is_up:
            node.start()


async def kill_leader(scene: Scene) -> bool:
    node = await scene.victim(leads=True)
    died = scene.kill(node, power=False)
    await _down_for(scene, [node], scene.rng.choice((0.0, 0.5, 2.0)))
    return died


async def kill_follower(scene: Scene) -> bool:
    node = await scene.victim(leads=False)
    died = scene.kill(node, power=False)
    await _down_for(scene, [node], scene.rng.choice((0.0, 0.5, 2.0)))
    return died


async def kill_all(scene: Scene) -> bool:
    died = [scene.kill(node, power=False) for node in scene.cluster.nodes]
    await _down_for(scene, scene.cluster.nodes, 0.2)
    return all(died)


async def power_cut(scene: Scene) -> bool:
    """A leader's machine loses what it had not synced."""
    node = await scene.victim(leads=True)
    died = scene.kill(node, power=True)
    await _down_for(scene, [node], 0.5)
    return died


async def blackout(scene: Scene) -> bool:
    """All machines at once lose what they had not synced."""
    died = [node.kill() for node in scene.cluster.nodes]
    scene.kills += sum(died)
    for node in scene.cluster.nodes:
        if node.shim is not None:
            node.shim.lose_power(scene.rng)
    await _down_for(scene, scene.cluster.nodes, 0.2)
    return all(died)


async def crash_loop(scene: Scene) -> bool:
    """Killed again and again while it recovers."""
    node = await scene.victim(leads=True)
    deaths = [scene.kill(node, power=False)]
    for _ in range(3):
        node.start()
        await asyncio.sleep(scene.rng.random() * 0.5)
        deaths.append(scene.kill(node, power=scene.rng.random() < 0.5))
    node.start()
    return all(deaths)


async def _stop_for(scene: Scene, seconds: float) -> bool:
    node = await scene.victim(leads=True)
    node.stop()
    try:
        await asyncio.sleep(seconds)
        stopped = node.is_stopped()
    finally:
        node.go_on()
    return stopped


async def short_stop(scene: Scene) -> bool:
    """SIGSTOP for less than an election timeout."""
    return await _stop_for(scene, 0.3)


async def long_stop(scene: Scene) -> bool:
    """SIGSTOP for longer than one."""
    return await _stop_for(scene, 3.0)


async def partition(scene: Scene) -> bool:
    few, many = scene.split()
    links = [(a, b) for a in few for b in many] + [(b, a) for a in few for b in many]
    return await scene.cut(links, scene.rng.choice((1.0, 3.0)))


async def one_way_cut(scene: Scene) -> bool:
    """A leader is heard by nobody but hears all, or the other way round."""
    node = await scene.victim(leads=True)
    others = [other.id for other in scene.cluster.nodes if other is not node]
    out = [(node.id, other) for other in others]
    back = [(other, node.id) for other in others]
    return await scene.cut(scene.rng.choice((out, back)), 2.0)


async def bridge(scene: Scene) -> bool:
    """Two halves that only one node can reach both of."""
    names = [node.id for node in scene.cluster.nodes]
    scene.rng.shuffle(names)
    left, right = names[1 : 1 + len(names) // 2], names[1 + len(names) // 2 :]
    links = [(a, b) for a in left for b in right] + [(b, a) for a in left for b in right]
    return await scene.cut(links, 2.0)


async def slow_network(scene: Scene) -> bool:
    """Delays of tens of milliseconds, and connections that break."""
    links = [link for (source, _), link in scene.cluster.links.items() if source != CLIENTS]
    before = sum(link.counts["delayed"] + link.counts["reset"] for link in links)
    for link in links:
        link.delay_s, link.resets_per_piece = 0.02, 0.002
    await asyncio.sleep(3.0)
    scene.cluster.heal_network()
    return sum(link.counts["delayed"] + link.counts["reset"] for link in links) > before


async def lost_replies(scene: Scene) -> bool:
    """Requests arrive and are carried out; their answers never come, and are asked for again."""
    links = list(scene.cluster.links.values())
    before = sum(link.counts["swallowed"] for link in links)
    for _ in range(6):
        for link in links:
            link.replies_swallowed = True
        await asyncio.sleep(0.15)
        for link in links:
            link.replies_swallowed = False
        await asyncio.sleep(0.3)
    return sum(link.counts["swallowed"] for link in links) > before


async def full_disk(scene: Scene) -> bool:
    """One node's disk is filled, and freed again; it bit if the node said so."""
    node = scene.cluster.nodes[-1]
    told = node.log_file.read_text(encoding="utf-8", errors="replace").count("disk full")
    ballast = node.data_dir / BALLAST

    async def says_so() -> bool:
        text = node.log_file.read_text(encoding="utf-8", errors="replace")
        return text.count("disk full") > told

    try:
        await asyncio.to_thread(_fill, str(ballast))
        try:
            await wait_for(says_so, f"{node.id} notices its full disk", 5.0)
        except AssertionError:
            return False
        await asyncio.sleep(1.0)
    finally:
        ballast.unlink(missing_ok=True)
    return True


def _fill(path: str) -> None:
    """Write until there is no room."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        while True:
            os.write(fd, bytes(1 << 20))
    except OSError:
        return
    finally:
        os.close(fd)


async def failed_sync(scene: Scene) -> bool:
    """One sync of the log fails: the process must end, and come back when started."""
    node = await scene.victim(leads=True)
    assert node.shim is not None
    node.shim.order("fail /wal/")

    async def is_dead() -> bool:
        return not node.is_up

    try:
        await wait_for(is_dead, f"{node.id} ends after a failed sync", 5.0)
    except AssertionError:
        return False
    finally:
        node.shim.countermand()
    node.deaths += 1
    if scene.rng.random() < 0.5:
        node.shim.lose_power(scene.rng)
    node.start()
    return True


async def slow_disk(scene: Scene) -> bool:
    """Every sync of a leader's disk takes long; it bit if somebody waited for that."""
    node = await scene.victim(leads=True)
    assert node.shim is not None
    node.shim.order("slow 60")
    since = len(scene.books.samples)
    await asyncio.sleep(2.0)
    node.shim.countermand()
    return any(s.is_write and s.seconds > 0.05 for s in scene.books.samples[since:])


ALWAYS: dict[str, Fault] = {
    "kill leader": kill_leader,
    "kill follower": kill_follower,
    "kill all": kill_all,
    "crash loop": crash_loop,
    "short stop": short_stop,
    "long stop": long_stop,
    "partition": partition,
    "one-way cut": one_way_cut,
    "bridge": bridge,
    "slow network": slow_network,
    "lost replies": lost_replies,
}
WITH_SHIM: dict[str, Fault] = {
    "power cut": power_cut,
    "blackout": blackout,
    "failed sync": failed_sync,
    "slow disk": slow_disk,
}
WITH_SMALL_DISK: dict[str, Fault] = {"full disk": full_disk}


def available(cluster: Cluster) -> dict[str, Fault]:
    """What this machine allows."""
    faults = dict(ALWAYS)
    if cluster.nodes[0].shim is not None:
        faults |= WITH_SHIM
    if cluster.nodes[-1].mounted:
        faults |= WITH_SMALL_DISK
    return faults
