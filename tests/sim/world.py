"""Simulated time: a queue of events, and one source of chance."""

from __future__ import annotations

import heapq
import random
import traceback
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable


class Violation(AssertionError):
    """What must never happen has happened."""


def place_of(error: Exception) -> str:
    """Where ``error`` was raised, as words to add to what it says."""
    *_, frame = traceback.extract_tb(error.__traceback__)
    folder, _, name = frame.filename.rpartition("/")
    return f" ({folder.rpartition('/')[2]}/{name}:{frame.lineno}, {frame.name})"


_EVENT: Final = Struct("<dQ")

EVENTS_MAX = 5_000_000
"""Of one seed: fifty times as many as the longest needs. More is a livelock."""


class World:
    """Events run one by one, in the order of their time; equal times in the order of asking."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.tracing = tracing
        self.trace: list[str] = []
        self.events_run = 0
        self.digest = 0
        """Of when each event was run, and which it was: the same for each run of the seed."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Run ``action`` at ``when``, in seconds of simulated time."""
        self._asked += 1
        heapq.heappush(self._queue, (when, self._asked, action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay_s, action)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= end:
            when, number, action = heapq.heappop(queue)
            self.now = max(self.now, when)
            self.digest = crc32(_EVENT.pack(self.now, number), self.digest)
            self.events_run += 1
            if self.events_run > EVENTS_MAX:
                raise Violation(f"livelock: more than {EVENTS_MAX} events")
            action()
        self.now = end

    def run_until(
        self, condition: Callable[[], bool], seconds: float, what: str | Callable[[], str]
    ) -> None:
        """Let time pass until ``condition`` holds.

        Raises:
            Violation: it does not within ``seconds``: no progress.
        """
        end = self.now + seconds
        while not condition():
            if self.now >= end:
                told = what if isinstance(what, str) else what()
                raise Violation(f"no progress: not within {seconds:g} s: {told}")
            self.run(0.05)

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace; callers ask for ``tracing`` first where ``what`` is costly."""
        if self.tracing:
            self.trace.append(f"{self.now:12.6f} {who:<4} {what}")
