"""Local health stays within its bounds and scales what it is asked to (Lifeguard section IV-A)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.swim.awareness import Awareness


def test_it_rises_falls_and_stops_at_its_ends() -> None:
    awareness = Awareness(3)
    awareness.improve()
    assert awareness.score == 0
    awareness.worsen()
    awareness.worsen()
    assert awareness.score == 2
    awareness.worsen(5)
    assert awareness.score == 3
    awareness.improve()
    assert awareness.score == 2


def test_timeouts_are_multiples_of_the_healthy_ones() -> None:
    awareness = Awareness(8)
    assert awareness.scale(0.5) == 0.5
    awareness.worsen(8)
    assert awareness.scale(0.5) == 4.5


def test_it_can_be_switched_off() -> None:
    awareness = Awareness(0)
    awareness.worsen(4)
    assert awareness.scale(1.0) == 1.0


@given(st.integers(0, 9), st.lists(st.integers(0, 4)))
def test_it_never_leaves_its_bounds(score_max: int, steps: list[int]) -> None:
    awareness = Awareness(score_max)
    for by in steps:
        awareness.worsen(by) if by else awareness.improve()
        assert 0 <= awareness.score <= score_max
