"""What the cluster goes through, and what each of it costs: the rows of the table."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from elasticity.ledger import Findings
from elasticity.level import bytes_ideal, bytes_moved, copies_come
from elasticity.machine import busy_s, others_cores, used_s
from elasticity.rows import Row
from elasticity.stage import Stage
from kvstore.cli.launcher.process import State

if TYPE_CHECKING:
    from elasticity.driver import Driver

SETTLE_S = 2.0
"""After the load was at rest, before anything is measured."""
REPLACE_AFTER_S = 10.0
"""Instead of the default 60, so that the replacement can be watched; no restart takes so long."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is done, and how much of all replicas' bytes should move for it."""

    name: str
    ideal_share: float
    change: Callable[[Stage], Awaitable[None]]
    """Returns when there is nothing to do but to wait for rest."""
    nodes: tuple[str, ...]
    """On which the replicas are to rest."""
    is_planned: bool = True
    is_start: bool = False
    """Whether the change is that processes start; then what moves moves after it."""


async def measure(stage: Stage, load: Driver, phase: Phase, steady_s: float) -> Row:
    """One row. The load rests only at its end, while everything is read back."""
    begun_at: float = (await load.ask("go"))["at"] + SETTLE_S
    await asyncio.sleep(SETTLE_S)
    others = await _others_cores([load.pid, *stage.pids()], steady_s)
    map_before = await stage.shard_map()
    changed_at = time.monotonic()
    await phase.change(stage)
    moving_at = time.monotonic() if phase.is_start else changed_at
    level_at = await stage.until_level(phase.nodes)
    led_at = max(level_at, await stage.until_led())
    await asyncio.sleep(steady_s)
    map_after = await stage.shard_map()
    times = [begun_at, changed_at, moving_at, level_at, led_at, time.monotonic()]
    before, starting, during, settling, after = [
        await load.window(*span) for span in pairwise(times)
    ]
    await load.ask("rest")
    said = await load.ask("check")
    bytes_of = await stage.bytes_of()
    return Row(
        phase.name,
        phase.is_planned,
        seconds=level_at - changed_at,
        leaders_s=led_at - changed_at,
        bytes_moved=bytes_moved(copies_come(map_before, map_after), bytes_of),
        bytes_ideal=bytes_ideal(bytes_of, map_after.replication, phase.ideal_share),
        others_cores=others,
        before=before,
        starting=starting,
        during=during,
        settling=settling,
        after=after,
        wrong_reads=said.pop("wrong_reads"),
        findings=Findings(**said),
        is_equal=(await stage.verified()).is_equal,
    )


async def _others_cores(pids: list[int], seconds: float) -> float:
    """Wait so long; how many cores others than we use meanwhile."""
    ours = [os.getpid(), *pids]
    busy, before, began = busy_s(), used_s(ours), time.monotonic()
    await asyncio.sleep(seconds)
    return others_cores(busy_s() - busy, before, used_s(ours), time.monotonic() - began)


# -- what is done ---------------------------------------------------------------------------------


async def _add(stage: Stage) -> None:
    await stage.kv("cluster", "add")


async def _add_two(stage: Stage) -> None:
    await _add(stage)
    await _add(stage)


def _remove(node: str) -> Callable[[Stage], Awaitable[None]]:
    async def change(stage: Stage) -> None:
        await stage.kv("node", "remove", node)

    return change


async def _restart_all(stage: Stage) -> None:
    """One by one, each as soon as the last serves again; a setting is changed by the way."""
    for node in stage.nodes().values():
        with node.files.config_file.open("a", encoding="utf-8") as file:
            file.write(f"\n[sharding]\nreplace_after_s = {REPLACE_AFTER_S:g}\n")
        await stage.kv("cluster", "restart", node.id)


def _kill(name: str) -> Callable[[Stage], Awaitable[None]]:
    async def change(stage: Stage) -> None:
        node = stage.nodes()[name]
        node.send(signal.SIGKILL)
        node.wait_for(State.DEAD)

    return change


def _start(name: str) -> Callable[[Stage], Awaitable[None]]:
    async def change(stage: Stage) -> None:
        await stage.kv("cluster", "restart", name)

    return change


VICTIM = "n2"
FIVE = ("n1", "n2", "n3", "n6", "n7")
PHASES = (
    Phase("3 → 4 nodes", 1 / 4, _add, ("n1", "n2", "n3", "n4"), is_start=True),
    Phase("4 → 5", 1 / 5, _add, ("n1", "n2", "n3", "n4", "n5"), is_start=True),
    Phase("5 → 4", 1 / 5, _remove("n5"), ("n1", "n2", "n3", "n4")),
    Phase("4 → 3", 1 / 4, _remove("n4"), ("n1", "n2", "n3")),
    Phase("3 → 5, two at once", 2 / 5, _add_two, FIVE, is_start=True),
    Phase("restart of all, in turn", 0.0, _restart_all, FIVE),
    Phase(
        "kill -9 of one of 5, replaced",
        1 / 5,
        _kill(VICTIM),
        tuple(node for node in FIVE if node != VICTIM),
        is_planned=False,
    ),
    Phase("it comes back", 1 / 5, _start(VICTIM), FIVE, is_start=True),
)
