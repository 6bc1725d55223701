"""Operations that share a frame: what the callers wait for.

Each operation is one call of a user: a command or key, the future its caller awaits, and its
deadline. A caller that is cancelled, or whose deadline passes, leaves by its future being
done; the others in the frame do not notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from kvstore.errors import KVError, copy_of

if TYPE_CHECKING:
    import asyncio

Operation: TypeAlias = tuple[Any, "asyncio.Future[Any]", float]
"""What to do, who waits for it, and until when (the loop's time). A tuple: it is hot."""

NEVER = float("inf")
TIMER_SLACK_S = 0.001
"""An event loop's timer may come a little early; what is due by then is due."""


class Operations:
    """Some operations and their size. Invariant: ``deadline`` is not after any of theirs."""

    __slots__ = ("bytes", "deadline", "entered", "items")

    def __init__(self) -> None:
        self.items: list[Operation] = []
        self.entered = 0
        """How many the gate let in for this batch; also those who have left."""
        self.bytes = 0
        """Keys and values of all who entered."""
        self.deadline = NEVER
        """When :meth:`expire` has something to do."""

    def add(self, operation: Operation, size: int) -> None:
        """Take one more, of ``size`` bytes."""
        self.items.append(operation)
        self.entered += 1
        self.bytes += size
        if operation[2] < self.deadline:
            self.deadline = operation[2]

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits."""
        return any(not future.done() for _, future, _ in self.items)

    def drop_unwanted(self) -> None:
        """Keep those that somebody still waits for."""
        self.items = [operation for operation in self.items if not operation[1].done()]

    def halves(self) -> list[Operations]:
        """Those still wanted, in two parts; empty if there are not two to divide.

        What the gate counted goes with the first part, less what is in the second.
        """
        self.drop_unwanted()
        if len(self.items) < 2:
            return []
        first, second = Operations(), Operations()
        middle = len(self.items) // 2
        first.items, second.items = self.items[:middle], self.items[middle:]
        first.deadline = second.deadline = self.deadline
        second.entered = len(second.items)
        first.entered, first.bytes = self.entered - second.entered, self.bytes
        return [first, second]

    def outlast(self, now: float) -> bool:
        """Whether anybody still waits beyond ``now``."""
        return any(deadline > now and not future.done() for _, future, deadline in self.items)

    def expire(self, now: float, error: KVError) -> None:
        """Fail those whose time is up; ``deadline`` becomes that of the rest."""
        left = NEVER
        for _, future, deadline in self.items:
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(copy_of(error))
            else:
                left = min(left, deadline)
        self.deadline = left

    def fail(self, error: KVError) -> None:
        """Fail all who still wait."""
        for _, future, _ in self.items:
            if not future.done():
                future.set_exception(copy_of(error))
