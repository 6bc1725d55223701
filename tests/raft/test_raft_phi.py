"""The failure detector: suspicion grows with silence, and patience with jitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.phi import WINDOW, ArrivalWindow

intervals = st.lists(st.floats(0.001, 2.0), max_size=3 * WINDOW)


def window_of(gaps: list[float], expected_s: float = 0.2) -> tuple[ArrivalWindow, float]:
    """A window that saw arrivals with these gaps, and the time of the last one."""
    window, now = ArrivalWindow(expected_s), 100.0
    window.arrived(now)
    for gap in gaps:
        now += gap
        window.arrived(now)
    return window, now


@given(intervals, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_suspicion_never_falls_while_silence_lasts(gaps: list[float], a: float, b: float) -> None:
    window, last = window_of(gaps)
    early, late = sorted((a, b))
    assert 0.0 <= window.phi(last + early) <= window.phi(last + late)


@given(intervals, st.sampled_from([1.0, 3.0, 8.0, 12.0]))
def test_the_silence_for_a_suspicion_gives_that_suspicion(gaps: list[float], phi: float) -> None:
    window, last = window_of(gaps)
    assert window.phi(last + window.silence_at(phi)) == pytest.approx(phi, rel=1e-3)


@given(st.lists(st.floats(0.001, 2.0), min_size=WINDOW, max_size=3 * WINDOW))
def test_only_the_window_counts(gaps: list[float]) -> None:
    long, short = window_of(gaps)[0], window_of(gaps[-WINDOW:])[0]
    assert long.silence_at(8.0) == pytest.approx(short.silence_at(8.0), rel=1e-6)


def test_jitter_asks_for_patience() -> None:
    steady = window_of([0.2] * WINDOW)[0]
    jittery = window_of([0.05, 0.35] * (WINDOW // 2))[0]
    assert jittery.silence_at(8.0) > steady.silence_at(8.0) > 0.2


def test_a_restart_forgets_the_silence_but_not_the_rhythm() -> None:
    window, last = window_of([0.2] * WINDOW)
    before = window.silence_at(8.0)
    window.restart()
    assert window.phi(last + 60.0) == 0.0
    window.arrived(last + 60.0)
    assert window.silence_at(8.0) == before
