"""Which loads are measured: a selection that shows what matters, or all, or what is asked for."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

from bench.loads import SCAN_ROWS
from bench.measured import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OPERATIONS: Final = ("put", "get", "mix", "ycsb-a", "ycsb-b", "ycsb-c", "scan", "cas")
IN_FLIGHT: Final = (1, 16, 64, 256, 1024)
CONNECTIONS: Final = (1, 4, 16, 256)
VALUE_BYTES: Final = (256, 16, 4096, 65_536)
"""What is usual comes first."""
LARGE_IN_FLIGHT: Final = 64
"""Of values of 64 KiB: more of them at once are only a longer queue."""
RATE: Final = 2_000.0
"""Of open loops: less than the store can do on two cores, so that they show its pauses."""
BYTES_AT_ONCE_MAX: Final = 64 << 20
"""Values under way in one load; with more it is memory that is measured, and deadlines."""
USUAL: Final = (256, 4)
"""In flight, connections."""


def selection() -> list[Cell]:
    """What is measured if nothing else is asked for, each once."""
    cells: list[Cell] = []
    for operation in ("put", "get"):
        cells += [Cell(operation, n, min(n, USUAL[1])) for n in IN_FLIGHT]
        cells += [Cell(operation, USUAL[0], n) for n in CONNECTIONS if n != USUAL[1]]
    cells += [Cell(operation, *USUAL) for operation in ("mix", "ycsb-a", "ycsb-b", "ycsb-c")]
    cells += [Cell("scan", 1, 1), Cell("scan", 16, 4), Cell("cas", 1, 1), Cell("cas", 64, 4)]
    cells += [Cell(operation, *USUAL, rate=RATE) for operation in ("put", "get", "mix")]
    for value_bytes in VALUE_BYTES[1:]:
        in_flight = USUAL[0] if value_bytes < 10_000 else LARGE_IN_FLIGHT
        cells += [Cell(operation, in_flight, USUAL[1], value_bytes) for operation in ("put", "get")]
    return cells


def every(rate: float) -> list[Cell]:
    """All that can be combined within reason, and each load at a fixed pace."""
    closed = grid(OPERATIONS, IN_FLIGHT, CONNECTIONS, VALUE_BYTES)
    quick = [operation for operation in OPERATIONS if operation != "scan"]
    paced = grid(quick, USUAL[:1], USUAL[1:], VALUE_BYTES[:-1], rate)
    return [cell for cell in closed if _bytes_at_once(cell) < BYTES_AT_ONCE_MAX] + paced


def _bytes_at_once(cell: Cell) -> int:
    rows = SCAN_ROWS if cell.operation == "scan" else 1
    return rows * cell.in_flight * cell.value_bytes


def grid(
    operations: Iterable[str],
    in_flight: Sequence[int],
    connections: Sequence[int],
    value_bytes: Iterable[int],
    rate: float | None = None,
) -> list[Cell]:
    """All combinations in which every connection has something to do.

    If there are fewer operations in flight than any number of connections, each has its own.
    """
    pairs = [(n, c) for n, c in product(in_flight, connections) if c <= n]
    pairs += [(n, n) for n in in_flight if all(n != known for known, _ in pairs)]
    chosen = product(value_bytes, operations, sorted(pairs))
    return [Cell(operation, *pair, size, rate) for size, operation, pair in chosen]
