"""Percentiles, pauses and errors of what a load has seen."""

from __future__ import annotations

import json

import pytest
from elasticity.samples import Sample, Summary, percentile, summarise


@pytest.mark.parametrize(
    ("amounts", "percent", "expected"),
    [
        ([], 99, 0),
        ([7], 50, 7),
        ([1, 2], 50, 1),
        ([1, 2, 3], 50, 2),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 101)), 100, 100),
        (list(range(1, 201)), 99, 198),
        (list(range(1, 102)), 99, 100),
    ],
)
def test_percentile(amounts: list[float], percent: float, expected: float) -> None:
    assert percentile(amounts, percent) == expected


def sample(took_s: float, shard: int = 0, *, is_write: bool = True, error: str = "") -> Sample:
    return Sample(0.0, 0.001, took_s, shard, is_write, error)


def test_the_pause_of_a_shard_is_the_longest_wait_of_its_writes() -> None:
    found = summarise(
        [sample(0.002), sample(0.070), sample(0.004, 1), sample(0.5, 2, is_write=False)]
    )
    assert found.pauses_ms == {0: 70.0, 1: 4.0}
    assert found.pause_ms == 70.0
    assert found.max_ms == 500.0
    assert (found.operations, found.p50_ms) == (4, 4.0)


def test_who_fails_waits_too_and_is_counted_by_name() -> None:
    found = summarise([sample(0.001), sample(5.0, error="Unavailable")])
    assert found.pause_ms == 5000.0
    assert found.errors == {"Unavailable": 1}


def test_nothing_is_no_figure() -> None:
    found = summarise([])
    assert (found.operations, found.p99_ms, found.pause_ms) == (0, 0.0, 0.0)


def test_how_late_the_client_was_is_told_apart() -> None:
    found = summarise([sample(0.002)])
    assert (found.late_p99_ms, found.late_max_ms) == (1.0, 1.0)


def test_a_summary_comes_through_a_pipe() -> None:
    found = summarise([sample(0.002, 3), sample(0.1, 5, error="DeadlineExceeded")])
    assert Summary.from_json(json.loads(json.dumps(found.to_json()))) == found
