"""A date that is set while a node runs is told; one that drifts is not."""

from __future__ import annotations

import pytest

from kvstore.server.date_watch import DateWatch


class Machine:
    def __init__(self) -> None:
        self.now, self.ahead_ms = 100.0, 1_700_000_000_000.0
        self.watch = DateWatch(
            lambda: int(1000 * self.now + self.ahead_ms), lambda: self.now, jump_ms_max=500
        )

    def goes_on(self, seconds: float, *, set_by_ms: float = 0.0) -> None:
        self.now += seconds
        self.ahead_ms += set_by_ms
        self.watch.check()


@pytest.mark.parametrize(
    ("set_by_ms", "told"), [(3_600_000, "set forward by 3600.0 s"), (-2_000, "set back by 2.0 s")]
)
def test_a_date_that_is_set_is_told_once(
    caplog: pytest.LogCaptureFixture, set_by_ms: float, told: str
) -> None:
    machine = Machine()
    machine.goes_on(1.0)
    assert not caplog.messages
    machine.goes_on(1.0, set_by_ms=set_by_ms)
    machine.goes_on(1.0)
    (message,) = caplog.messages
    assert told in message


def test_small_corrections_and_long_waits_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    for _ in range(100):
        machine.goes_on(60.0, set_by_ms=400)
    assert not caplog.messages
