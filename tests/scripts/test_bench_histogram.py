"""Counts of times are precise to a percent, and can be put together."""

from __future__ import annotations

import random

import pytest
from bench.histogram import GROWTH, UNIT_S, Histogram, bucket_of, time_of


def test_a_time_comes_back_within_half_a_bucket() -> None:
    rng = random.Random(1)
    for _ in range(1000):
        seconds = UNIT_S * 10 ** rng.uniform(0, 7)
        assert time_of(bucket_of(seconds)) == pytest.approx(seconds, rel=(GROWTH - 1) / 1.9)


def test_what_is_too_short_counts_as_a_microsecond() -> None:
    assert bucket_of(0.0) == bucket_of(UNIT_S) == 0


def test_percentiles_are_those_of_the_samples() -> None:
    samples = [n / 1000 for n in range(1, 1001)]
    random.Random(2).shuffle(samples)
    histogram = Histogram()
    histogram.add_all(samples)
    for percent in (1, 50, 99, 99.9, 100):
        assert histogram.percentile_s(percent) == pytest.approx(percent / 100, rel=0.01)


def test_a_percentile_is_reached_not_passed() -> None:
    histogram = Histogram()
    histogram.add_all([0.001] * 99 + [1.0])
    assert histogram.percentile_s(99) == pytest.approx(0.001, rel=0.01)
    assert histogram.percentile_s(99.1) == pytest.approx(1.0, rel=0.01)


def test_without_samples_there_is_no_time() -> None:
    assert Histogram().percentile_s(50) == 0.0


def test_two_merged_are_one_that_has_seen_all() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    one.add_all([0.001, 0.002])
    other.add(0.002)
    both.add_all([0.001, 0.002, 0.002])
    one.merge(other)
    assert one.counts == both.counts
    assert one.count == 3


def test_json_keeps_it() -> None:
    histogram = Histogram()
    histogram.add_all([0.001, 0.5, 2.0])
    assert Histogram.from_json(histogram.to_json()).counts == histogram.counts
