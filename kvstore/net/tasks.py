"""Tasks that belong to somebody: started with a name, and heard of when they break."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = logging.getLogger(__name__)


def start_task(work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """Run ``work`` until it ends or its owner cancels it."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_report_crash)
    return task


async def stop_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancel ``tasks`` and return when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("%s has stopped", task.get_name(), exc_info=task.exception())
