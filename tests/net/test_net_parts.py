"""The small pure parts: backoff, progress, one line per cause, bounds from the configuration."""

from __future__ import annotations

import logging
import random

import pytest

from kvstore.config import LimitsConfig
from kvstore.net.backoff import Backoff
from kvstore.net.limits import NetLimits
from kvstore.net.progress import Progress
from kvstore.net.repeats import LINES_AT_ONCE, LINES_PER_MINUTE, FewLines, RepeatFilter


class HighestDraw(random.Random):
    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


def test_backoff_doubles_up_to_its_cap_and_starts_again() -> None:
    backoff = Backoff(0.02, 0.1, HighestDraw())
    assert [backoff.next_s() for _ in range(5)] == [0.02, 0.04, 0.08, 0.1, 0.1]
    backoff.reset()
    assert backoff.next_s() == 0.02


def test_backoff_has_full_jitter() -> None:
    rng = random.Random(1)
    waits = [Backoff(1.0, 1.0, rng).next_s() for _ in range(200)]
    assert min(waits) < 0.1
    assert max(waits) > 0.9


def test_progress_counts_only_while_waiting_and_only_without_a_step() -> None:
    progress = Progress()
    assert progress.stuck_s(10.0, waiting=True, steps=0) == 0
    assert progress.stuck_s(11.0, waiting=True, steps=0) == 1
    assert progress.stuck_s(12.0, waiting=True, steps=1) == 0
    assert progress.stuck_s(14.0, waiting=True, steps=1) == 2
    assert progress.stuck_s(15.0, waiting=False, steps=1) == 0
    assert progress.stuck_s(16.0, waiting=True, steps=1) == 0


def test_a_cause_is_new_once_and_again_after_quiet() -> None:
    causes = RepeatFilter(quiet_s=10)
    assert causes.is_new("a", 0)
    assert causes.is_new("b", 0)
    assert not causes.is_new("a", 9)
    assert not causes.is_new("a", 18)  # it went on: not quiet yet
    assert causes.is_new("a", 29)
    causes.forget("b")
    assert causes.is_new("b", 29)


def test_of_many_lines_few_are_written_and_the_others_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = FewLines(logging.getLogger("few"), "strangers")
    for number in range(5000):
        lines.write(0.0, logging.WARNING, f"line {number} of 100%")
    assert [record.getMessage() for record in caplog.records] == [
        f"line {number} of 100%" for number in range(LINES_AT_ONCE)
    ]
    caplog.clear()
    lines.look(59.0)
    assert caplog.text == ""
    lines.look(60.0)
    (record,) = caplog.records
    assert record.getMessage() == f"{5000 - LINES_AT_ONCE} more lines of strangers were left out"
    caplog.clear()
    for number in range(100):
        lines.write(60.0, logging.WARNING, f"line {number}")
    assert len(caplog.records) == LINES_PER_MINUTE
    lines.look(10_000.0)
    caplog.clear()
    for number in range(LINES_AT_ONCE):
        lines.write(10_000.0, logging.WARNING, f"line {number}")
    assert len(caplog.records) == LINES_AT_ONCE, "it was quiet for long"


def test_causes_are_forgotten_rather_than_gathered() -> None:
    causes = RepeatFilter()
    for number in range(5000):
        causes.is_new(number, 0)
    assert not causes.is_new(4999, 0)
    assert causes.is_new(0, 0)
    assert len(causes._last_s) <= 1024


@pytest.mark.parametrize("name", ["frame_bytes_max", "outbound_bytes_max", "connections_max",
                                  "hello_timeout_s", "lane_bytes_max"])  # fmt: skip
def test_bounds_come_from_the_configuration(name: str) -> None:
    config = LimitsConfig(
        frame_bytes_max=1, outbound_bytes_max=2, connections_max=3, hello_timeout_s=4,
        lane_bytes_max=5,
    )  # fmt: skip
    assert getattr(NetLimits.of(config), name) == getattr(config, name)
