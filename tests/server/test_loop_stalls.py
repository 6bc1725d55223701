"""What a late beat says of the loop, and how that is kept."""

from __future__ import annotations

import pytest

from kvstore.server.stalls import (
    BEAT_S_MAX,
    BEAT_S_MIN,
    WINDOW_S,
    Beat,
    Stall,
    Stalls,
    next_beat_s,
    rounded_ms,
    stall_of,
)

LONG = Stall(late_s=0.05, own_s=0.03, busy_s=0.01)


def test_who_comes_in_time_shows_no_stall() -> None:
    assert stall_of(Beat(0.0102, busy_s=0.01, waited_s=0.0), 0.010) is None
    assert stall_of(Beat(0.0092, busy_s=0.0, waited_s=0.0), 0.010) is None


@pytest.mark.parametrize(
    ("beat", "stall"),
    [
        (Beat(0.034, busy_s=0.034, waited_s=0.0), Stall(0.030, 0.030, 0.030)),
        (Beat(0.034, busy_s=0.001, waited_s=0.0), Stall(0.030, 0.030, 0.001)),
        (Beat(0.034, busy_s=0.010, waited_s=0.024), Stall(0.030, 0.010, 0.010)),
        (Beat(0.034, busy_s=0.001, waited_s=0.020), Stall(0.030, 0.010, 0.001)),
        (Beat(0.034, busy_s=0.001, waited_s=0.033), Stall(0.030, 0.001, 0.001)),
    ],
    ids=["worked", "blocked", "worked and waited", "blocked and waited", "waited"],
)
def test_whose_doing_a_stall_is(beat: Beat, stall: Stall) -> None:
    found = stall_of(beat, 0.004)
    assert found is not None
    assert (found.late_s, found.own_s, found.busy_s) == pytest.approx(
        (stall.late_s, stall.own_s, stall.busy_s)
    )


def test_beats_are_rare_at_rest_and_short_at_work() -> None:
    assert next_beat_s(Beat(0.05, busy_s=0.001, waited_s=0.0)) == BEAT_S_MAX
    assert next_beat_s(Beat(0.025, busy_s=0.02, waited_s=0.005)) == BEAT_S_MIN
    assert next_beat_s(Beat(0.020, busy_s=0.01, waited_s=0.0)) == pytest.approx(2 * BEAT_S_MIN)
    assert next_beat_s(Beat(0.010, busy_s=0.02, waited_s=0.0)) == BEAT_S_MIN, "clocks differ a bit"
    assert next_beat_s(Beat(0.0, busy_s=0.0, waited_s=0.0)) == BEAT_S_MAX


def test_the_longest_of_each_kind_and_the_long_ones_are_told() -> None:
    stalls = Stalls(100.0)
    stalls.note(LONG, 101.0)
    stalls.note(Stall(late_s=0.015, own_s=0.0149, busy_s=0.0149), 102.0)
    stalls.note(None, 103.0)
    told = stalls.to_map(104.0)
    assert told["recent"] == told["since_start"]
    assert told["since_start"] == {
        "seconds": 4.0,
        "longest_ms": 50.0,
        "longest_own_ms": 30.0,
        "longest_busy_ms": 14.9,
        "over_20_ms": 1,
        "own_over_20_ms": 1,
    }
    assert told["late_ms"] == {"50": 1, "15": 1}
    assert told["own_ms"] == {"30": 1, "14": 1}


def test_waiting_alone_is_no_stall_of_its_own() -> None:
    stalls = Stalls(0.0)
    stalls.note(Stall(late_s=0.05, own_s=0.0, busy_s=0.001), 1.0)
    told = stalls.to_map(2.0)
    assert (told["late_ms"], told["own_ms"]) == ({"50": 1}, {})
    assert (told["recent"]["over_20_ms"], told["recent"]["own_over_20_ms"]) == (1, 0)


def test_what_is_old_counts_only_since_the_start() -> None:
    stalls = Stalls(0.0)
    stalls.note(LONG, 1.0)
    stalls.note(None, WINDOW_S + 1)
    assert stalls.to_map(WINDOW_S + 2)["recent"]["longest_ms"] == 50.0
    stalls.note(None, 2 * WINDOW_S + 2)
    told = stalls.to_map(2 * WINDOW_S + 3)
    assert (told["recent"]["longest_ms"], told["recent"]["over_20_ms"]) == (0.0, 0)
    assert told["recent"]["seconds"] == WINDOW_S + 2
    assert told["since_start"]["longest_ms"] == 50.0


def test_stalls_are_counted_by_few_names() -> None:
    assert [rounded_ms(s) for s in (0.0019, 0.0999, 0.1239, 1.2399, 75.0)] == [
        *("1", "99", "120", "1200", "75000"),
    ]
