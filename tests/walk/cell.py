"""One cell of the walk: a load, something that is done, and the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kvstore
from chaos.clients import Workload
from chaos.cluster import comes_true
from chaos.history import History
from walk.cluster import SHARDS, WAIT_S, Cluster
from walk.watch import Watch
from walk.whole import Found, disk_problems, judge, until_whole

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 4
REST_S_MAX = 0.08
"""Enough load for a history, and so little data that snapshots take as long in the last cell."""
BALLAST_KEYS = 1000
BALLAST_BYTES = 4000
"""1 MB a shard, so that a snapshot is on its way for about a second."""
AT_ONCE = 100
AFTERMATH_S = 0.5
"""The load goes on for so long after the cluster is whole."""
ANSWERS_MIN = 5
"""Of each shard, after the cluster is whole."""


class DidNotBite(Exception):
    """What should have been hurt was not there to be hurt."""


@dataclass
class Ground:
    """A cluster on which cells are tried one after the other, and what stays between them."""

    cluster: Cluster
    rng: random.Random
    say: Callable[[str], None]
    absent: set[str] = field(default_factory=set)
    """Nodes that are not to come back."""
    number: int = 0

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        """Of all nodes that there are now."""
        async with Watch(self.cluster.addresses) as watch:
            yield watch


@dataclass
class Scene:
    """What a cell is given."""

    ground: Ground
    watch: Watch
    hurt_at: float = 0.0
    """When the fault came; 0 = not yet."""
    told: list[str] = field(default_factory=list)
    """What happened, for the report."""

    @property
    def cluster(self) -> Cluster:
        return self.ground.cluster

    @property
    def rng(self) -> random.Random:
        return self.ground.rng

    def tell(self, text: str) -> None:
        self.told.append(text)

    def hurt(self) -> None:
        """The fault has come, now."""
        self.hurt_at = self.hurt_at or time.monotonic()


Act = Callable[[Scene], Awaitable[None]]
"""Does it; leaves the cluster able to become whole. Raises DidNotBite."""


@dataclass(frozen=True)
class Cell:
    """Its name is what ``--only`` takes."""

    name: str
    act: Act


@dataclass
class Result:
    """A line of the table."""

    name: str
    told: str
    found: Found
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.found.problems


@asynccontextmanager
async def ground_on(
    directory: Path,
    seed: str,
    say: Callable[[str], None],
    *,
    has_links: bool = False,
    founders: int = 3,
) -> AsyncIterator[Ground]:
    """A cluster that serves and is full; at the end nothing of it runs."""
    cluster = Cluster(directory, has_links=has_links, nodes=founders)
    ground = Ground(cluster, random.Random(seed), say)
    try:
        await cluster.open()
        await _fill(cluster, ground.rng)
        yield ground
    finally:
        await cluster.close()


async def _fill(cluster: Cluster, rng: random.Random) -> None:
    async with kvstore.connect(str(cluster.endpoints), timeout_s=30.0) as store:
        for first in range(0, BALLAST_KEYS, AT_ONCE):
            keys = range(first, first + AT_ONCE)
            await asyncio.gather(
                *(store.put(f"ballast-{key}", rng.randbytes(BALLAST_BYTES)) for key in keys)
            )


async def run_cell(ground: Ground, cell: Cell) -> Result:
    """Try ``cell``; whatever goes wrong is a problem in its result."""
    ground.number += 1
    began = time.monotonic()
    history, found = History(SHARDS), Found()
    endpoints = str(ground.cluster.endpoints)
    prefix = f"cell-{ground.number}."
    async with ground.watch() as watch:
        scene = Scene(ground, watch)
        async with Workload(endpoints, CLIENTS, history, ground.rng, prefix, REST_S_MAX):
            try:
                await cell.act(scene)
            except DidNotBite as missed:
                found.problems.append(f"did not bite: {missed}")
            except (AssertionError, kvstore.KVError, TimeoutError) as error:
                found.problems.append(f"{type(error).__name__}: {error}")
            finally:
                mend(ground)
            since_s = time.monotonic() - (scene.hurt_at or time.monotonic())
            waited_s, problems = await until_whole(watch, frozenset(ground.absent))
            problems += await _aftermath(history)
            ended = time.monotonic()
    found.recovery_s = since_s + waited_s
    found.pause_s = longest_pause_s(history, scene.hurt_at or began, ended)
    found.problems += problems
    await judge(ground.cluster, history, found)
    return Result(cell.name, "; ".join(scene.told), found, time.monotonic() - began)


async def _aftermath(history: History) -> list[str]:
    """Let the load go on, now that the cluster is whole; which shards do not take part in it."""
    since = time.monotonic()

    async def all_answer() -> bool:
        return not quiet_shards(history, since)

    await asyncio.sleep(AFTERMATH_S)
    await comes_true(all_answer, WAIT_S)
    quiet = quiet_shards(history, since)
    return [f"shard {shard} hardly answers although the cluster is whole" for shard in quiet]


def quiet_shards(history: History, since: float) -> list[int]:
    """Those that have answered too little since then to say that they serve."""
    answers = Counter(each.shard for each in history.samples if each.is_ok and each.at > since)
    return [shard for shard in range(SHARDS) if answers[shard] < ANSWERS_MIN]


def longest_pause_s(history: History, since: float, until: float) -> float:
    """The longest that any shard has answered nothing, between the two."""
    last = dict.fromkeys(range(SHARDS), since)
    longest = 0.0
    for sample in history.samples:
        if sample.is_ok and since < sample.at < until:
            longest = max(longest, sample.at - last[sample.shard])
            last[sample.shard] = sample.at
    return max(longest, *(until - at for at in last.values()))


def mend(ground: Ground) -> None:
    """Take back whatever a cell has done to disks and ways, and start whoever is dead."""
    for link in ground.cluster.links.values():
        link.heal()
    for node in ground.cluster.nodes:
        node.resume()
        node.clear_fault()
        assert node.shim is not None
        node.shim.make_room()
        if not node.is_up and node.id not in ground.absent:
            node.start()


async def look_at_disks(ground: Ground) -> list[str]:
    """Stop everybody, and see whether what the map does not give them is gone from their disks."""
    async with ground.watch() as watch:
        await until_whole(watch, frozenset(ground.absent), 20.0)
        shard_map = watch.shard_map
    await ground.cluster.stop()
    if shard_map is None:
        return ["no node has a map"]
    problems: list[str] = []
    for node in ground.cluster.nodes:
        if shard_map.has(node.id):
            problems += await asyncio.to_thread(disk_problems, node.id, node.data_dir, shard_map)
    return problems
