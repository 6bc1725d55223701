"""What coroutines of a node wait for, on whatever loop they run: asyncio's, or a simulated one.

Like asyncio's own, which know no loop but asyncio's. Whoever waits may be cancelled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.server.scheduling import Loop, Promise


class Signal:
    """Like :class:`asyncio.Event`, for one at a time to wait for."""

    def __init__(self, loop: Loop) -> None:
        """Not set."""
        self._loop = loop
        self._is_set = False
        self._waiting: Promise[None] | None = None

    def set(self) -> None:
        """Whoever waits goes on."""
        self._is_set = True
        self._wake()

    def clear(self) -> None:
        """From now on there is something to wait for again."""
        self._is_set = False

    async def wait(self) -> None:
        """Return once it is set."""
        if not self._is_set:
            self._waiting = self._loop.create_future()
            await self._waiting

    async def wait_for(self, seconds: float) -> bool:
        """Return once it is set or so much time has passed; whether it is set."""
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self.wait()
        finally:
            timer.cancel()
        return self._is_set

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


async def pause(loop: Loop, seconds: float) -> None:
    """Let so much time pass."""
    await Signal(loop).wait_for(seconds)


class Turns:
    """Like :class:`asyncio.Lock`: one after the other, in the order of asking."""

    def __init__(self, loop: Loop) -> None:
        """It is nobody's turn."""
        self._loop = loop
        self._queue: deque[Signal] = deque()
        """Whose turn it is, then who waits."""

    async def __aenter__(self) -> None:
        turn = Signal(self._loop)
        self._queue.append(turn)
        if self._queue[0] is not turn:
            try:
                await turn.wait()
            except BaseException:
                self._end(turn)
                raise

    async def __aexit__(self, *_: object) -> None:
        self._end(self._queue[0])

    def _end(self, turn: Signal) -> None:
        was_first = self._queue[0] is turn
        self._queue.remove(turn)
        if was_first and self._queue:
            self._queue[0].set()
