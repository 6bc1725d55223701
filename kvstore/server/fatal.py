"""The end of a node whose state is unknown, and how failures of its own tasks come to it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from kvstore.errors import CorruptionError
from kvstore.server.advice import advice

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

EXIT_FATAL = 1


def die(error: BaseException) -> None:
    """The replica's state is unknown: say why and leave at once, before anything is answered.

    What the disk did is told in one line; only what may be a bug of ours comes with a trace.
    """
    is_disk = isinstance(error, CorruptionError) or isinstance(error.__cause__, OSError)
    trace = None if is_disk else error
    log.critical("this node stops at once: %s%s", error, advice(error), exc_info=trace)
    logging.shutdown()
    os._exit(EXIT_FATAL)


def report(done: asyncio.Future[None]) -> None:
    """Nothing that a node does on its own may fail unseen; none of it can go on half."""
    if not done.cancelled() and (error := done.exception()) is not None:
        die(error)
