"""One timer of the event loop for many things that are due at times of their own.

A timer for each would be set and cancelled with every batch, and nearly none would go off. This
one may go off for nothing, when what was due has ended: whoever is called looks what is due, and
sets it again for what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.client.operations import NEVER

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Alarm:
    """Invariant: ``on_due`` is called no later than any time it was set for, once for many."""

    __slots__ = ("_goes_off_at", "_loop", "_on_due", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None
        self._goes_off_at = NEVER

    def set(self, at: float) -> None:
        """Something is due ``at`` (the loop's time); a later time than was set changes nothing."""
        if at < self._goes_off_at:
            self.cancel()
            self._goes_off_at = at
            self._timer = self._loop.call_at(at, self._go_off)

    def cancel(self) -> None:
        """Nothing is due."""
        self._goes_off_at = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._goes_off_at, self._timer = NEVER, None
        self._on_due()
