"""Waiting until the servers have put away what they were given."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from bench.resources import look
from kvstore.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOK_S: Final = 1.0
QUIET_CORES: Final = 0.05
"""Of each node; at rest one takes less than half of that."""
WAIT_S: Final = 600.0


async def until_quiet(pids: Mapping[str, int]) -> None:
    """Return once no node works any more, be it only in the background.

    Raises:
        Unavailable: one has ended, or they do not come to rest.
    """
    deadline = time.monotonic() + WAIT_S
    before = look(pids)
    while pids:
        await asyncio.sleep(LOOK_S)
        after = look(pids)
        used = [after.cpu_s[name] - before.cpu_s[name] for name in pids]
        if max(used) < QUIET_CORES * (after.at - before.at):
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"the nodes still work {WAIT_S:g} s after they were given anything")
        before = after
