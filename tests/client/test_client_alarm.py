"""One timer for many things that are due, by a loop whose clock is moved by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from kvstore.client.alarm import Alarm
from kvstore.client.operations import NEVER

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """An event loop that has nothing but timers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, callback))
        return self.timers[-1]

    def pass_until(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.timers if timer.at <= now]
        self.timers = [timer for timer in self.timers if timer.at > now]
        for timer in due:
            if not timer.is_cancelled:
                timer.callback()


class Bell:
    """Keeps when it was rung."""

    def __init__(self, clock: Clock) -> None:
        self.alarm = Alarm(cast("asyncio.AbstractEventLoop", clock), self.ring)
        self.rung: list[float] = []
        self._clock = clock

    def ring(self) -> None:
        self.rung.append(self._clock.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bell(clock: Clock) -> Bell:
    return Bell(clock)


def test_it_goes_off_once_for_what_is_due_first(clock: Clock, bell: Bell) -> None:
    for at in (5.0, 3.0, 4.0):
        bell.alarm.set(at)
    for now in (2.0, 3.0, 4.0, 5.0):
        clock.pass_until(now)
    assert bell.rung == [3.0]


def test_what_is_due_later_costs_no_timer(clock: Clock, bell: Bell) -> None:
    for at in range(3, 100):
        bell.alarm.set(at)
    bell.alarm.set(NEVER)
    assert len(clock.timers) == 1


def test_it_is_set_anew_after_it_went_off(clock: Clock, bell: Bell) -> None:
    bell.alarm.set(1.0)
    clock.pass_until(1.0)
    bell.alarm.set(2.0)
    clock.pass_until(2.0)
    assert bell.rung == [1.0, 2.0]


def test_it_may_be_set_anew_while_it_goes_off(clock: Clock) -> None:
    rung = []

    def ring() -> None:
        rung.append(clock.now)
        alarm.set(clock.now + 1)

    alarm = Alarm(cast("asyncio.AbstractEventLoop", clock), ring)
    alarm.set(1.0)
    for now in (1.0, 2.0, 3.0):
        clock.pass_until(now)
    assert rung == [1.0, 2.0, 3.0]


def test_one_that_is_cancelled_can_be_set_for_any_time(clock: Clock, bell: Bell) -> None:
    bell.alarm.set(1.0)
    bell.alarm.cancel()
    bell.alarm.set(2.0)
    clock.pass_until(1.0)
    assert bell.rung == []
    clock.pass_until(2.0)
    assert bell.rung == [2.0]
