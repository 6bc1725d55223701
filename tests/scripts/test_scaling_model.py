"""The model predicts by two bounds, from what two loads cost."""

from __future__ import annotations

from typing import Any

import pytest
from bench.scaling.model import Load, Machine, batches, costs_of, predict, predictions

from kvstore.errors import InvalidArgument

MACHINE = Machine(cores=2.0, fdatasync_s=0.0009, round_trip_s=0.00005)


def load(in_flight: int, cost_us: float, rate: float = 1.0, operation: str = "put") -> Load:
    return Load(operation, in_flight, 256, MACHINE, cost_us / 1e6, rate)


def test_a_batch_is_shared_by_all_in_it() -> None:
    assert [batches(n, 8) for n in (1, 8, 16, 800)] == [1.0, 1.0, 0.5, 0.01]


def test_both_loads_cost_what_was_measured() -> None:
    costs = costs_of(load(1, 1000), load(800, 20), shards=8)
    assert costs.of(1) == pytest.approx(1000e-6)
    assert costs.of(800) == pytest.approx(20e-6)
    assert costs.of(16) == pytest.approx(costs.each_s + costs.batch_s / 2)


@pytest.mark.parametrize(
    ("fewest", "most"),
    [(load(1, 1000), load(4, 900)), (load(1, 10), load(800, 20)), (load(1, 9000), load(16, 100))],
    ids=["one batch each", "dearer in batches", "less than nothing each"],
)
def test_what_the_model_cannot_explain_is_refused(fewest: Load, most: Load) -> None:
    with pytest.raises(InvalidArgument):
        costs_of(fewest, most, shards=8)


def test_the_lower_bound_holds() -> None:
    few, some, many = predict([load(1024, 50), load(1, 500), load(64, 9999, rate=5.0)], shards=1)
    assert few.by_latency == pytest.approx(1 / 0.001)
    assert few.by_processors == pytest.approx(2 / 500e-6)
    assert few.predicted == few.by_latency
    assert many.predicted == many.by_processors == pytest.approx(2 / 50e-6)
    assert [each.is_given for each in (few, some, many)] == [True, False, True]
    assert 50e-6 < some.cost_s < 500e-6
    assert some.cells()[-1] == f"{5.0 / some.predicted:.2f}"


def test_a_get_waits_for_no_disk() -> None:
    put, get = (
        predict([load(1, 500, operation=name), load(64, 50, operation=name)], shards=1)[0]
        for name in ("put", "get")
    )
    assert get.by_latency == pytest.approx(1 / 0.0001)
    assert put.by_latency < get.by_latency


def cell(operation: str, in_flight: int, **other: Any) -> dict[str, Any]:
    what = {"operation": operation, "in_flight": in_flight, "connections": min(in_flight, 4)}
    return {
        "cell": {**what, "value_bytes": 256, "rate": None, **other},
        "server_us": {"median": 900.0 / in_flight + 9},
        "client_us": {"median": 90.0 / in_flight + 1},
        "rate": {"median": 1000.0},
        "runs": [{"others_cores": 0.25}, {"others_cores": 0.75}],
    }


def report(*cells: dict[str, Any]) -> dict[str, Any]:
    machine = {"cores": 2, "fdatasync_ms": 0.9, "round_trip_ms": 0.05}
    return {"machine": machine, "plan": {"shards": 1}, "cells": list(cells)}


def test_a_report_gives_what_the_model_needs() -> None:
    found = predictions(
        report(
            cell("put", 1),
            cell("scan", 1),
            cell("put", 256, connections=256),
            cell("put", 256, rate=2000.0),
            cell("put", 99),
            cell("put", 16),
            cell("get", 16),
        )
    )
    assert [each.load.in_flight for each in found] == [1, 16, 99]
    assert found[0].cost_s == pytest.approx(1000e-6)
    assert found[1].cost_s == pytest.approx((990 / 16 + 10) * 1e-6)
    assert found[0].load.machine.cores == 1.5


def test_a_report_without_it_is_refused() -> None:
    untold = cell("put", 1)
    del untold["server_us"]
    for told in (report(untold), {}, report(cell("put", 1)), report()):
        with pytest.raises(InvalidArgument):
            predictions(told)
