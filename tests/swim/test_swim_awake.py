"""Time that the process did not live through does not count."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.swim.awake import AwakeClock

LATE = 0.25


def clock() -> AwakeClock:
    return AwakeClock(LATE, 1000.0)


def test_while_nothing_is_late_it_goes_as_the_clock_outside() -> None:
    awake = clock()
    assert awake.advance(1000.5, 1.0) == 0.0
    assert awake.now == pytest.approx(0.5)
    assert awake.advance(1001.0, 1.0) == 0.0
    assert awake.now == pytest.approx(1.0)
    assert awake.outside(3.0) == pytest.approx(1003.0)


def test_a_little_late_is_not_late_at_all() -> None:
    awake = clock()
    assert awake.advance(1001.0 + LATE, 1.0) == 0.0
    assert awake.now == pytest.approx(1.0 + LATE)
    assert not awake.is_still


def test_a_frozen_process_has_only_slept_as_long_as_it_meant_to() -> None:
    awake = clock()
    assert awake.advance(1060.0, 1.0) == pytest.approx(59.0)
    assert awake.now == pytest.approx(1.0)


def test_after_a_sleep_it_stands_still_for_a_moment() -> None:
    awake = clock()
    awake.advance(1060.0, 1.0)
    assert awake.is_still
    assert awake.outside(1.0) == pytest.approx(1060.0 + LATE), "what is due waits, too"
    seen = []
    for after_s in (LATE / 2, LATE):
        awake.advance(1060.0 + after_s, 1.0)
        seen.append(awake.is_still)
        assert awake.now == pytest.approx(1.0)
    assert seen == [True, False]
    awake.advance(1060.5 + LATE, 2.0)
    assert awake.now == pytest.approx(1.5)


def test_who_only_ever_runs_for_short_is_not_still_for_ever() -> None:
    """Else a starved node would never do anything again, and never find out who has died."""
    awake = clock()
    wanted, acted = 1.0, 0
    for wakes in range(1, 21):
        awake.advance(1000.0 + 10.0 * wakes, wanted)
        if not awake.is_still:
            acted += 1
            assert awake.now >= wanted
            wanted = awake.now + 1.0
    assert acted == 10


def test_a_clock_that_goes_back_does_not_turn_time_back() -> None:
    awake = clock()
    awake.advance(1002.0, 5.0)
    assert awake.advance(700.0, 5.0) == 0.0
    assert awake.now == pytest.approx(2.0)
    awake.advance(701.0, 5.0)
    assert awake.now == pytest.approx(3.0)
    assert awake.outside(5.0) == pytest.approx(703.0)


def test_a_clock_that_goes_back_while_still_does_not_prolong_it() -> None:
    awake = clock()
    awake.advance(1060.0, 1.0)
    awake.advance(500.0, 1.0)
    assert awake.is_still
    awake.advance(500.0 + LATE, 1.0)
    assert not awake.is_still


def test_who_wants_nothing_is_never_late() -> None:
    awake = clock()
    assert awake.advance(5000.0, math.inf) == 0.0
    assert awake.now == pytest.approx(4000.0)
    assert awake.outside(math.inf) == math.inf


def test_it_can_be_switched_off() -> None:
    awake = AwakeClock(math.inf, 0.0)
    assert awake.advance(3600.0, 1.0) == 0.0
    assert awake.now == 3600.0


def test_what_was_due_long_ago_does_not_make_late_twice() -> None:
    """A deadline stays in the past until it is seen to; between two looks little time passes."""
    awake = clock()
    awake.advance(1060.0, 1.0)
    assert awake.advance(1060.0 + LATE, 1.0) == 0.0
    assert awake.advance(1060.2 + LATE, 1.0) == 0.0


steps = st.lists(
    st.tuples(st.floats(-5.0, 20.0, allow_nan=False), st.floats(0.0, 3.0, allow_nan=False)),
    max_size=40,
)


@given(steps, st.floats(0.0, 1e6))
def test_it_never_goes_back_nor_far_beyond_what_was_wanted(
    taken: list[tuple[float, float]], begin: float
) -> None:
    awake = AwakeClock(LATE, begin)
    outside, lived = begin, 0.0
    for passed_s, ahead_s in taken:
        outside += passed_s
        before, wanted = awake.now, awake.now + ahead_s
        slept_s = awake.advance(outside, wanted)
        assert before <= awake.now <= wanted + LATE + 1e-6
        assert slept_s >= 0.0
        lived += max(0.0, passed_s)
    assert awake.now <= lived + 1e-6


@given(st.floats(0.0, 1e9), st.floats(0.0, 100.0), st.lists(st.floats(0.0, 1.0), max_size=5))
def test_who_ticks_when_told_to_finds_that_it_is_time(
    begin: float, wanted: float, looks: list[float]
) -> None:
    """However it was rounded: else a simulator would tick at the same instant for ever."""
    awake = AwakeClock(LATE, begin)
    for part in looks:
        due = awake.outside(wanted)
        awake.advance(begin + part * (due - begin), wanted)
    awake.advance(awake.outside(wanted), wanted)
    assert awake.now >= wanted
