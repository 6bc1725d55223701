"""Runs the stores in turn: each is started, loaded with all its cells, and ended; then the next.

Only one runs at a time, so that none costs another anything. From round to round the order turns,
so that none is always the first. What is compared was measured in the same round, minutes apart.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench import machine
from bench.peers.results import Results
from bench.table import significant
from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measured import Cell
    from bench.peers.store import Peer, Store


async def measure_all(
    peers: Sequence[Peer], cells: Sequence[Cell], rounds: int, seconds: float, warm_up_s: float
) -> Results:
    """Everything, as often as there are rounds; tells on stderr how far it is.

    A store that fails, fails alone: the others are measured nevertheless.

    Raises:
        KVError: the machine itself could not be measured.
    """
    results = Results()
    for turn in range(rounds):
        tell(f"round {turn + 1} of {rounds}")
        results.machine.append(await machine.facts())
        for peer in peers if turn % 2 == 0 else reversed(peers):
            await _measure(peer, cells, seconds, warm_up_s, results)
    return results


async def _measure(
    peer: Peer, cells: Sequence[Cell], seconds: float, warm_up_s: float, results: Results
) -> None:
    """All cells of one store that it serves and that have not failed before."""
    left = [c for c in cells if peer.serves(c) and not results.has_failed(peer.name, c)]
    if not left:
        return
    try:
        async with peer.up() as store:
            while left:
                await _run(store, peer.name, left[0], seconds, warm_up_s, results)
                del left[0]
    except KVError as error:  # it has not come up, or not gone down
        tell(f"{peer.name} has failed: {error}")
        for cell in left:
            results.fail(peer.name, cell, str(error))


async def _run(
    store: Store, name: str, cell: Cell, seconds: float, warm_up_s: float, results: Results
) -> None:
    try:
        run = await store.run(cell, seconds, warm_up_s)
        if not run.operations:
            raise KVError(f"no operation ended in {seconds:g} s")
    except KVError as error:
        tell(f"  {name}, {cell.name} has failed: {error}")
        results.fail(name, cell, str(error))
        return
    results.add(name, cell, run)
    p50, p99 = (significant(1000 * run.latency.percentile_s(percent)) for percent in (50, 99))
    tell(f"  {name}, {cell.name}: {run.rate:,.0f}/s, p50 {p50} ms, p99 {p99} ms")


def tell(text: str) -> None:
    """How far it is, for whoever waits."""
    print(text, file=sys.stderr, flush=True)
