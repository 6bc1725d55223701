"""One run: a cluster, its workload, the nemesis, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from typing import TYPE_CHECKING

from chaos.clients import Workload
from chaos.cluster import SHARDS, Cluster, unmount
from chaos.history import History
from chaos.nemesis import OPERATIONS_PER_S_MIN, Nemesis
from chaos.report import Run
from chaos.target import Target
from chaos.verdict import Verdict, heal, judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

REPORT_EVERY_S = 5.0
MARK = ".chaos"
"""The file that says that a directory may be emptied."""


class Unusable(Exception):
    """The directory holds something that a run did not make, or cannot be written."""


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
        directory: emptied first, if it is of an earlier run.
        seed: decides which faults come, on whom and for how long.
        seconds: how long; None for each fault once.
        kills: end earlier, after so many.
        nodes: how many processes.
        clients: how many clients.
        say: takes a line of progress now and then.

    Raises:
        Unusable: says why ``directory`` is no place for a run; none was begun.
        DidNotStart: the cluster is not there.
    """
    await asyncio.to_thread(_make_empty, directory)
    # One source of chance each: what one draws does not depend on how often the others do.
    network, victims, load_rng, draws = (random.Random(f"{seed}/{part}") for part in range(4))
    cluster, history, verdict = Cluster(directory, nodes, network), History(SHARDS), Verdict()
    for note in cluster.notes:
        say(note)
    began = time.monotonic()
    try:
        await cluster.open()
        target = Target(cluster, history, victims)
        nemesis = Nemesis(target, draws)
        async with Workload(cluster.endpoints, clients, history, load_rng) as load:
            began = time.monotonic()

            def is_over() -> bool:
                load.check()
                late = seconds is not None and time.monotonic() - began >= seconds
                enough = kills is not None and target.kills >= kills
                return late or enough or bool(cluster.unexpected_ends())

            async with _telling(target, began, say):
                await (nemesis.each_once() if seconds is None else nemesis.act(is_over))
            await heal(cluster, verdict)
        ended = time.monotonic()
        say(f"healed in {verdict.recovery_s:.1f} s; reading everything back")
        await judge(cluster, history, verdict)
        verdict.problems += _too_weak(nemesis, history, ended - began)
        cluster.notes += _left_out(nemesis)
        if verdict.problems:
            await asyncio.to_thread(cluster.keep_small_disk)
    finally:
        await cluster.close()
    return Run(
        seed,
        began,
        ended,
        target.kills,
        cluster.retries.retried,
        history,
        nemesis.events,
        verdict,
        cluster.notes,
    )


def _make_empty(directory: Path) -> None:
    try:
        _empty(directory)
    except OSError as error:
        raise Unusable(f"{directory} cannot be used: {error.strerror}") from None


def _empty(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        raise Unusable(f"{directory} holds other things: name a new directory")
    for disk in directory.glob("n*/data"):
        if disk.is_mount():  # of a run that was killed
            unmount(disk)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARK).touch()


def _left_out(nemesis: Nemesis) -> list[str]:
    never = sorted(nemesis.all.keys() - {event.name for event in nemesis.events})
    return [f"NOT TRIED, for the run was short: {', '.join(never)}"] if never else []


def _too_weak(nemesis: Nemesis, history: History, seconds: float) -> list[str]:
    """Why a run proves nothing: too little traffic, or faults that came but never bit."""
    came = {event.name for event in nemesis.events}
    bit = {event.name for event in nemesis.events if event.counts}
    said = [f"the fault {name!r} never bit under load" for name in sorted(came - bit)]
    rate = history.outcomes["ok"] / max(seconds, 1.0)
    if rate < OPERATIONS_PER_S_MIN:
        said.append(f"too little traffic: {rate:.0f} operations/s, {OPERATIONS_PER_S_MIN:g} needed")
    return said


@contextlib.asynccontextmanager
async def _telling(target: Target, began: float, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Lines of progress while it lasts."""
    progress = asyncio.create_task(_tell(target, began, say))
    try:
        yield
    finally:
        progress.cancel()
        await asyncio.wait([progress])
        if not progress.cancelled():
            progress.result()


async def _tell(target: Target, began: float, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        history = target.history
        say(
            f"{time.monotonic() - began:6.0f} s  {history.per_second(REPORT_EVERY_S):6.0f} "
            f"operations/s  {history.acknowledged_writes:8} writes acknowledged  "
            f"{target.kills:4} kills"
        )
