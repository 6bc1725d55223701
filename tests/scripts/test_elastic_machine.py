"""What other programs use is what the machine uses without ours."""

from __future__ import annotations

import os

import pytest
from elasticity.machine import busy_s, busy_ticks, others_cores, used_s


def test_idle_time_and_guests_are_not_counted() -> None:
    assert busy_ticks("cpu  1 2 4 100 200 8 16 32 64 128\ncpu0 9 9 9") == 63


def test_others_use_what_is_left() -> None:
    assert others_cores(3.0, {1: 10.0, 2: 5.0}, {1: 11.0, 2: 5.5}, 2.0) == pytest.approx(0.75)
    assert others_cores(3.0, {1: 10.0}, {}, 2.0) == 1.5
    assert others_cores(0.9, {1: 0.0}, {1: 1.0}, 1.0) == 0.0


def test_only_who_is_there_has_used_anything() -> None:
    own = os.getpid()
    assert used_s([own, 2**22 + 1]).keys() == {own}
    assert 0 < used_s([own])[own] < busy_s()
