"""kvstore itself: three nodes with default settings, loaded by the worker of ``make bench``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.driver import Bencher, running_worker
from bench.stage import fresh
from kvstore.config import SHARDS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bench.measured import Cell, Run

NODES: Final = 3
KEYS: Final = 10_000
VALUE_BYTES: Final = 256
SEED: Final = 1


class Ours:
    """See :class:`bench.peers.store.Peer`."""

    name: Final = "kvstore"
    note: Final = (
        f"{NODES} nodes, default settings, {SHARDS_DEFAULT} shards; one process with a client a "
        f"connection; {KEYS:,} keys, each as likely"
    )

    def missing(self) -> str | None:
        """It is there."""
        return None

    def serves(self, cell: Cell) -> bool:
        """See :class:`bench.peers.store.Peer`."""
        return cell.value_bytes == VALUE_BYTES

    @asynccontextmanager
    async def up(self) -> AsyncIterator[OurCluster]:
        """See :class:`bench.peers.store.Peer`."""
        async with (
            fresh(NODES, SHARDS_DEFAULT) as target,
            running_worker(target.endpoints) as worker,
        ):
            await worker.fill(KEYS, VALUE_BYTES)
            yield OurCluster(worker, target.pids)


@dataclass(frozen=True, slots=True)
class OurCluster:
    """One that runs."""

    worker: Bencher
    pids: dict[str, int]

    async def run(self, cell: Cell, seconds: float, warm_up_s: float) -> Run:
        """See :class:`bench.peers.store.Store`."""
        return await self.worker.run(
            cell, keys=KEYS, seed=SEED, warm_up_s=warm_up_s, seconds=seconds, pids=self.pids
        )
