"""What can be asked of the bench."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.cells import OPERATIONS, RATE, USUAL, VALUE_BYTES, every, grid, selection
from bench.measure import KEYS_DEFAULT, NODES_DEFAULT, RUNS, SECONDS, WARM_UP_S, Plan
from kvstore.config import SHARDS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.measured import Cell

OUT: Final = Path("bench-results")
SECONDS_MAX: Final = 120.0
"""Of a run: how long each operation took is kept until its end."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends the program if that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures how fast the store is, and what that costs."
    )
    what = parser.add_argument_group("what is measured (lists are separated by commas)")
    what.add_argument("--only", type=_operations, metavar="LOADS", help=", ".join(OPERATIONS))
    what.add_argument("--in-flight", type=numbers, metavar="N", help="operations at a time")
    what.add_argument("--connections", type=numbers, metavar="N", help="clients")
    what.add_argument("--value-bytes", type=numbers, metavar="N")
    what.add_argument("--rate", type=above_0, metavar="N", help="a fixed pace, operations/s")
    what.add_argument("--full", action="store_true", help="all combinations: that takes hours")
    how = parser.add_argument_group("how")
    how.add_argument("--seconds", type=seconds, default=SECONDS, help="of each run")
    how.add_argument("--warm-up", type=seconds, default=WARM_UP_S, help="seconds before it")
    how.add_argument("--runs", type=whole, default=RUNS, help="of each load")
    how.add_argument(
        "--keys", type=whole, help=f"in the store ({KEYS_DEFAULT:,}, fewer of large values)"
    )
    how.add_argument("--nodes", type=whole, default=NODES_DEFAULT)
    how.add_argument("--shards", type=whole, default=SHARDS_DEFAULT)
    how.add_argument(
        "--endpoints", help="measure this cluster, whatever it is; keys bench... stay in it"
    )
    shown = parser.add_argument_group("what comes of it")
    shown.add_argument("--markdown", action="store_true", help="the table for a README")
    shown.add_argument("--out", type=Path, default=OUT, help=f"directory of JSON and SVG ({OUT})")
    asked = parser.parse_args(arguments)
    if not cells_of(asked):
        parser.error("that leaves nothing to measure")
    return asked


def plan_of(asked: argparse.Namespace) -> Plan:
    """What they come to."""
    return Plan(
        cells=cells_of(asked),
        runs=asked.runs,
        seconds=asked.seconds,
        warm_up_s=asked.warm_up,
        keys=asked.keys,
        nodes=asked.nodes,
        shards=asked.shards,
        endpoints=asked.endpoints,
    )


def cells_of(asked: argparse.Namespace) -> tuple[Cell, ...]:
    """What is to be measured: numbers that are given take the place of the whole selection."""
    if any((asked.in_flight, asked.connections, asked.value_bytes, asked.rate)):
        chosen = grid(
            asked.only or ("put", "get"),
            asked.in_flight or USUAL[:1],
            asked.connections or USUAL[1:],
            asked.value_bytes or VALUE_BYTES[:1],
            asked.rate,
        )
        return tuple(chosen)
    cells = every(RATE) if asked.full else selection()
    return tuple(cell for cell in cells if asked.only is None or cell.operation in asked.only)


def above_0(said: str) -> float:
    """A number above 0."""
    number = float(said)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{said} is not above 0")
    return number


def seconds(said: str) -> float:
    """So long as a run may be."""
    if (number := above_0(said)) > SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{said} is above {SECONDS_MAX:g}")
    return number


def whole(said: str) -> int:
    """A whole number above 0."""
    above_0(said)
    return int(said)


def _list_of(known: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def read(said: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(map(known, said.split(","))))

    return read


numbers = _list_of(whole)


@_list_of
def _operations(said: str) -> str:
    if said not in OPERATIONS:
        raise argparse.ArgumentTypeError(f"{said}: there are {', '.join(OPERATIONS)}")
    return said
