"""Draws faults from a seed, and keeps the record of what they did."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from chaos import faults

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from chaos.target import Fault, Target

OPERATIONS_PER_S_MIN = 25.0
"""Below that a fault proves little, and does not count."""
WINDOW_S = 1.0
BUSY_WAIT_S = 15.0
INTERVAL_S_MAX = 1.5
MORE_TRIES_MAX = 2
FAULT_S_MAX = 60.0
"""No fault may last so long; one that does is a fault of the test, and ends the run."""
TOGETHER_SHARE = 0.35
"""How often a fault of the network comes together with another."""


@dataclass(frozen=True)
class Event:
    """One fault as it happened; times are of the monotonic clock."""

    name: str
    what: str
    began: float
    ended: float
    bit: bool
    operations_per_s: float
    """Before it began."""

    @property
    def counts(self) -> bool:
        return self.bit and self.operations_per_s >= OPERATIONS_PER_S_MIN


class Nemesis:
    """Invariant: never two faults of the network at a time, nor two of nodes; the next ones
    begin only once the load is up again.
    """

    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target = target
        self.on_nodes = faults.on_nodes(target.cluster)
        self.all = self.on_nodes | faults.NETWORK
        self.events: list[Event] = []
        self._rng = rng
        """Its own: what comes next is the seed's to say, whatever happened before."""

    async def each_once(self) -> None:
        """Every fault that this machine allows, those of the network beside the others.

        One that hit nothing, or came when the load was low, proves nothing: it comes again.
        """
        for pair in zip_longest(self.on_nodes, reversed(faults.NETWORK)):
            await self._do([name for name in pair if name is not None])
        for _ in range(MORE_TRIES_MAX):
            counted = {event.name for event in self.events if event.counts}
            for name in [name for name in self.all if name not in counted]:
                await self._do([name])

    async def act(self, is_over: Callable[[], bool]) -> None:
        """Faults without end until ``is_over``; each of them comes before any comes again."""
        for names in self.draws():
            if is_over():
                return
            await self._do(names)
            await asyncio.sleep(INTERVAL_S_MAX * self._rng.random())

    def draws(self) -> Iterator[list[str]]:
        """Rounds in random order, of one fault or two at a time."""
        while True:
            names = [*self.all, *(name for name in faults.EXTRA if name in self.all)]
            self._rng.shuffle(names)
            for name in names:
                together = self._rng.random() < TOGETHER_SHARE
                second = self._rng.choice(list(faults.NETWORK))
                yield [name, second] if together and name not in faults.NETWORK else [name]

    async def _do(self, names: list[str]) -> None:
        await self._until_busy()
        rate = self.target.history.per_second(WINDOW_S)
        async with asyncio.TaskGroup() as together:
            for name in names:
                together.create_task(self._run(name, self.all[name], rate))

    async def _run(self, name: str, fault: Fault, rate: float) -> None:
        began = time.monotonic()
        async with asyncio.timeout(FAULT_S_MAX):
            outcome = await fault(self.target)
        self.events.append(Event(name, outcome.what, began, time.monotonic(), outcome.bit, rate))

    async def _until_busy(self) -> None:
        """Wait for the load to be up; if it does not come, the fault will not count."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            if self.target.history.per_second(WINDOW_S) >= OPERATIONS_PER_S_MIN:
                return
