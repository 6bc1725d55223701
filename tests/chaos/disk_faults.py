"""Disks that fail, dawdle or are full."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from chaos.cluster import SMALL_DISK_MIB, Node, wait_for
from chaos.scene import Fault, Outcome, Scene, down_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SLOW_MS = 60
DEATH_WAIT_S = 5.0
NOTICE_WAIT_S = 6.0
BALLAST = "ballast"
IS_FULL, HAS_ROOM = "disk full (", "room on the disk again"


async def _comes_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    try:
        await wait_for(condition, "", seconds)
    except AssertionError:
        return False
    return True


async def failed_sync(scene: Scene) -> Outcome:
    """One sync of the log fails: the process must end, and come back when started."""
    node = await scene.victim(leads=True)
    return await _fail_a_sync(scene, node, "/wal/")


async def failed_engine_sync(scene: Scene) -> Outcome:
    """One sync of the engine fails, while the node starts."""
    node = await scene.victim(leads=False)
    scene.kill(node)
    return await _fail_a_sync(scene, node, "/engine/")


async def _fail_a_sync(scene: Scene, node: Node, files: str) -> Outcome:
    """It bit if the order was carried out and the process ended by itself, saying so."""
    node.order(f"fail {files}")
    if not node.is_up:
        node.start()
    node.is_death_expected = True

    async def is_dead() -> bool:
        return not node.is_up

    try:
        died = await _comes_true(is_dead, DEATH_WAIT_S)
        failed = node.has_obeyed()
    finally:
        node.countermand()
    if died and scene.rng.random() < 0.5:
        scene.lose_power(node)
    await down_for([node], 0.0)
    code = node.exit_codes[-1] if died else None
    return Outcome(died and failed and bool(code), f"{node.id}, exit code {code}")


async def slow_disk(scene: Scene) -> Outcome:
    """Every sync of a leader's disk takes long; it bit if somebody waited for that."""
    node = await scene.victim(leads=True)
    since = len(scene.books.samples)
    node.order(f"slow {SLOW_MS}")
    try:
        await asyncio.sleep(2.0)
    finally:
        node.countermand()
    waited = sum(s.is_write and 1000 * s.seconds > SLOW_MS for s in scene.books.samples[since:])
    return Outcome(waited > 0, f"{node.id}, {waited} slow writes")


async def full_disk(scene: Scene) -> Outcome:
    """One node's disk is filled, and freed again; it bit if the node noticed both."""
    node = next(node for node in scene.cluster.nodes if node.mounted)
    ballast = node.data_dir / BALLAST
    full_before = node.log_text().count(IS_FULL)

    async def is_full() -> bool:
        return node.log_text().count(IS_FULL) > full_before

    try:
        await asyncio.to_thread(_fill, str(ballast))
        noticed = await _comes_true(is_full, NOTICE_WAIT_S)
        await asyncio.sleep(1.0)
    finally:
        room_before = node.log_text().count(HAS_ROOM)
        ballast.unlink(missing_ok=True)

    async def has_room() -> bool:
        return node.log_text().count(HAS_ROOM) > room_before

    resumed = noticed and await _comes_true(has_room, NOTICE_WAIT_S)
    return Outcome(noticed and resumed, f"{node.id}, full: {noticed}, writes resumed: {resumed}")


def _fill(path: str) -> None:
    """Write until there is no room; never more than the small disk could hold."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with suppress(OSError):
            for _ in range(2 * SMALL_DISK_MIB):
                os.write(fd, bytes(1 << 20))
    finally:
        os.close(fd)


WITH_SHIM: dict[str, Fault] = {
    "failed sync": failed_sync,
    "failed engine sync": failed_engine_sync,
    "slow disk": slow_disk,
}
WITH_SMALL_DISK: dict[str, Fault] = {"full disk": full_disk}
