"""How fast replicas move beside clients."""

from __future__ import annotations

import pytest

from kvstore.server import throttle
from kvstore.server.throttle import (
    ALARMING,
    BYTES_PER_S_FIRST,
    BYTES_PER_S_MIN,
    NEARLY,
    NOTICED,
    REQUESTS_MIN,
    SLOWER,
    TOLERATED,
    USUAL_DRIFT,
    LatencyMeter,
    Throttle,
)

MAX = 128 << 20
USUAL_S = 0.002


class Node:
    """A throttle, its clock, and its clients."""

    def __init__(self, bytes_per_s_max: int = MAX) -> None:
        self.now = 0.0
        self.throttle = Throttle(bytes_per_s_max=bytes_per_s_max, clock=lambda: self.now)

    @property
    def rate(self) -> float:
        return self.throttle.pace.bytes_per_s

    def window(
        self,
        latency_s: float,
        *,
        requests: int = 100,
        is_moving: bool = True,
        oldest_s: float = 0.0,
    ) -> float:
        """Each of so many requests took so long; what the rate is then."""
        for _ in range(requests):
            came_at = self.throttle.meter.came()
            self.now += latency_s
            self.throttle.meter.answered(came_at)
        self.throttle.check(is_moving=is_moving, oldest_s=oldest_s)
        return self.rate


@pytest.fixture
def node() -> Node:
    """One that has learned what is usual."""
    node = Node()
    for _ in range(100):
        node.window(USUAL_S, is_moving=False)
    return node


def test_a_move_begins_slowly_and_doubles_until_clients_notice(node: Node) -> None:
    assert node.rate == BYTES_PER_S_FIRST
    rates = [node.window(USUAL_S) for _ in range(8)]
    assert rates == [min(BYTES_PER_S_FIRST << window, MAX) for window in range(1, 9)]


def test_that_clients_notice_makes_it_no_faster_and_no_slower(node: Node) -> None:
    before = node.window(USUAL_S)
    assert node.window(USUAL_S * NOTICED * 1.1) == before
    assert before < node.window(USUAL_S) < before * 1.2, "from there it feels its way"


def test_clients_that_mind_twice_in_a_row_make_it_yield(node: Node) -> None:
    before = node.window(USUAL_S)
    too_much = USUAL_S * TOLERATED * 1.1
    assert node.window(too_much) == before, "once may be chance"
    assert node.window(USUAL_S) > before
    before = node.rate
    assert [node.window(too_much) for _ in range(3)] == [
        before,
        before * SLOWER,
        before * SLOWER**2,
    ]


def test_what_is_alarming_makes_it_yield_at_once_and_down_to_a_bound(node: Node) -> None:
    before = node.window(USUAL_S)
    assert node.window(USUAL_S * ALARMING * 1.1) == before * SLOWER
    assert [node.window(1.0) for _ in range(20)][-1] == BYTES_PER_S_MIN


def test_it_returns_quickly_to_nearly_what_was_minded_then_feels_its_way(node: Node) -> None:
    minded = [node.window(USUAL_S) for _ in range(4)][-1]
    node.window(USUAL_S * ALARMING * 1.1)
    back = [node.window(USUAL_S) for _ in range(2)]
    assert back == [minded * SLOWER * throttle.RETURNS, minded * NEARLY]
    felt = [node.window(USUAL_S) for _ in range(3)]
    assert felt == [pytest.approx(back[-1] * rise) for rise in (1.1, 1.1 * 1.2, 1.1 * 1.2 * 1.4)]


def test_a_long_calm_brings_it_to_its_fastest(node: Node) -> None:
    while node.rate > BYTES_PER_S_MIN:
        node.window(1.0)
    assert [node.window(USUAL_S) for _ in range(2000)][20] == MAX


def test_what_moves_cost_is_not_taken_for_usual(node: Node) -> None:
    while node.rate > BYTES_PER_S_MIN:
        node.window(USUAL_S * 2)
    node.window(USUAL_S * 2)
    assert node.window(USUAL_S * 1.7) == BYTES_PER_S_MIN
    assert node.window(USUAL_S) > BYTES_PER_S_MIN


def test_a_load_that_has_grown_for_other_reasons_becomes_usual(node: Node) -> None:
    grown = 2 * ALARMING
    while node.rate > BYTES_PER_S_MIN:
        node.window(USUAL_S * grown)
    windows = 0
    while node.window(USUAL_S * grown) <= 2 * BYTES_PER_S_MIN:
        windows += 1
        assert windows < 200
    assert USUAL_DRIFT**windows > grown / TOLERATED / 2


def test_the_usual_follows_the_load_between_moves(node: Node) -> None:
    for _ in range(100):
        node.window(USUAL_S * 10, is_moving=False)
    assert node.window(USUAL_S * 10) > BYTES_PER_S_FIRST


@pytest.mark.parametrize("requests", [0, 1, REQUESTS_MIN - 1])
def test_with_few_clients_it_is_soon_at_its_fastest(node: Node, requests: int) -> None:
    rates = [node.window(USUAL_S, requests=requests) for _ in range(6)]
    assert rates[-1] == MAX


def test_that_clients_are_answered_more_seldom_is_no_reason_to_hurry(node: Node) -> None:
    rates = [node.window(0.5, requests=16) for _ in range(6)]
    assert max(rates) <= BYTES_PER_S_FIRST


def test_who_waits_and_is_not_answered_counts_as_well(node: Node) -> None:
    for _ in range(16):
        node.throttle.meter.came()
    rates = []
    for _ in range(6):
        node.now += throttle.WINDOW_S
        rates.append(node.window(USUAL_S, requests=0))
    assert max(rates) <= BYTES_PER_S_FIRST


def test_who_knows_nothing_of_clients_begins_by_looking_at_them() -> None:
    node = Node()
    first = node.window(USUAL_S)
    assert first == BYTES_PER_S_FIRST * throttle.FASTER
    assert node.window(USUAL_S) > first
    before = node.rate
    assert node.window(USUAL_S * ALARMING * 1.1) == before * SLOWER


def test_a_burst_that_is_over_is_soon_forgotten(node: Node) -> None:
    for _ in range(100):
        node.window(USUAL_S * 20, is_moving=False)
    for _ in range(6):
        node.window(USUAL_S, is_moving=False)
    before = node.window(USUAL_S)
    assert node.window(USUAL_S * 2 * ALARMING) == before * SLOWER


def test_a_spike_is_not_what_is_usual_for_long(node: Node) -> None:
    for _ in range(200):
        node.window(USUAL_S * 20)
    for _ in range(100):
        node.window(USUAL_S)
    before = node.rate
    assert node.window(USUAL_S * ALARMING * 1.2) < before


@pytest.mark.parametrize("is_moving", [True, False])
def test_a_snapshot_that_is_long_on_its_way_is_slowed_less_and_less(
    node: Node, *, is_moving: bool
) -> None:
    for _ in range(20):
        node.window(1.0)
    ages = range(0, 180, int(throttle.DOUBLED_AFTER_S))
    rates = [node.window(1.0, oldest_s=float(age), is_moving=is_moving) for age in ages]
    assert rates[-1] == MAX
    if is_moving:
        assert rates == [BYTES_PER_S_MIN << doublings for doublings in range(len(ages))]


def test_each_move_begins_slowly_again(node: Node) -> None:
    for _ in range(10):
        node.window(USUAL_S)
    assert node.window(USUAL_S, is_moving=False) == BYTES_PER_S_FIRST


@pytest.mark.parametrize("bound", [64 << 10, 1 << 20])
def test_what_is_configured_is_never_exceeded(bound: int) -> None:
    node = Node(bound)
    assert node.rate <= bound
    rates = [node.window(USUAL_S) for _ in range(20)] + [node.window(9.0) for _ in range(20)]
    assert max(rates) == bound
    assert min(rates) == min(bound, BYTES_PER_S_MIN)
    assert node.window(9.0, oldest_s=1000.0) == bound


def test_a_meter_gives_the_mean_and_begins_anew() -> None:
    now = 0.0
    meter = LatencyMeter(lambda: now)
    first, second = meter.came(), meter.came()
    now = 1.0
    meter.answered(first)
    now = 3.0
    assert meter.take() == (2, 2.0), "the second waits still"
    assert meter.take() == (1, 3.0)
    meter.answered(second)
    assert meter.take() == (1, 3.0)
    assert meter.take() == (0, 0.0)
