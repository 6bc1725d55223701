"""Clusters of real processes: free ports, a temporary directory, nothing left running."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import kvstore
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.node import stop
from kvstore.cli.launcher.ready import wait_until_led, wait_until_serving
from kvstore.cli.survey import survey_cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from kvstore.cli.launcher.cluster import Cluster, Wanted
    from kvstore.cli.launcher.node import Node
    from kvstore.cli.survey import Survey

WAIT_S = 30.0
"""Generous: a machine that runs other tests too may be slow. Nothing asserts a duration."""


async def wait_for(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_S
) -> None:
    """Ask until ``condition`` holds, or fail saying ``what`` did not come true."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)


class RunningCluster:
    """A cluster and what a test does to it. Every process is ended by its own id."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.directory = cluster.directory
        self.nodes = cluster.nodes
        self.endpoints = ",".join(node.files.address for node in cluster.nodes)

    def node(self, node_id: str) -> Node:
        return self.cluster.node(node_id)

    def connect(self, **options: Any) -> kvstore.Client:
        return kvstore.connect(self.endpoints, **{"timeout_s": WAIT_S, **options})

    async def start(self) -> None:
        """Start what is dead; returns once every shard has a leader."""
        started = self.cluster.start_dead()
        await wait_until_led(self.cluster, started, timeout_s=WAIT_S, progress=_quiet)

    async def restart(self, node: Node) -> None:
        """Start a dead node; returns once it serves and has caught up."""
        node.start()
        await wait_until_serving(self.cluster, node, timeout_s=WAIT_S, progress=_quiet)

    async def stop(self, *nodes: Node) -> list[Node]:
        """SIGTERM; the nodes that did not obey."""
        return await asyncio.to_thread(stop, nodes or self.nodes)

    async def survey(self) -> Survey:
        return await survey_cluster(self.cluster.layout.spec.config())

    async def leader_of(self, shard: int) -> Node:
        """Whoever leads ``shard``, once somebody does."""
        found: list[Node] = []

        async def is_led() -> bool:
            leader = (await self.survey()).view.shards[shard].leader
            if leader is not None:
                found.append(self.node(leader))
            return leader is not None

        await wait_for(is_led, f"shard {shard} has a leader")
        return found[0]

    async def leads_nothing(self, node: Node) -> bool:
        """Whether every shard is led, and by others."""
        view = (await self.survey()).view
        return view.is_led and all(shard.leader != node.id for shard in view.shards)


def _quiet(_text: str) -> None: ...


@contextmanager
def made(directory: Path, wanted: Wanted) -> Iterator[RunningCluster]:
    """A cluster that is not started yet; whatever runs of it at the end is killed."""
    with clusters.opened(directory, wanted) as opened:
        running = RunningCluster(opened)
        try:
            yield running
        finally:
            end(opened)


def end(cluster: Cluster) -> None:
    """Kill what runs and remove the data, which is large; the logs stay for a look."""
    stop(cluster.nodes, grace_s=0.0)
    for node in cluster.nodes:
        shutil.rmtree(node.files.data_dir, ignore_errors=True)


class Load:
    """Clients that write without pause and remember what was acknowledged.

    Every write has a key and a value of its own. One whose outcome is unknown is not counted
    as lost when it is missing.
    """

    def __init__(self, running: RunningCluster, *, writers: int = 8, seed: int = 1) -> None:
        self._running = running
        self._writers = writers
        self._numbers = count()
        self._rng = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.acknowledged: dict[str, bytes] = {}
        self.unknown = 0

    async def __aenter__(self) -> Load:
        self._store = self._running.connect()
        await self._store.open()
        self._tasks = [asyncio.create_task(self._write()) for _ in range(self._writers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self._store.close()

    async def _write(self) -> None:
        while not self._is_over:
            number = next(self._numbers)
            key, value = f"load-{number}", self._rng.randbytes(16) + b"%d" % number
            try:
                await self._store.put(key, value)
            except (kvstore.DeadlineExceeded, kvstore.Unavailable):
                self.unknown += 1
            else:
                self.acknowledged[key] = value

    async def go_on(self, writes: int) -> None:
        """Wait for so many more acknowledged writes: that the load bites is part of a test."""
        goal = len(self.acknowledged) + writes

        async def is_reached() -> bool:
            return len(self.acknowledged) >= goal

        await wait_for(is_reached, f"{writes} more acknowledged writes")

    async def check(self) -> None:
        """Every acknowledged write is there, unchanged."""
        async with self._running.connect() as store:
            found = await asyncio.gather(*map(store.get, self.acknowledged))
        lost = [
            key
            for (key, value), item in zip(self.acknowledged.items(), found, strict=True)
            if item is None or item.value != value
        ]
        assert not lost, f"{len(lost)} of {len(found)} acknowledged writes lost: {lost[:5]}"


def kv(*arguments: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ``kv`` as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "kvstore.cli", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=2 * WAIT_S,
        check=False,
    )
