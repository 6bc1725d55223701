"""Operations that share a frame: what the callers wait for.

Each operation is one call of a user: a command or key, the future its caller awaits, and its
deadline. A caller that is cancelled, or whose deadline passes, leaves by its future being
done; the others in the frame do not notice.
"""

from __future__ import annotations

from itertools import compress
from operator import methodcaller, not_
from typing import TYPE_CHECKING, Any

from kvstore.errors import KVError, copy_of

if TYPE_CHECKING:
    import asyncio

NEVER = float("inf")
TIMER_SLACK_S = 0.001
"""An event loop's timer may come a little early; what is due by then is due."""

_is_done = methodcaller("done")


class Operations:
    """Some operations and their size; columns rather than objects, for it is hot.

    Invariants: the columns are equally long; ``deadline`` is not after any of theirs.
    """

    __slots__ = ("absent", "bytes", "commands", "deadline", "deadlines", "futures", "refusal")

    def __init__(self) -> None:
        self.commands: list[Any] = []
        """What to do: what the batch makes a frame of."""
        self.futures: list[asyncio.Future[Any]] = []
        """Who waits for it."""
        self.deadlines: list[float] = []
        """And until when (the loop's time)."""
        self.absent = 0
        """How many more the gate let in for this batch than are still in it."""
        self.bytes = 0
        """Keys and values of all whom it let in."""
        self.deadline = NEVER
        """When :meth:`expire` has something to do."""
        self.refusal: KVError | None = None
        """Why they had to begin again, if they had to: what failed since need not say it."""

    def add(self, command: Any, future: asyncio.Future[Any], size: int, deadline: float) -> bool:
        """Take one more, of ``size`` bytes; returns whether it is due before all others."""
        self.commands.append(command)
        self.futures.append(future)
        self.deadlines.append(deadline)
        self.bytes += size
        if deadline >= self.deadline:
            return False
        self.deadline = deadline
        return True

    def __len__(self) -> int:
        return len(self.futures)

    @property
    def entered(self) -> int:
        """How many the gate let in for this batch; also those who have left."""
        return len(self.futures) + self.absent

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits."""
        return not all(map(_is_done, self.futures))

    def drop_unwanted(self) -> bool:
        """Keep those that somebody still waits for; returns whether there are any."""
        is_done = list(map(_is_done, self.futures))
        if True not in is_done:
            return bool(is_done)
        wanted = list(map(not_, is_done))
        self.absent += is_done.count(True)
        self.commands = list(compress(self.commands, wanted))
        self.futures = list(compress(self.futures, wanted))
        self.deadlines = list(compress(self.deadlines, wanted))
        return True in wanted

    def halves(self) -> list[Operations]:
        """Those still wanted, in two parts; in one if only one is; none if nobody is.

        What the gate counted goes with the first part, less what is in the second.
        """
        self.drop_unwanted()
        middle = (len(self) + 1) // 2
        first, second = self._part(slice(middle)), self._part(slice(middle, None))
        first.absent, first.bytes = self.absent, self.bytes
        return [part for part in (first, second) if part]

    def _part(self, which: slice) -> Operations:
        part = Operations()
        part.commands, part.futures = self.commands[which], self.futures[which]
        part.deadlines, part.deadline = self.deadlines[which], self.deadline
        return part

    def outlast(self, now: float) -> bool:
        """Whether anybody still waits beyond ``now``."""
        waiting = zip(self.futures, self.deadlines, strict=True)
        return any(deadline > now and not future.done() for future, deadline in waiting)

    def expire(self, now: float, error: KVError) -> None:
        """Fail those whose time is up; ``deadline`` becomes that of the rest."""
        left = NEVER
        if self.refusal is not None:
            error = _with_refusal(error, self.refusal)
        for future, deadline in zip(self.futures, self.deadlines, strict=True):
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(copy_of(error))
            else:
                left = min(left, deadline)
        self.deadline = left

    def fail(self, error: KVError) -> None:
        """Fail all who still wait."""
        for future in self.futures:
            if not future.done():
                future.set_exception(copy_of(error))


def _with_refusal(error: KVError, refusal: KVError) -> KVError:
    """``error``, with what was refused before it."""
    twin = copy_of(error)
    twin.message = f"{error.message}; before that it was refused: {refusal.message}"
    twin.args = (twin.message,)
    return twin
