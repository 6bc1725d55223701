"""How much one client holds: beyond the bound a call waits its turn, in order of arrival."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from kvstore.errors import KVError, Overloaded, copy_of


class Gate:
    """Counts operations queued or unanswered, and the bytes of their keys and values.

    Invariant: while somebody waits, nobody enters out of turn.
    """

    def __init__(self, *, operations_max: int, bytes_max: int, waiting_max: int) -> None:
        self._operations_max = operations_max
        self._bytes_max = bytes_max
        self._waiting_max = waiting_max
        # Emptied from the front: the first of a plain dict lies behind all that have left.
        self._waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self.operations = 0
        self.bytes = 0

    def try_enter(self, size: int, *, is_next: bool = False) -> bool:
        """Enter with ``size`` bytes if there is room, and nobody waits or ``is_next`` to do so."""
        if self._waiting and not is_next:
            return False
        operations, held = self.operations, self.bytes + size
        # What is larger than the whole bound goes alone.
        if operations and (operations >= self._operations_max or held > self._bytes_max):
            return False
        self.operations, self.bytes = operations + 1, held
        return True

    async def enter(self, size: int, deadline: float) -> None:
        """Wait for room, at most until ``deadline`` (the loop's time).

        Raises:
            Overloaded: there was none in time, or too many calls wait already.
        """
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(f"{len(self._waiting)} calls wait for their turn in this client")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        overdue = loop.call_at(deadline, self._no_turn_in_time, turn)
        self._waiting[turn] = size
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(1, size)  # the turn came together with the cancellation
            raise
        finally:
            overdue.cancel()
            if self._waiting.pop(turn, None) is not None:
                self._admit()  # who stood behind a large one may fit
            del turn  # it holds the error that is raised, which holds the caller's value

    def _no_turn_in_time(self, turn: asyncio.Future[None]) -> None:
        error = Overloaded(
            f"{self.operations} operations ({self.bytes} bytes) are in flight in this client, "
            "and none ended before the deadline"
        )
        _fail(turn, error)

    def leave(self, operations: int, size: int) -> None:
        """Operations ended; whoever waited longest goes next."""
        self.operations -= operations
        self.bytes -= size
        assert self.operations >= 0
        assert self.bytes >= 0
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            turn = next(iter(self._waiting))
            size = self._waiting[turn]
            if not turn.done():
                if not self.try_enter(size, is_next=True):
                    return
                turn.set_result(None)
            del self._waiting[turn]

    def close(self, error: KVError) -> None:
        """Fail everybody who waits."""
        for turn in self._waiting:
            _fail(turn, error)


def _fail(turn: asyncio.Future[None], error: KVError) -> None:
    if not turn.done():
        turn.set_exception(copy_of(error))
