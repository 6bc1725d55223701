"""Deaths and standstills."""

from __future__ import annotations

import asyncio

from chaos.cluster import Node, wait_for
from chaos.scene import Fault, Outcome, Scene, down_for

DOWN_S = (0.0, 0.5, 2.0)
UNSYNCED_WINDOWS_MS = (1, 20, 80)
"""Before a power cut, syncs take so long that something is always waiting for one; not equally
long everywhere, so that what one node has synced others have not.
"""
RETURN_S_MAX = 0.6
"""Between the returns of nodes after all were down: who comes first decides who can lead."""
ABSENCE_S = 6.0
SNAPSHOT_WAIT_S = 10.0


async def kill_leader(scene: Scene) -> Outcome:
    node = await scene.victim(leads=True)
    died = scene.kill(node)
    await down_for([node], scene.rng.choice(DOWN_S))
    return Outcome(died, node.id)


async def kill_follower(scene: Scene) -> Outcome:
    node = await scene.victim(leads=False)
    died = scene.kill(node)
    await down_for([node], scene.rng.choice(DOWN_S))
    return Outcome(died, node.id)


async def kill_minority(scene: Scene) -> Outcome:
    """So many at once that some shards lose their majority, and others do not."""
    nodes = [scene.cluster.node(name) for name in scene.split()[0]]
    died = scene.kill(*nodes)
    await down_for(nodes, scene.rng.choice(DOWN_S))
    return Outcome(died, ", ".join(node.id for node in nodes))


async def kill_all(scene: Scene) -> Outcome:
    died = scene.kill(*scene.cluster.nodes)
    await _return_one_by_one(scene, scene.cluster.nodes)
    return Outcome(died, "all")


async def power_cut(scene: Scene) -> Outcome:
    """A leader's machine loses what it had not synced; it bit if that was anything."""
    node = await scene.victim(leads=True)
    return await _cut_power(scene, [node], node.id)


async def blackout(scene: Scene) -> Outcome:
    """All machines at once lose what they had not synced."""
    return await _cut_power(scene, scene.cluster.nodes, "all")


async def _cut_power(scene: Scene, nodes: list[Node], what: str) -> Outcome:
    for node in nodes:
        node.order(f"slow {scene.rng.choice(UNSYNCED_WINDOWS_MS)}")
    try:
        await asyncio.sleep(0.2 + 0.2 * scene.rng.random())
        died = scene.kill(*nodes)
        lost_bytes = scene.lose_power(*nodes)
    finally:
        for node in nodes:
            node.countermand()
    await _return_one_by_one(scene, nodes)
    return Outcome(died and lost_bytes > 0, f"{what}: {lost_bytes} unsynced bytes lost")


async def _return_one_by_one(scene: Scene, nodes: list[Node]) -> None:
    for node in scene.rng.sample(nodes, len(nodes)):
        await down_for([node], RETURN_S_MAX * scene.rng.random())


async def crash_loop(scene: Scene) -> Outcome:
    """Killed again and again while it recovers, now and then by a loss of power."""
    node = await scene.victim(leads=True)
    died = [scene.kill(node)]
    for _ in range(3):
        await down_for([node], 0.0)
        await asyncio.sleep(scene.rng.random() * 0.5)
        died.append(scene.kill(node))
        if scene.rng.random() < 0.5:
            scene.lose_power(node)
    await down_for([node], 0.0)
    return Outcome(all(died), f"{node.id}, {len(died)} times")


async def long_absence(scene: Scene) -> Outcome:
    """Away for so long that the log is gone and a snapshot must come; it bit if one did."""
    node = await scene.victim(leads=False)
    died = scene.kill(node)
    before = _snapshots(node)
    await down_for([node], ABSENCE_S)

    async def has_come() -> bool:
        return _snapshots(node) > before

    try:
        await wait_for(has_come, "a snapshot", SNAPSHOT_WAIT_S)
    except AssertionError:
        return Outcome(bit=False, what=f"{node.id}: no snapshot was needed")
    return Outcome(died, f"{node.id}: {_snapshots(node) - before} snapshots installed")


def _snapshots(node: Node) -> int:
    return node.log_text().count("is in force")


async def _stop_for(scene: Scene, seconds: float) -> Outcome:
    node = await scene.victim(leads=True)
    node.stop()
    try:
        await asyncio.sleep(seconds)
        stopped = node.is_stopped()
    finally:
        node.go_on()
    return Outcome(stopped, node.id)


async def short_stop(scene: Scene) -> Outcome:
    """SIGSTOP for less than an election timeout."""
    return await _stop_for(scene, 0.3)


async def long_stop(scene: Scene) -> Outcome:
    """SIGSTOP for longer than one."""
    return await _stop_for(scene, 3.0)


FAULTS: dict[str, Fault] = {
    "kill leader": kill_leader,
    "kill follower": kill_follower,
    "kill minority": kill_minority,
    "kill all": kill_all,
    "crash loop": crash_loop,
    "long absence": long_absence,
    "short stop": short_stop,
    "long stop": long_stop,
}
WITH_SHIM: dict[str, Fault] = {"power cut": power_cut, "blackout": blackout}
EXTRA = ("kill leader", "kill all", "power cut", "blackout", "crash loop")
"""What comes twice as often as the rest."""
