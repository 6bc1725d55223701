"""The timer that measures the loop, by clocks that stand where a test wants them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kvstore.server.pulse import Pulse
from kvstore.server.stalls import BEAT_S_MAX, BEAT_S_MIN


@dataclass
class Timer:
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass
class Machine:
    """A loop, a thread and a processor."""

    now: float = 50.0
    busy_s: float = 7.0
    waited_s: float = 3.0
    asked: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    is_closed: bool = False

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.asked.append((delay, callback))
        self.timers.append(Timer())
        return self.timers[-1]

    def seconds(self) -> float:
        return self.waited_s

    def close(self) -> None:
        self.is_closed = True

    def pass_time(self, passed_s: float, *, busy_s: float, waited_s: float = 0.0) -> None:
        """Until the beat that was asked for comes."""
        self.now += passed_s
        self.busy_s += busy_s
        self.waited_s += waited_s
        self.asked[-1][1]()


def pulse_of(machine: Any) -> Pulse:
    clock, busy_s = lambda: machine.now, lambda: machine.busy_s
    return Pulse(machine, clock=clock, busy_s=busy_s, wait=machine)


def test_each_beat_is_measured_from_the_one_before() -> None:
    machine = Machine()
    pulse = pulse_of(machine)
    assert machine.asked == []
    pulse.start()
    machine.pass_time(BEAT_S_MAX, busy_s=0.0001)
    machine.pass_time(BEAT_S_MAX + 0.030, busy_s=0.006, waited_s=0.020)
    recent = pulse.to_map()["recent"]
    assert (recent["longest_ms"], recent["longest_own_ms"], recent["longest_busy_ms"]) == (
        *(30.0, 10.0, 6.0),
    )
    assert pulse.to_map()["beat_ms"] < BEAT_S_MAX * 1000
    machine.pass_time(machine.asked[-1][0], busy_s=0.0)
    assert pulse.to_map()["recent"] == recent
    assert [delay for delay, _ in machine.asked][::3] == [BEAT_S_MAX] * 2


def test_a_loop_at_work_is_looked_at_more_often() -> None:
    machine = Machine()
    pulse_of(machine).start()
    machine.pass_time(BEAT_S_MAX, busy_s=BEAT_S_MAX)
    assert machine.asked[-1][0] == BEAT_S_MIN


def test_what_was_before_the_start_does_not_count() -> None:
    machine = Machine()
    pulse = pulse_of(machine)
    machine.now += 100.0
    pulse.start()
    machine.pass_time(BEAT_S_MAX, busy_s=0.0)
    assert pulse.to_map()["since_start"]["seconds"] == pytest.approx(BEAT_S_MAX, abs=0.1)
    assert pulse.to_map()["late_ms"] == {}


def test_it_ends_once_and_for_all() -> None:
    machine = Machine()
    pulse = pulse_of(machine)
    pulse.start()
    pulse.stop()
    pulse.stop()
    assert [timer.is_cancelled for timer in machine.timers] == [True]
    assert machine.is_closed


def test_one_that_was_never_started_ends_too() -> None:
    machine = Machine()
    pulse_of(machine).stop()
    assert machine.is_closed


async def test_a_call_that_blocks_the_loop_is_seen() -> None:
    """By how much at least: it is asleep for longer than any beat."""
    pulse = Pulse(asyncio.get_running_loop(), clock=time.monotonic)
    pulse.start()
    try:
        time.sleep(0.2)  # noqa: ASYNC251  this is what nobody may do
        await asyncio.sleep(0.001)  # due after the beat
        recent = pulse.to_map()["recent"]
        assert recent["longest_ms"] >= 140
        assert recent["own_over_20_ms"] >= 1
    finally:
        pulse.stop()
