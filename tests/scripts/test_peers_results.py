"""Ratios are of pairs; bars are held by medians; what has failed has no figure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bench.peers.bars import BARS, CELLS, GET_MOST, PUT_MANY, PUT_MOST, PUT_ONE
from bench.peers.results import Results, p50_s, p99_s, rate
from peers_scene import run_of

if TYPE_CHECKING:
    from bench.measured import Cell

FACTS = {"round_trip_ms": 0.1, "fdatasync_ms": 0.4}
BY_TEXT = {bar.text: bar for bar in BARS}


def results_of(ours: dict[Cell, list[float]], theirs: dict[Cell, list[float]]) -> Results:
    """Rates of both, round by round."""
    results = Results()
    for name, rates in (("kvstore", ours), ("etcd", theirs)):
        for cell, every in rates.items():
            for one in every:
                results.add(name, cell, run_of(one))
    return results


def test_the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    results = results_of({PUT_ONE: [100, 900, 300]}, {PUT_ONE: [50, 300, 600]})
    ratio = results.ratio("kvstore", "etcd", PUT_ONE, rate)
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 2.0, 3.0)


def test_one_figure_may_be_compared_with_another() -> None:
    results = Results()
    results.add("kvstore", PUT_MANY, run_of(1, p50_s=0.001, p99_s=0.004))
    results.add("etcd", PUT_MANY, run_of(1, p50_s=0.016, p99_s=0.1))
    ratio = results.ratio("kvstore", "etcd", PUT_MANY, p99_s, p50_s)
    assert ratio is not None
    assert ratio.median == pytest.approx(0.25, rel=0.02)


def test_a_failure_takes_all_figures_of_its_cell_and_no_others() -> None:
    results = results_of({PUT_ONE: [1, 2], PUT_MANY: [1, 2]}, {PUT_ONE: [1, 2], PUT_MANY: [1, 2]})
    results.fail("etcd", PUT_ONE, "an operation has failed")
    assert results.has_failed("etcd", PUT_ONE)
    assert results.runs("etcd", PUT_ONE) == []
    assert results.spread("etcd", PUT_ONE, rate) is None
    assert results.server_us("etcd", PUT_ONE) is None
    assert results.ratio("kvstore", "etcd", PUT_ONE, rate) is None
    assert results.ratio("kvstore", "etcd", PUT_MANY, rate) is not None


def test_the_processor_time_is_that_of_the_servers_where_it_is_told() -> None:
    results = Results()
    results.add("kvstore", PUT_MOST, run_of(50_000, server_s=1.0))
    used = results.server_us("kvstore", PUT_MOST)
    assert used is not None
    assert used.median == pytest.approx(20.0)
    results.add("kvstore", PUT_MOST, replace(run_of(50_000), memory_bytes={}))
    assert results.server_us("kvstore", PUT_MOST) is None


def test_a_latency_is_compared_with_what_the_machine_needs_in_the_same_round() -> None:
    results = Results()
    results.machine = [FACTS, {"round_trip_ms": 0.5, "fdatasync_ms": 0.5}]
    results.add("kvstore", PUT_ONE, run_of(1, p50_s=0.001))
    results.add("kvstore", PUT_ONE, run_of(1, p50_s=0.001))
    spread = results.over_floor("kvstore", PUT_ONE, p50_s)
    assert spread is not None
    assert (spread.low, spread.high) == (pytest.approx(1, rel=0.01), pytest.approx(2, rel=0.01))


@pytest.mark.parametrize(
    ("text", "limit", "aim"),
    [
        ("put, 1 in flight", 1.2, 2),
        ("put, 256 in flight on 4 connections", 4, 10),
        ("put, 1024 in flight on 4 connections", 5, 10),
        ("put, 256 connections of one op each", 2, 5),
        ("linearizable get, 1 in flight", 1.3, 3),
        ("linearizable get, 1024 in flight on 4 connections", 15, 40),
    ],
)
def test_bars_against_etcd_are_held_from_their_limit_on(
    text: str, limit: float, aim: float
) -> None:
    bar = BY_TEXT[text]
    held = results_of({c: [1000 * limit] for c in CELLS}, {c: [1000] for c in CELLS})
    missed = results_of({c: [1000 * limit - 1] for c in CELLS}, {c: [1000] for c in CELLS})
    assert (bar.limit, bar.aim) == (limit, aim)
    assert bar.verdict(held).is_held is True
    assert bar.verdict(missed).is_held is False


def test_each_bar_is_of_its_own_load() -> None:
    cells = [bar for bar in BARS if bar.unit == "x etcd"]
    for bar, cell in zip(cells, CELLS, strict=True):
        verdict = bar.verdict(results_of({cell: [900]}, {cell: [30]}))
        assert verdict.measured is not None
        assert verdict.measured.median == 30.0
        others = {other: [900.0] for other in CELLS if other != cell}
        assert bar.verdict(results_of(others, others)).is_held is None


@pytest.mark.parametrize(("p99_ms", "is_held"), [(9.0, True), (10.0, False), (11.0, False)])
def test_our_slowest_hundredth_is_below_their_median(p99_ms: float, is_held: bool) -> None:
    results = Results()
    results.add("kvstore", PUT_MANY, run_of(1, p99_s=p99_ms / 1000))
    results.add("etcd", PUT_MANY, run_of(1, p50_s=0.010, p99_s=0.020))
    verdict = BY_TEXT["put p99 at 256 in flight on 4 connections"].verdict(results)
    assert verdict.is_held is is_held


@pytest.mark.parametrize(("p50_ms", "is_held"), [(0.98, True), (1.02, False)])
def test_one_put_takes_at_most_twice_what_it_must(p50_ms: float, is_held: bool) -> None:
    results = Results()
    results.machine = [FACTS]
    results.add("kvstore", PUT_ONE, run_of(1, p50_s=p50_ms / 1000))
    assert BY_TEXT["put p50, 1 in flight"].verdict(results).is_held is is_held


@pytest.mark.parametrize(("server_s", "is_held"), [(0.2, True), (0.21, False)])
def test_a_put_costs_the_servers_little(server_s: float, is_held: bool) -> None:
    results = Results()
    results.add("kvstore", PUT_MOST, run_of(10_000, server_s=server_s))
    text = "server CPU per put, 1024 in flight, three nodes together"
    assert BY_TEXT[text].verdict(results).is_held is is_held


def test_a_bar_that_was_not_measured_is_neither_held_nor_broken() -> None:
    verdict = BY_TEXT["linearizable get, 1 in flight"].verdict(results_of({GET_MOST: [1]}, {}))
    assert verdict.is_held is None
    assert verdict.to_json()["median"] is None
