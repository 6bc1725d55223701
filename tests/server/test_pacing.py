"""How work in the background is held back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.server.pacing import TURN_S_MAX, Pace


def test_what_comes_alone_begins_at_once() -> None:
    pace = Pace(1000)
    assert pace.reserve(500, now=8.0) == 0.0
    assert pace.reserve(500, now=20.0) == 0.0


def test_what_comes_too_soon_waits_until_the_bytes_before_it_are_over() -> None:
    pace = Pace(1000)
    pace.reserve(500, now=8.0)
    assert pace.reserve(500, now=8.25) == 0.25
    assert pace.reserve(500, now=8.25) == 0.75


def test_what_was_not_needed_is_given_back() -> None:
    pace = Pace(1000)
    pace.reserve(500, now=8.0)
    pace.refund(500, 1000, used_bytes=100)
    assert abs(pace.reserve(500, now=8.0) - 0.1) < 1e-9


def test_what_is_given_back_counts_at_the_rate_at_which_it_was_taken() -> None:
    pace = Pace(1000)
    pace.reserve(500, now=8.0)
    pace.bytes_per_s = 100
    pace.refund(500, 1000)
    assert pace.reserve(500, now=8.0) == 0.0


def test_no_piece_keeps_others_waiting_for_longer_than_a_turn() -> None:
    pace = Pace(1)
    pace.reserve(1 << 20, now=8.0)
    assert pace.reserve(1 << 20, now=8.0) == TURN_S_MAX
    pace.refund(1 << 20, 1, used_bytes=5)
    assert abs(pace.reserve(1, now=8.0) - (TURN_S_MAX + 5)) < 1e-9


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 2)), min_size=1))
def test_no_second_holds_more_than_is_allowed(work: list[tuple[int, float]]) -> None:
    """But for one piece, which may begin in the very last moment of it."""
    pace, now = Pace(1 << 20), 0.0
    begun: list[tuple[float, int]] = []
    for size, pause_s in work:
        now += pause_s
        begun.append((now + pace.reserve(size, now), size))
    for start, _ in begun:
        window = [size for at, size in begun if start <= at < start + 0.999]
        assert sum(window[:-1]) <= 1 << 20
