"""A local cluster as a person has it: everything that is done to it is a ``kv`` command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster_harness import WAIT_S, end, kv

import kvstore
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.ports import free_base_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEYS = 40
WAIT = ("--timeout", f"{WAIT_S:g}")
NODES_MAX = 6
"""There are ports for so many, the founders among them."""
LOOK_S = 0.2


class Local:
    """A cluster in ``.kv`` of a working directory, with ports for more nodes than found it."""

    def __init__(self, directory: Path, wanted: clusters.Wanted, more_config: str = "") -> None:
        """Start it.

        Args:
            directory: The working directory.
            wanted: Without a base port.
            more_config: Goes to the end of every founder's file.
        """
        self.directory = directory
        self.base_port = free_base_port(NODES_MAX, random.Random())
        wanted = dataclasses.replace(wanted, base_port=self.base_port)
        with clusters.opened(directory / ".kv", wanted) as made:
            for node in made.nodes:
                with node.files.config_file.open("a", encoding="utf-8") as file:
                    file.write(more_config)
        self.ok("cluster", "up", *WAIT)

    def address(self, number: int) -> str:
        return f"127.0.0.1:{self.base_port + number}"

    def ok(self, *arguments: str) -> str:
        done = kv(*arguments, cwd=self.directory)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "-o", "json"))

    def fails(self, code: int, *arguments: str) -> str:
        done = kv(*arguments, cwd=self.directory)
        assert (done.returncode, done.stdout) == (code, b""), (arguments, done.stderr)
        (line,) = done.stderr.decode().splitlines()
        return line

    def states(self) -> dict[str, str]:
        return {node["id"]: node["state"] for node in self.json("cluster", "status")["nodes"]}

    def shards(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.json("shards")["shards"]
        return rows

    def held(self, node: str) -> int:
        """How many replicas of shards ``node`` has."""
        return sum(node in shard["replicas"] for shard in self.shards())

    async def fill(self) -> None:
        async with kvstore.connect(self.address(1), timeout_s=WAIT_S) as store:
            await asyncio.gather(*(store.put(f"k{number}", b"v") for number in range(KEYS)))

    def has_all_keys(self) -> bool:
        return self.ok("scan", "k").count("\n") == KEYS

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Ask until ``condition`` holds, or fail saying ``what`` did not come true."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {what}"
            time.sleep(LOOK_S)


@contextmanager
def local_cluster(
    directory: Path, wanted: clusters.Wanted, more_config: str = ""
) -> Iterator[Local]:
    """Whatever runs of it at the end is killed."""
    try:
        yield Local(directory, wanted, more_config)
    finally:
        if (directory / ".kv" / "cluster.toml").exists():
            end(clusters.load(directory / ".kv"))
