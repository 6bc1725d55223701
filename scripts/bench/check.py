"""Whether the store has become slow: ``python -m bench.check``, fit for any machine.

What is compared is not time but work: processor time of the servers and of the client for each
operation, in relation to what this machine needs for a fixed piece of Python of the same kind. So
neither a slow machine nor a busy one fails; only a store that does more than it did.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgpack

from bench.driver import running_worker
from bench.measured import LOAD, Cell
from bench.program import exit_code_of
from bench.resources import is_told
from bench.stage import fresh
from bench.table import significant
from kvstore.config import SHARDS_DEFAULT
from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.driver import Bencher
    from bench.measured import Run


@dataclass(frozen=True, slots=True)
class Budget:
    """What an operation of a load may cost."""

    cell: Cell
    operations: int
    """In each round."""
    server_us: float
    """Processor time in all servers together as it was measured, with the yardstick below."""
    client_us: float
    """The same in the client."""


YARDSTICK_S: Final = 0.05
"""What :func:`yardstick_s` was where the budgets were measured; all costs are scaled to that."""
SLACK: Final = 2.0
"""How many times its budget an operation may cost."""
BUDGETS: Final = (
    Budget(Cell("put", 256, 4), 20_000, server_us=72.0, client_us=13.5),
    Budget(Cell("get", 256, 4), 40_000, server_us=17.0, client_us=8.5),
    Budget(Cell("put", 1, 1), 1_000, server_us=1400.0, client_us=120.0),
)

NODES: Final = 3
KEYS: Final = 20_000
ROUNDS: Final = 3
"""The best one counts: whatever disturbs makes an operation dearer, never cheaper."""
_YARDSTICK_ROWS: Final = 50_000
_YARDSTICK_HELD: Final = 256
_YARDSTICK_TIMES: Final = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What an operation took, in microseconds of the machine of the budgets."""

    server_us: float
    client_us: float


def yardstick_s() -> float:
    """Processor seconds for a fixed amount of packing, unpacking, keeping and joining bytes."""
    value, took_s = bytes(range(256)), []
    for _ in range(_YARDSTICK_TIMES):
        began = time.process_time()
        held: dict[bytes, tuple[int, bytes]] = {}
        for number in range(_YARDSTICK_ROWS):
            packed = msgpack.packb((number, b"bench%011d" % number, value))
            again, key, kept = msgpack.unpackb(packed, use_list=False)
            held[key] = (again, kept)
            if len(held) == _YARDSTICK_HELD:
                b"".join(held[key][1] for key in sorted(held))
                held.clear()
        took_s.append(time.process_time() - began)
    return statistics.median(took_s)


def cost_of(run: Run, yardstick: float) -> Cost:
    """Of one run, scaled by what the yardstick was around it."""
    scale = 1e6 * YARDSTICK_S / yardstick / run.operations
    client_s = run.cpu_s[LOAD]
    return Cost((sum(run.cpu_s.values()) - client_s) * scale, client_s * scale)


def best(costs: Iterable[Cost]) -> Cost:
    """The least of each."""
    kept = list(costs)
    return Cost(min(cost.server_us for cost in kept), min(cost.client_us for cost in kept))


def broken(costs: Mapping[Budget, Cost]) -> list[str]:
    """A sentence for each budget that was not kept."""
    said = []
    for budget, cost in costs.items():
        for who, measured, allowed in (
            ("the servers", cost.server_us, SLACK * budget.server_us),
            ("the client", cost.client_us, SLACK * budget.client_us),
        ):
            if measured > allowed:
                said.append(
                    f"{budget.cell.name} takes {significant(measured)} µs of {who} an operation, "
                    f"over the budget of {significant(allowed)} µs"
                )
    return said


async def measure() -> dict[Budget, Cost]:
    """Each load some rounds on a fresh cluster.

    Raises:
        KVError: it cannot be measured, or an operation has failed.
    """
    if not is_told():
        raise KVError("this system does not tell what a process has used")
    costs: dict[Budget, list[Cost]] = {budget: [] for budget in BUDGETS}
    async with (
        fresh(NODES, SHARDS_DEFAULT) as target,
        running_worker(target.endpoints) as worker,
    ):
        await worker.fill(KEYS, BUDGETS[0].cell.value_bytes)
        for turn in range(ROUNDS):
            for budget in BUDGETS:
                costs[budget].append(await _round(worker, budget, turn, target.pids))
    return {budget: best(rounds) for budget, rounds in costs.items()}


async def _round(worker: Bencher, budget: Budget, turn: int, pids: Mapping[str, int]) -> Cost:
    before_s = yardstick_s()
    run = await worker.run_number(budget.cell, budget.operations, keys=KEYS, seed=turn, pids=pids)
    return cost_of(run, (before_s + yardstick_s()) / 2)


async def _run() -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    costs = await measure()
    for budget, cost in costs.items():
        print(
            f"{budget.cell.name}: servers {significant(cost.server_us)} µs/op (budget "
            f"{SLACK:g} x {significant(budget.server_us)}), client "
            f"{significant(cost.client_us)} (budget {SLACK:g} x {significant(budget.client_us)})"
        )
    sentences = broken(costs)
    for sentence in sentences:
        sys.stderr.write(f"too slow: {sentence}\n")
    return 1 if sentences else 0


def main() -> int:
    """Check all budgets."""
    return exit_code_of(_run())


if __name__ == "__main__":
    sys.exit(main())
