"""Draws faults from a seed, one after the other, and keeps the record of what they did."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.faults import Fault, Scene, available

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPERATIONS_PER_S_MIN = 100.0
"""Below that a fault proves little, and does not count."""
WINDOW_S = 1.0
BUSY_WAIT_S = 15.0


@dataclass
class Event:
    """One fault as it happened; times are of the monotonic clock."""

    name: str
    began: float
    ended: float
    bit: bool
    operations_per_s: float
    """Before it began."""

    @property
    def counts(self) -> bool:
        return self.bit and self.operations_per_s >= OPERATIONS_PER_S_MIN


class Nemesis:
    """Invariant: one fault at a time; each begins only once the load is up again."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.faults = available(scene.cluster)
        self.events: list[Event] = []

    async def each_once(self) -> None:
        """Every fault that this machine allows, in the order of their names."""
        for name, fault in self.faults.items():
            await self._do(name, fault)

    async def act(self, is_over: Callable[[], bool]) -> None:
        """Faults without end until ``is_over``; each of them comes before any comes again."""
        for name in self._names():
            if is_over():
                return
            await self._do(name, self.faults[name])

    def _names(self) -> Iterator[str]:
        """Rounds in random order; deaths come twice in each."""
        while True:
            names = list(self.faults)
            names += [name for name in names if name.startswith(("kill", "power", "black"))]
            self.scene.rng.shuffle(names)
            yield from names

    async def _do(self, name: str, fault: Fault) -> None:
        await self._until_busy()
        rate = self.scene.books.per_second(WINDOW_S)
        began = time.monotonic()
        try:
            bit = await fault(self.scene)
        finally:
            self.scene.cluster.heal_network()
        self.events.append(Event(name, began, time.monotonic(), bit, rate))

    async def _until_busy(self) -> None:
        """Wait for the load to be up; if it does not come, the fault will not count."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            if self.scene.books.per_second(WINDOW_S) >= OPERATIONS_PER_S_MIN:
                return
