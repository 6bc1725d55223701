"""Deaths and standstills."""

from __future__ import annotations

import asyncio

from chaos.cluster import Node, comes_true
from chaos.target import Fault, Outcome, Target, down_for

DOWN_S = (0.0, 0.5, 2.0)
UNSYNCED_WINDOWS_MS = (1, 20, 80)
"""Before a power cut, syncs take so long that something is always waiting for one; not equally
long everywhere, so that what one node has synced others have not.
"""
RETURN_S_MAX = 0.6
"""Between the returns of nodes after all were down: who comes first decides who can lead."""
START_WAIT_S = 10.0
RECOVERY_S_MAX = 0.3
"""From opening its files until a node is killed again; about what it needs to serve."""
ABSENCE_S = 6.0
SNAPSHOT_WAIT_S = 10.0


async def kill_leader(target: Target) -> Outcome:
    """It bit if others elected a leader where the victim had led."""
    node, led = await target.leader()
    died = await target.kill(node)
    await down_for([node], target.rng.choice(DOWN_S))
    has_successor = await target.has_successor(node, led)
    return Outcome(died and has_successor, _leadership(node, led, has_successor))


def _leadership(node: Node, led: frozenset[int], has_successor: bool) -> str:
    then = "others were elected" if has_successor else "nobody else was elected"
    return f"{node.id}, leader of {len(led)} shards; {then}"


async def kill_follower(target: Target) -> Outcome:
    node = await target.follower()
    died = await target.kill(node)
    await down_for([node], target.rng.choice(DOWN_S))
    return Outcome(died, node.id)


async def kill_minority(target: Target) -> Outcome:
    """So many at once that some shards lose their majority, and others do not."""
    nodes = [target.cluster.node(name) for name in target.split()[0]]
    died = await target.kill(*nodes)
    await down_for(nodes, target.rng.choice(DOWN_S))
    return Outcome(died, ", ".join(node.id for node in nodes))


async def kill_all(target: Target) -> Outcome:
    died = await target.kill(*target.cluster.nodes)
    await _return_one_by_one(target, target.cluster.nodes)
    return Outcome(died, "all")


async def power_cut(target: Target) -> Outcome:
    """A leader's machine loses what it had not synced; it bit if that was anything."""
    node, _ = await target.leader()
    return await _cut_power(target, [node], node.id)


async def blackout(target: Target) -> Outcome:
    """All machines at once lose what they had not synced."""
    return await _cut_power(target, target.cluster.nodes, "all")


async def _cut_power(target: Target, nodes: list[Node], what: str) -> Outcome:
    for node in nodes:
        node.set_fault(f"slow {target.rng.choice(UNSYNCED_WINDOWS_MS)}")
    try:
        await asyncio.sleep(0.2 + 0.2 * target.rng.random())
        died = await target.kill(*nodes)
        lost_bytes = target.lose_power(*nodes)
    finally:
        for node in nodes:
            node.clear_fault()
    await _return_one_by_one(target, nodes)
    return Outcome(died and lost_bytes > 0, f"{what}: {lost_bytes} unsynced bytes lost")


async def _return_one_by_one(target: Target, nodes: list[Node]) -> None:
    for node in target.rng.sample(nodes, len(nodes)):
        await down_for([node], RETURN_S_MAX * target.rng.random())


async def crash_loop(target: Target) -> Outcome:
    """Killed again and again while it recovers, now and then by a loss of power."""
    node, _ = await target.leader()
    died = [await target.kill(node)]

    async def recovers() -> bool:
        return node.has_files_open()

    for _ in range(3):
        await down_for([node], 0.0)
        has_begun = await comes_true(recovers, START_WAIT_S)
        await asyncio.sleep(RECOVERY_S_MAX * target.rng.random())
        died.append(await target.kill(node) and has_begun)
        if target.rng.random() < 0.5:
            target.lose_power(node)
    await down_for([node], 0.0)
    return Outcome(all(died), f"{node.id}, {len(died)} times")


async def long_absence(target: Target) -> Outcome:
    """Away for so long that the log is gone and a snapshot must come; it bit if one did."""
    node = await target.follower()
    died = await target.kill(node)
    before = _snapshots(node)
    await down_for([node], ABSENCE_S)

    async def has_come() -> bool:
        return _snapshots(node) > before

    if not await comes_true(has_come, SNAPSHOT_WAIT_S):
        return Outcome(bit=False, what=f"{node.id}: no snapshot was needed")
    return Outcome(died, f"{node.id}: {_snapshots(node) - before} snapshots installed")


def _snapshots(node: Node) -> int:
    return node.log_text().count("is in force")


async def _stop_for(node: Node, seconds: float) -> bool:
    """Whether the kernel says that the process stood still."""
    node.pause()
    try:
        await asyncio.sleep(seconds)
        return node.is_paused()
    finally:
        node.resume()


async def short_stop(target: Target) -> Outcome:
    """SIGSTOP of a leader for less than an election timeout."""
    node, led = await target.leader()
    stopped = await _stop_for(node, 0.3)
    return Outcome(stopped and bool(led), f"{node.id}, leader of {len(led)} shards")


async def long_stop(target: Target) -> Outcome:
    """SIGSTOP for longer than one; it bit if others elected a leader where the victim had led."""
    node, led = await target.leader()
    stopped = await _stop_for(node, 3.0)
    has_successor = await target.has_successor(node, led)
    return Outcome(stopped and has_successor, _leadership(node, led, has_successor))


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
