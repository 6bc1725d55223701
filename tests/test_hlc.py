from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import ClockAhead
from kvstore.hlc import COUNTER_BITS, HybridClock, revision_at, wall_ms_of

NOW_MS = 1_700_000_000_000
WALLS = st.integers(NOW_MS - 10_000, NOW_MS + 10_000)


@given(wall_ms=st.integers(0, (1 << 46) - 1), counter=st.integers(0, (1 << COUNTER_BITS) - 1))
def test_a_revision_holds_its_millisecond_in_64_bits(wall_ms: int, counter: int) -> None:
    revision = revision_at(wall_ms) + counter
    assert wall_ms_of(revision) == wall_ms
    assert revision < 1 << 64


@given(calls=st.lists(st.tuples(st.integers(1, 5000), WALLS), min_size=1))
def test_revisions_rise_whatever_the_wall_clock_does(calls: list[tuple[int, int]]) -> None:
    clock = HybridClock()
    before = 0
    for count, wall_ms in calls:
        first = clock.reserve(count, wall_ms)
        assert first > before
        assert first >= revision_at(wall_ms)
        before = first + count - 1
        assert clock.last == before


def test_a_revision_is_of_the_present_while_the_wall_clock_goes_on() -> None:
    clock = HybridClock()
    assert clock.reserve(10, NOW_MS) == revision_at(NOW_MS)
    assert clock.reserve(1, NOW_MS) == revision_at(NOW_MS) + 10
    assert clock.reserve(1, NOW_MS + 1) == revision_at(NOW_MS + 1)


def test_a_burst_carries_into_the_milliseconds() -> None:
    clock = HybridClock()
    clock.reserve((1 << COUNTER_BITS) + 5, NOW_MS)
    assert wall_ms_of(clock.last) == NOW_MS + 1
    assert clock.reserve(1, NOW_MS) == clock.last == revision_at(NOW_MS + 1) + 5


def test_what_was_observed_is_not_handed_out() -> None:
    clock = HybridClock(last=revision_at(NOW_MS))
    clock.observe(revision_at(NOW_MS + 100))
    clock.observe(revision_at(NOW_MS + 50))
    assert clock.last == revision_at(NOW_MS + 100)
    assert clock.reserve(1, NOW_MS) == revision_at(NOW_MS + 100) + 1


def test_a_clock_too_far_ahead_is_refused_one_behind_is_not() -> None:
    clock = HybridClock(ahead_ms_max=500)
    clock.check_peer(NOW_MS + 500, NOW_MS)
    clock.check_peer(NOW_MS - 100_000, NOW_MS)
    with pytest.raises(ClockAhead, match=r"501 ms ahead of ours \(allowed: 500 ms\)"):
        clock.check_peer(NOW_MS + 501, NOW_MS)
