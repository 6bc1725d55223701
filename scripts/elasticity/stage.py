"""A cluster of real processes in a temporary directory, driven by the commands that people have."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kvstore
from elasticity.level import misled, unrest
from kvstore.cli.endpoints import of_directory
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.node import stop
from kvstore.cli.launcher.ports import free_base_port
from kvstore.cli.verification import verify_cluster
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from kvstore.cli.launcher.node import Node
    from kvstore.cli.verdict import Verification
    from kvstore.sharding.shard_map import ShardMap

NODES_MAX = 12
"""Numbers are never used again, so ports for more than live at once."""
POLL_S = 0.1
QUIET_S = 1.0
"""The replicas rest if nothing has moved for so long; that time is not counted."""
WAIT_S = 120.0


class Stage:
    """One cluster. Invariant: whatever runs of it is named in its directory."""

    def __init__(self, directory: Path) -> None:
        """Nothing is started yet."""
        self.directory = directory
        self._store: kvstore.Client | None = None
        self._shards = 0

    async def kv(self, *arguments: str) -> Any:
        """The JSON answer of a ``kv`` command on this cluster.

        Raises:
            KVError: it has failed; its own words say why.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kvstore.cli", *arguments, "-o", "json"),
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if name != "KV_ENDPOINTS"},
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            out, said = await process.communicate()
        except asyncio.CancelledError:
            process.send_signal(signal.SIGINT)  # it puts away what it has half made
            await process.wait()
            raise
        if process.returncode:
            raise KVError(f"kv {' '.join(arguments)}: {said.decode().strip()}")
        return json.loads(out)

    def nodes(self) -> dict[str, Node]:
        """By name, those that were not removed."""
        return {node.id: node for node in clusters.load(self.directory / ".kv").nodes}

    def pids(self) -> list[int]:
        """Of the nodes that run."""
        return [pid for node in self.nodes().values() if (pid := node.pid()) is not None]

    @property
    def endpoints(self) -> str:
        """Every node's address, as the client takes them."""
        return ",".join(node.files.address for node in self.nodes().values())

    async def up(self, nodes: int, shards: int, settings: str = "") -> None:
        """Found the cluster and connect to it; ``settings`` is TOML for each node's file."""
        self._shards = shards
        base_port = free_base_port(NODES_MAX, random.SystemRandom())
        made = clusters.Wanted(nodes, shards, base_port=base_port)
        if settings:  # nodes read them when they are started
            with clusters.opened(self.directory / ".kv", made) as cluster:
                for node in cluster.nodes:
                    with node.files.config_file.open("a", encoding="utf-8") as file:
                        file.write(f"\n{settings}\n")
        wanted = {"nodes": nodes, "shards": shards, "base-port": base_port}
        options = (part for name, value in wanted.items() for part in (f"--{name}", str(value)))
        await self.kv("cluster", "up", *options)
        self._store = kvstore.connect(self.endpoints)
        await self._store.open()

    async def end(self) -> None:
        """Kill what runs."""
        if self._store is not None:
            await self._store.close()
        if (self.directory / ".kv" / "cluster.toml").exists():
            stop(clusters.load(self.directory / ".kv").alive(), grace_s=0.0)

    @property
    def store(self) -> kvstore.Client:
        """For looking at the cluster, not for loading it."""
        assert self._store is not None
        return self._store

    # -- looking --------------------------------------------------------------------------------

    async def shard_map(self) -> ShardMap:
        """As a reachable node has it."""
        return await self.store.shard_map()

    async def rows(self) -> dict[str, list[dict[str, Any]]]:
        """What each node that answers says of its replicas of shards."""
        statuses = await self.store.node_statuses()
        return {said.node: said.status["shards"] for said in statuses if said.status is not None}

    async def bytes_of(self) -> dict[int, int]:
        """What the keys and values of each shard take."""
        rows = [row for rows in (await self.rows()).values() for row in rows]
        return {row["id"]: row["bytes"] for row in rows if row["role"] == "leader"}

    async def until_applied(self) -> None:
        """Return once every replica has applied what its leader has. Raises as below."""
        deadline = time.monotonic() + WAIT_S
        while True:
            rows = [row for held in (await self.rows()).values() for row in held]
            if len({(row["id"], row["applied_index"]) for row in rows}) == self._shards:
                return
            if time.monotonic() > deadline:
                raise Unavailable("replicas do not catch up")
            await asyncio.sleep(POLL_S)

    async def until_level(self, nodes: Collection[str]) -> float:
        """Return once the replicas rest on these nodes; since when, by the steady clock.

        Raises:
            Unavailable: not within ``WAIT_S``; says what is not as it should be.
        """
        deadline, since = time.monotonic() + WAIT_S, None
        while True:
            lack = unrest(await self.shard_map(), nodes)
            now = time.monotonic()
            since = None if lack else since or now
            if since is not None and now - since >= QUIET_S:
                return since
            if now > deadline:
                raise Unavailable(f"no rest after {WAIT_S:g} s: {lack or 'it comes and goes'}")
            await asyncio.sleep(POLL_S)

    async def until_led(self) -> float:
        """Return once each shard is led by whom the map prefers; since when. Raises as above."""
        deadline = time.monotonic() + WAIT_S
        while True:
            rows = (await self.rows()).items()
            leaders = {
                row["id"]: node for node, held in rows for row in held if row["role"] == "leader"
            }
            wrong = misled(await self.shard_map(), leaders)
            now = time.monotonic()
            if not wrong:
                return now
            if now > deadline:
                raise Unavailable(f"shards {wrong} are not led by whom the map prefers")
            await asyncio.sleep(POLL_S)

    async def verified(self) -> Verification:
        """Compare the replicas of all shards, as ``kv verify`` does."""
        return await verify_cluster(of_directory(self.directory / ".kv"))


@asynccontextmanager
async def staged(nodes: int, shards: int) -> AsyncIterator[Stage]:
    """A fresh cluster; nothing is left of it at the end."""
    with tempfile.TemporaryDirectory(prefix="kvstore-elastic-") as directory:
        stage = Stage(Path(directory))
        try:
            await stage.up(nodes, shards)
            yield stage
        finally:
            await stage.end()
