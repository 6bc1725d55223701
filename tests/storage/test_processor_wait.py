"""What the system tells of a thread that waits for a processor; nobody tells when it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvstore.storage.waiting import ProcessorWait, UndelayedClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wait() -> Iterator[ProcessorWait]:
    made = ProcessorWait()
    yield made
    made.close()


def test_the_wait_for_a_processor_only_grows(wait: ProcessorWait) -> None:
    first = wait.seconds()
    assert 0 <= first <= wait.seconds()


def test_where_the_system_does_not_tell_nothing_was_waited_for(wait: ProcessorWait) -> None:
    wait.close()
    assert wait.seconds() == 0.0


def test_the_clock_never_runs_backwards_and_ends_well() -> None:
    clock = UndelayedClock()
    seen = [clock.now() for _ in range(1000)]
    assert seen[-1] > seen[0]
    clock.close()
    clock.close()
    assert clock.now() > 0
