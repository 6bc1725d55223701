"""What must hold, and whether it does. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bench.measured import Cell
from bench.peers.etcd import Etcd
from bench.peers.ours import Ours
from bench.peers.results import Results, p50_s, p99_s, rate
from bench.summary import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping

PUT_ONE: Final = Cell("put", 1, 1)
PUT_MANY: Final = Cell("put", 256, 4)
PUT_MOST: Final = Cell("put", 1024, 4)
PUT_EACH: Final = Cell("put", 256, 256)
GET_ONE: Final = Cell("get", 1, 1)
GET_MOST: Final = Cell("get", 1024, 4)
CELLS: Final = (PUT_ONE, PUT_MANY, PUT_MOST, PUT_EACH, GET_ONE, GET_MOST)

_RELATIONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One sentence of what must hold."""

    text: str
    relation: str
    limit: float
    unit: str
    measure: Callable[[Results], Spread | None]
    aim: float | None = None

    def verdict(self, results: Results) -> Verdict:
        """Whether the median of the rounds holds it."""
        return Verdict(self, self.measure(results))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, and what was measured of it."""

    bar: Bar
    measured: Spread | None
    """None: it was not, or a run for it has failed."""

    @property
    def is_held(self) -> bool | None:
        """None if it was not measured."""
        if self.measured is None:
            return None
        return _RELATIONS[self.bar.relation](self.measured.median, self.bar.limit)

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        spread = self.measured
        return {
            "bar": self.bar.text,
            "limit": f"{self.bar.relation} {self.bar.limit:g}{self.bar.unit}",
            "aim": self.bar.aim,
            "median": spread and spread.median,
            "min": spread and spread.low,
            "max": spread and spread.high,
            "is_held": self.is_held,
        }


def _rate_over_etcd(cell: Cell, results: Results) -> Spread | None:
    return results.ratio(Ours.name, Etcd.name, cell, rate)


def _faster(text: str, cell: Cell, limit: float, aim: float) -> Bar:
    return Bar(text, ">=", limit, "x etcd", partial(_rate_over_etcd, cell), aim)


BARS: Final = (
    _faster("put, 1 in flight", PUT_ONE, 1.2, 2),
    _faster("put, 256 in flight on 4 connections", PUT_MANY, 4, 10),
    _faster("put, 1024 in flight on 4 connections", PUT_MOST, 5, 10),
    _faster("put, 256 connections of one op each", PUT_EACH, 2, 5),
    _faster("linearizable get, 1 in flight", GET_ONE, 1.3, 3),
    _faster("linearizable get, 1024 in flight on 4 connections", GET_MOST, 15, 40),
    Bar(
        "put p99 at 256 in flight on 4 connections",
        *("<", 1, "x etcd's p50"),
        lambda results: results.ratio(Ours.name, Etcd.name, PUT_MANY, p99_s, p50_s),
    ),
    Bar(
        "put p50, 1 in flight",
        *("<=", 2, "x round trip + fdatasync"),
        lambda results: results.over_floor(Ours.name, PUT_ONE, p50_s),
    ),
    Bar(
        "server CPU per put, 1024 in flight, three nodes together",
        *("<=", 20, " µs"),
        lambda results: results.server_us(Ours.name, PUT_MOST),
    ),
)
