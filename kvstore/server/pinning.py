"""Makes durable which data directory each peer has, off the loop, however long that takes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from kvstore.errors import Refused
from kvstore.server import fatal

if TYPE_CHECKING:
    from kvstore.ids import NodeId
    from kvstore.storage.identity import Identity
    from kvstore.storage.identity_file import Pin

log = logging.getLogger(__name__)

RETRY_S: Final = 5.0


class Pinning:
    """Owns the tasks that write; one a peer that was met for the first time."""

    def __init__(self, identity: Identity) -> None:
        """Write to the directory of ``identity``."""
        self._identity = identity
        self._tasks: set[asyncio.Task[None]] = set()

    def remember(self, node: NodeId, pin: Pin) -> None:
        """``node`` is the one with this directory from now on."""
        task = asyncio.get_running_loop().create_task(self._pin(node, pin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(fatal.report)

    async def _pin(self, node: NodeId, pin: Pin) -> None:
        while True:
            try:
                await asyncio.to_thread(self._identity.pin, node, pin.data_id, pin.life)
            except Refused:
                return  # It was repaired in the meantime, and its later life stands there.
            except OSError as error:
                log.warning("%s could not be remembered yet: %s", node, error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def stop(self) -> None:
        """Write nothing more; whoever is met again later is remembered then."""
        for task in tuple(self._tasks):
            task.cancel()
