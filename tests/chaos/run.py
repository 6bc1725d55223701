"""One run: a cluster, its load, its enemy, and the verdict."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from typing import TYPE_CHECKING

from chaos.clients import Books, Load
from chaos.cluster import SHARDS, Cluster
from chaos.faults import Scene
from chaos.nemesis import Nemesis
from chaos.report import Run
from chaos.verdict import Verdict, heal, judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORT_EVERY_S = 5.0


async def run_chaos(
    directory: Path,
    *,
    seed: int,
    seconds: float | None,
    kills: int | None = None,
    nodes: int = 5,
    clients: int = 8,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run in ``directory``; node logs and data stay there until the next run.

    Args:
        directory: emptied first.
        seed: decides which faults come, on whom and for how long.
        seconds: how long; None for each fault once.
        kills: end earlier, after so many.
        nodes: how many processes.
        clients: how many clients.
        say: takes a line of progress now and then.
    """
    shutil.rmtree(directory, ignore_errors=True)
    rng = random.Random(seed)
    cluster, books, verdict = Cluster(directory, nodes, rng), Books(SHARDS), Verdict()
    for note in cluster.notes:
        say(note)
    began = time.monotonic()
    try:
        await cluster.open()
        scene = Scene(cluster, books, rng)
        nemesis = Nemesis(scene)
        async with Load(cluster.endpoints, clients, books, rng) as load:
            began = time.monotonic()

            def is_over() -> bool:
                load.check()
                late = seconds is not None and time.monotonic() - began >= seconds
                return late or (kills is not None and scene.kills >= kills)

            progress = asyncio.create_task(_tell(scene, began, say))
            try:
                await (nemesis.each_once() if seconds is None else nemesis.act(is_over))
            finally:
                progress.cancel()
                await asyncio.gather(progress, return_exceptions=True)
            await heal(cluster, verdict)
        ended = time.monotonic()
        say("healed; reading everything back")
        await judge(cluster, books, verdict)
        verdict.problems += _missing(nemesis)
    finally:
        await cluster.close()
    return Run(seed, began, ended, scene.kills, books, nemesis.events, verdict, cluster.notes)


def _missing(nemesis: Nemesis) -> list[str]:
    """Faults that came and never bit under load: then the run proves nothing about them."""
    came = {event.name for event in nemesis.events}
    bit = {event.name for event in nemesis.events if event.counts}
    return [f"the fault {name!r} never bit under load" for name in sorted(came - bit)]


async def _tell(scene: Scene, began: float, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        books = scene.books
        say(
            f"{time.monotonic() - began:6.0f} s  {books.per_second(REPORT_EVERY_S):6.0f} "
            f"operations/s  {books.acknowledged_writes:8} writes acknowledged  "
            f"{scene.kills:4} kills"
        )
