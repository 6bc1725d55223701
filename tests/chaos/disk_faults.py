"""Disks that fail, dawdle or are full."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from chaos.cluster import SMALL_DISK_MIB, WAIT_S, Node, comes_true
from chaos.target import Fault, Outcome, Target, down_for

if TYPE_CHECKING:
    from pathlib import Path

SLOW_MS = 60
DEATH_WAIT_S = 5.0
NOTICE_WAIT_S = 6.0
BALLAST = "ballast"
IS_FULL, HAS_ROOM = "disk full (", "room on the disk again"


async def failed_sync(target: Target) -> Outcome:
    """One sync of the log fails: the process must end, and come back when started."""
    node, _ = await target.leader()
    return await _fail_a_sync(target, node, "/wal/")


async def failed_engine_sync(target: Target) -> Outcome:
    """One sync of the engine fails, while the node starts."""
    node = await target.follower()
    await target.kill(node)
    return await _fail_a_sync(target, node, "/engine/")


async def _fail_a_sync(target: Target, node: Node, files: str) -> Outcome:
    """It bit if a sync failed and the process ended by itself, saying so."""
    node.set_fault(f"fail {files}")
    if not node.is_up:
        node.start()
    node.is_death_expected = True

    async def is_dead() -> bool:
        return not node.is_up

    try:
        died = await comes_true(is_dead, DEATH_WAIT_S)
    finally:
        has_failed = not node.clear_fault()
    if has_failed and not died and not (died := await comes_true(is_dead, WAIT_S)):
        node.complaints.append(f"{node.id} lives on after a failed sync in {files}")
    if not died:
        node.is_death_expected = False
        return Outcome(bit=False, what=f"{node.id} did not end")
    if target.rng.random() < 0.5:
        target.lose_power(node)
    await down_for([node], 0.0)
    code = node.exit_codes[-1]
    died_of_it = has_failed and code > 0
    if not died_of_it:
        failed = "a sync has failed" if has_failed else "no sync has failed"
        node.complaints.append(f"{node.id} ended with exit code {code}, and {failed} in {files}")
    return Outcome(died_of_it, f"{node.id}, exit code {code}")


async def slow_disk(target: Target) -> Outcome:
    """Every sync of a leader's disk takes long; it bit if syncs were delayed."""
    node, led = await target.leader()
    before = node.slowed_syncs()
    node.set_fault(f"slow {SLOW_MS}")
    try:
        await asyncio.sleep(2.0)
    finally:
        node.clear_fault()
    slowed = node.slowed_syncs() - before
    what = f"{node.id}, leader of {len(led)} shards: {slowed} syncs of {SLOW_MS} ms"
    return Outcome(slowed > 0 and bool(led), what)


async def full_disk(target: Target) -> Outcome:
    """One node's disk is filled, and freed again; it bit if the node noticed both."""
    node = target.cluster.nodes[-1]
    full_before = node.log_text().count(IS_FULL)

    async def is_full() -> bool:
        return node.log_text().count(IS_FULL) > full_before

    try:
        await asyncio.to_thread(_fill, node)
        noticed = await comes_true(is_full, NOTICE_WAIT_S)
        await asyncio.sleep(1.0)
    finally:
        room_before = node.log_text().count(HAS_ROOM)
        _make_room(node)

    async def has_room() -> bool:
        return node.log_text().count(HAS_ROOM) > room_before

    resumed = noticed and await comes_true(has_room, WAIT_S)
    if noticed and not resumed:
        node.complaints.append(f"{node.id} takes no writes although its disk has room again")
    return Outcome(noticed and resumed, f"{node.id}, full: {noticed}, writes resumed: {resumed}")


def _fill(node: Node) -> None:
    """Write until there is no room; without a small disk the shim says that there is none."""
    if node.mounted:
        _write_ballast(node.data_dir / BALLAST)
    elif node.shim is not None:
        node.shim.fill()


def _make_room(node: Node) -> None:
    if node.mounted:
        (node.data_dir / BALLAST).unlink(missing_ok=True)
    elif node.shim is not None:
        node.shim.make_room()


def _write_ballast(path: Path) -> None:
    """Never more than the small disk could hold."""
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
WHERE_IT_CAN_BE_FULL: dict[str, Fault] = {"full disk": full_disk}
