"""The cluster that is measured: a fresh one, or one that is there."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from elasticity.stage import Stage

from bench.resources import is_told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Target:
    """One cluster."""

    endpoints: str
    pids: dict[str, int] = field(default_factory=dict)
    """Its processes by node, where they are known."""
    directory: Path | None = None
    """Where its data lies, if that is known."""


@asynccontextmanager
async def standing(nodes: int, shards: int, settings: str = "") -> AsyncIterator[Stage]:
    """A new cluster, led as its map prefers; nothing is left of it.

    ``settings`` is TOML; without it all is as by default.

    Raises:
        KVError: it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="kvstore-bench-") as directory:
        stage = Stage(Path(directory))
        try:
            await stage.up(nodes, shards, settings)
            await stage.until_led()
            yield stage
        finally:
            await stage.end()


@asynccontextmanager
async def fresh(nodes: int, shards: int) -> AsyncIterator[Target]:
    """The same with default settings, as something to be measured. Raises likewise."""
    async with standing(nodes, shards) as stage:
        yield Target(stage.endpoints, pids_of(stage), stage.directory)


def pids_of(stage: Stage) -> dict[str, int]:
    """Its nodes' processes, by name."""
    if not is_told():
        return {}
    every = {name: node.pid() for name, node in stage.nodes().items()}
    return {name: pid for name, pid in every.items() if pid is not None}
