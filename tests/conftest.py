"""What holds for all tests, and what tests of several folders need."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from drivers import driven

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drivers import Drive

# In the background of a shell interrupts are ignored, and all that tests start would ignore them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take any time: how long is a benchmark's business.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Begins programs that start nodes; all have ended when the test is over."""
    with ExitStack() as programs:
        yield lambda command, **options: programs.enter_context(driven(command, **options))
