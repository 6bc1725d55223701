"""Programs that start nodes in sessions of their own: whatever a test does, none is left behind.

Only the program itself knows what it has started, so it is asked to end before it is killed.
"""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

END_WAIT_S = 30.0
READ_WAIT_S = 120.0
"""Until a line that a test waits for has come."""


class Drive(Protocol):
    """Begins a program as ``Popen`` does, with its output in a pipe."""

    def __call__(self, command: list[str], **options: Any) -> subprocess.Popen[str]: ...


@contextmanager
def driven(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Begin a program; in the end it has ended, by itself if it can."""
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.communicate(timeout=END_WAIT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()


@contextmanager
def ended_after(running: subprocess.Popen[Any], seconds: float) -> Iterator[None]:
    """End it if what is done meanwhile takes longer: whoever reads from it comes to the end."""

    def end() -> None:
        running.terminate()
        try:
            running.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:
            running.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def lines_until(running: subprocess.Popen[str], stream: IO[str] | None, pattern: str) -> list[str]:
    """What it says, up to a line in which the pattern is found; fails if none comes."""
    assert stream is not None
    lines = []
    with ended_after(running, READ_WAIT_S):
        for line in stream:
            lines.append(line)
            if re.search(pattern, line):
                return lines
    pytest.fail(f"it ended without {pattern!r}: {lines}")
