"""What can be asked of the bench."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bench.cells import OPERATIONS, RATE, USUAL, VALUE_BYTES, every, grid, selection
from kvstore.config import SHARDS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.measured import Cell

KEYS = 100_000
RUNS = 3
SECONDS = 3.0
WARM_UP_S = 1.0


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says; ends the program if that makes no sense."""
    parser = argparse.ArgumentParser(prog="bench", description="How fast the store is.")
    what = parser.add_argument_group("what is measured (lists are separated by commas)")
    what.add_argument("--only", type=_operations, metavar="LOADS", help=", ".join(OPERATIONS))
    what.add_argument("--in-flight", type=_numbers, metavar="N", help="operations at a time")
    what.add_argument("--connections", type=_numbers, metavar="N", help="clients")
    what.add_argument("--value-bytes", type=_numbers, metavar="N")
    what.add_argument("--rate", type=_positive(float), help="a fixed pace, operations a second")
    what.add_argument("--full", action="store_true", help="all combinations: this takes hours")
    how = parser.add_argument_group("how")
    how.add_argument("--seconds", type=_positive(float), default=SECONDS, help="of each run")
    how.add_argument("--warm-up", type=_positive(float), default=WARM_UP_S, help="seconds before")
    how.add_argument("--runs", type=_positive(int), default=RUNS)
    how.add_argument("--keys", type=_positive(int), default=KEYS, help="at most so many")
    how.add_argument("--nodes", type=_positive(int), default=3)
    how.add_argument("--shards", type=_positive(int), default=SHARDS_DEFAULT)
    how.add_argument("--endpoints", help="measure this cluster; keys bench... stay in it")
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--markdown", action="store_true", help="the table for a README")
    return parser.parse_args(arguments)


def cells_of(asked: argparse.Namespace) -> list[Cell]:
    """What is to be measured, the usual value size first."""
    if any((asked.in_flight, asked.connections, asked.value_bytes, asked.rate)):
        return grid(
            asked.only or ("put", "get"),
            asked.in_flight or USUAL[:1],
            asked.connections or USUAL[1:],
            asked.value_bytes or VALUE_BYTES[:1],
            asked.rate,
        )
    cells = every(RATE) if asked.full else selection()
    return [cell for cell in cells if asked.only is None or cell.operation in asked.only]


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def read(said: str) -> float:
        number = kind(said)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{said} is not above 0")
        return number

    return read


def _numbers(said: str) -> tuple[int, ...]:
    numbers = tuple(map(int, said.split(",")))
    if min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"{said}: each must be above 0")
    return numbers


def _operations(said: str) -> tuple[str, ...]:
    chosen = tuple(said.split(","))
    if unknown := [name for name in chosen if name not in OPERATIONS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(OPERATIONS)}")
    return chosen
