"""Tells in the log when this machine's date was set while the node runs.

Nothing breaks by it: revisions rise whatever the date says, and no read depends on one. But
sessions and leases expire by revisions, so a leader whose date goes an hour ahead ends in a moment
what should have lasted for that hour; and once it is restarted others turn it away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class DateWatch:
    """:meth:`check` is called from time to time; what changed between two calls counts."""

    def __init__(
        self, wall_ms: Callable[[], int], clock: Callable[[], float], *, jump_ms_max: int
    ) -> None:
        """Begin now.

        Args:
            wall_ms: The date, milliseconds since the Unix epoch.
            clock: Steady seconds.
            jump_ms_max: What is not worth a line.
        """
        self._wall_ms = wall_ms
        self._clock = clock
        self._jump_ms_max = jump_ms_max
        self._apart_ms = self._measure()

    def _measure(self) -> float:
        return self._wall_ms() - 1000 * self._clock()

    def check(self) -> None:
        """Compare how far the date and the steady clock are apart with how far they were."""
        before, self._apart_ms = self._apart_ms, self._measure()
        jump_ms = self._apart_ms - before
        if abs(jump_ms) > self._jump_ms_max:
            log.warning(
                "the date of this machine was set %s by %.1f s; check its time synchronisation%s",
                "forward" if jump_ms > 0 else "back",
                abs(jump_ms) / 1000,
                ": sessions expire by it, and a node whose date is ahead is turned away"
                if jump_ms > 0
                else "",
            )
