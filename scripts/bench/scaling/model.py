"""What the store should do by a simple model, beside what it did. Pure, but for reading a file.

Two bounds, of which the lower holds (the asymptotic bounds of operational analysis, Denning and
Buzen 1978):

* processors: an operation takes so much processor time in all servers and in the client, and all of
  them share the cores of one machine that others leave;
* latency: of the operations in flight none is answered before what it must wait for: a put for
  one ``fdatasync`` and two round trips, from the client to the leader and from there to a
  follower; a get for the two round trips, the second of which proves that the leader still leads.

What an operation takes falls with the number in flight, for what a batch takes is shared by all in
it: with n of them on S shards there are min(n, S) batches at a time, so it is
``each + batch * min(n, S) / n``. Both constants follow from two measured loads, the one with the
fewest and the one with the most in flight; all in between are predicted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.cells import USUAL
from bench.scaling.outcome import Outcome
from bench.table import significant, size
from kvstore.errors import InvalidArgument

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from pathlib import Path

SYNCS: Final = {"put": 1, "get": 0}
"""Of the loads that the model knows, for how many ``fdatasync`` an operation waits."""
ROUND_TRIPS: Final = 2
GIVEN: Final = "*"
HEADER: Final = (
    *("load", "in flight", "value", "µs/op", "by the model", "by processors", "by latency"),
    *("predicted", "measured", "measured/predicted"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the model takes from it."""

    cores: float
    """That others leave."""
    fdatasync_s: float
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What the bench has measured of one load."""

    operation: str
    in_flight: int
    value_bytes: int
    machine: Machine
    cost_s: float
    """Processor time of an operation, in all servers and the client."""
    rate: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor seconds, in all servers and the client."""

    each_s: float
    batch_s: float
    shards: int

    def of(self, in_flight: int) -> float:
        """An operation's, with so many under way."""
        return self.each_s + self.batch_s * batches(in_flight, self.shards)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Operations a second of one load."""

    load: Load
    cost_s: float
    """By the model."""
    by_processors: float
    by_latency: float
    is_given: bool
    """Whether the model was made from this one."""

    @property
    def predicted(self) -> float:
        """The lower bound of both."""
        return min(self.by_processors, self.by_latency)

    def cells(self) -> tuple[str, ...]:
        """As :data:`HEADER` names them."""
        load, rates = self.load, (self.by_processors, self.by_latency, self.predicted)
        return (
            load.operation + (GIVEN if self.is_given else ""),
            f"{load.in_flight:,}",
            size(load.value_bytes),
            *(significant(1e6 * cost_s) for cost_s in (load.cost_s, self.cost_s)),
            *(f"{rate:,.0f}" for rate in rates),
            f"{load.rate:,.0f}",
            f"{load.rate / self.predicted:.2f}",
        )

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "load": self.load.operation,
            "in_flight": self.load.in_flight,
            "value_bytes": self.load.value_bytes,
            "cores": self.load.machine.cores,
            "cost_us": 1e6 * self.load.cost_s,
            "cost_us_model": 1e6 * self.cost_s,
            "by_processors": self.by_processors,
            "by_latency": self.by_latency,
            "predicted": self.predicted,
            "measured": self.load.rate,
            "is_given": self.is_given,
        }


def batches(in_flight: int, shards: int) -> float:
    """For each operation, with so many under way."""
    return min(in_flight, shards) / in_flight


def costs_of(fewest: Load, most: Load, shards: int) -> Costs:
    """That both loads cost what was measured.

    Raises:
        InvalidArgument: they do not differ in how much shares a batch, or not as they should.
    """
    fewer, more = (batches(load.in_flight, shards) for load in (fewest, most))
    if fewer == more:
        raise InvalidArgument("the model needs a load with few in flight and one with many")
    batch_s = (fewest.cost_s - most.cost_s) / (fewer - more)
    each_s = most.cost_s - batch_s * more
    if batch_s < 0 or each_s <= 0:
        raise InvalidArgument(f"{most.operation}: what was measured is not as the model has it")
    return Costs(each_s, batch_s, shards)


def predict(loads: Sequence[Load], shards: int) -> list[Prediction]:
    """Of loads that differ only in how much is in flight. Raises likewise."""
    ordered = sorted(loads, key=lambda load: load.in_flight)
    given = ordered[0], ordered[-1]
    costs = costs_of(*given, shards)
    return [_predict(load, costs.of(load.in_flight), is_given=load in given) for load in ordered]


def _predict(load: Load, cost_s: float, *, is_given: bool) -> Prediction:
    machine = load.machine
    waits_s = SYNCS[load.operation] * machine.fdatasync_s + ROUND_TRIPS * machine.round_trip_s
    by_processors, by_latency = machine.cores / cost_s, load.in_flight / waits_s
    return Prediction(load, cost_s, by_processors, by_latency, is_given)


def predictions(report: dict[str, Any]) -> list[Prediction]:
    """Of a report of the bench.

    Raises:
        InvalidArgument: it does not tell what the model needs.
    """
    try:
        loads = [_load(report["machine"], told) for told in report["cells"] if _is_known(told)]
        shards = int(report["plan"]["shards"])
    except (KeyError, TypeError) as error:
        raise InvalidArgument(
            "this is no report of the bench, or of nodes whose processes it could not see"
        ) from error
    groups: dict[tuple[str, int], list[Load]] = {}
    for load in loads:
        groups.setdefault((load.operation, load.value_bytes), []).append(load)
    found = [predict(same, shards) for same in groups.values() if len(same) > 1]
    if not found:
        raise InvalidArgument(
            f"the model needs {' or '.join(SYNCS)} with few in flight and with many"
        )
    return [prediction for same in found for prediction in same]


def _is_known(told: dict[str, Any]) -> bool:
    """Whether a cell is at no fixed pace, on the usual number of connections."""
    cell = told["cell"]
    is_usual = cell["connections"] == min(cell["in_flight"], USUAL[1])
    return cell["operation"] in SYNCS and cell["rate"] is None and is_usual


def _load(machine: dict[str, Any], told: dict[str, Any]) -> Load:
    cell, others = told["cell"], [run["others_cores"] for run in told["runs"]]
    return Load(
        cell["operation"],
        cell["in_flight"],
        cell["value_bytes"],
        Machine(
            machine["cores"] - sum(others) / len(others),
            machine["fdatasync_ms"] / 1000,
            machine["round_trip_ms"] / 1000,
        ),
        cost_s=(told["server_us"]["median"] + told["client_us"]["median"]) / 1e6,
        rate=told["rate"]["median"],
    )


async def measure(asked: Namespace) -> Outcome:
    """Compare a report with the model; nothing is run.

    Raises:
        InvalidArgument: there is none at that place, or it does not tell enough.
    """
    report = _read(asked.bench)
    rows, machine = predictions(report), report["machine"]
    return Outcome(
        f"{machine['cores']} cores, one fdatasync {machine['fdatasync_ms']:.2f} ms, one round trip "
        f"{machine['round_trip_ms']:.3f} ms; {report['plan']['shards']} shards",
        HEADER,
        [row.cells() for row in rows],
        [row.to_json() for row in rows],
        [
            f"{GIVEN}: the model was made from what this load costs; the others are predicted.",
            "by processors: the cores that others left / µs/op by the model; by latency: in flight "
            f"/ (fdatasync, of a put, + {ROUND_TRIPS} round trips); predicted: the lower.",
        ],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: {error}") from error
    if not isinstance(report, dict):
        raise InvalidArgument(f"{path} is no report of the bench")
    return report
