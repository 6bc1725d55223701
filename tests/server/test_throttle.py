"""How fast replicas move beside clients."""

from __future__ import annotations

import pytest

from kvstore.server import throttle
from kvstore.server.throttle import (
    BYTES_PER_S_FIRST,
    BYTES_PER_S_MIN,
    INSTALLS_BYTES_PER_S_MIN,
    REQUESTS_MIN,
    TOLERATED,
    USUAL_DRIFT,
    LatencyMeter,
    Throttle,
)

MAX = 32 << 20
USUAL_S = 0.002


class Node:
    """A throttle, its clock, and its clients."""

    def __init__(self, bytes_per_s_max: int = MAX) -> None:
        self.now = 0.0
        self.throttle = Throttle(bytes_per_s_max=bytes_per_s_max, clock=lambda: self.now)

    @property
    def rate(self) -> float:
        return self.throttle.pace.bytes_per_s

    def window(self, latency_s: float, *, requests: int = 100, is_moving: bool = True) -> float:
        """Each of so many requests took so long; what the rate is then."""
        for _ in range(requests):
            came_at = self.now
            self.now += latency_s
            self.throttle.meter.answered(came_at)
        self.throttle.check(is_moving=is_moving)
        return self.rate


@pytest.fixture
def node() -> Node:
    """One that has learned what is usual."""
    node = Node()
    for _ in range(100):
        node.window(USUAL_S, is_moving=False)
    return node


def test_a_move_begins_slowly_and_grows_while_clients_do_not_mind(node: Node) -> None:
    assert node.rate == BYTES_PER_S_FIRST
    rates = [node.window(USUAL_S) for _ in range(30)]
    assert rates == sorted(rates)
    assert rates[0] < 2 * BYTES_PER_S_FIRST
    assert rates[-1] == MAX


def test_it_yields_when_clients_wait_longer_down_to_a_bound(node: Node) -> None:
    for _ in range(10):
        node.window(USUAL_S)
    before = node.rate
    assert node.window(USUAL_S * 1.1) > before, "that much is tolerated"
    before = node.rate
    assert node.window(USUAL_S * TOLERATED * 1.1) == before * throttle.SLOWER
    assert [node.window(1.0) for _ in range(20)][-1] == BYTES_PER_S_MIN


def test_what_moves_cost_is_not_taken_for_usual(node: Node) -> None:
    while node.rate > BYTES_PER_S_MIN:
        node.window(USUAL_S * 2)
    node.window(USUAL_S * 2)
    assert node.window(USUAL_S * 1.4) == BYTES_PER_S_MIN
    assert node.window(USUAL_S) > BYTES_PER_S_MIN


def test_a_load_that_has_grown_for_other_reasons_becomes_usual(node: Node) -> None:
    windows = 0
    while node.window(USUAL_S * 3) <= 2 * BYTES_PER_S_MIN:
        windows += 1
        assert windows < 200
    assert USUAL_DRIFT**windows > 3 / TOLERATED / 2


def test_the_usual_follows_the_load_between_moves(node: Node) -> None:
    for _ in range(100):
        node.window(USUAL_S * 10, is_moving=False)
    assert node.window(USUAL_S * 10) > BYTES_PER_S_FIRST


def test_without_clients_it_is_soon_at_its_fastest(node: Node) -> None:
    rates = [node.window(1.0, requests=REQUESTS_MIN - 1) for _ in range(6)]
    assert rates[-1] == MAX


def test_who_knows_nothing_of_clients_begins_by_looking_at_them() -> None:
    node = Node()
    assert node.window(USUAL_S) == BYTES_PER_S_FIRST
    assert node.window(USUAL_S) > BYTES_PER_S_FIRST
    assert node.window(USUAL_S * 2) == BYTES_PER_S_FIRST * throttle.FASTER * throttle.SLOWER


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


def test_installing_is_faster_than_sending_and_follows_its_rate(node: Node) -> None:
    slow_s = node.throttle.rest_s(1 << 20)
    assert slow_s == (1 << 20) / INSTALLS_BYTES_PER_S_MIN < (1 << 20) / node.rate
    for _ in range(30):
        node.window(USUAL_S)
    assert node.throttle.rest_s(1 << 20) < slow_s / 10


def test_a_meter_gives_the_mean_and_begins_anew() -> None:
    now = 0.0
    meter = LatencyMeter(lambda: now)
    came_at = meter.now()
    now = 1.0
    meter.answered(came_at)
    now = 3.0
    meter.answered(came_at)
    assert meter.take() == (2, 2.0)
    assert meter.take() == (0, 0.0)
