"""Operations that have not been taken up: gathered into batches, in order of arrival."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvstore.client.operations import NEVER

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from kvstore.client.batches import Batch
    from kvstore.client.operations import Operations
    from kvstore.errors import KVError

B = TypeVar("B", bound="Batch")


class Gathering(Generic[B]):
    """Invariant: only the last batch may grow, and not if it was put back."""

    def __init__(
        self,
        new_batch: Callable[[], B],
        new_future: Callable[[], asyncio.Future[Any]],
        on_due: Callable[[], None],
        *,
        commands_max: int,
        bytes_max: int,
    ) -> None:
        self._new_batch = new_batch
        self._new_future = new_future
        self._on_due = on_due
        """Called when a batch begins, or has something due sooner than was known."""
        self.commands_max = commands_max
        """Operations of one batch; may be changed."""
        self._bytes_max = bytes_max
        self.batches: deque[B] = deque()
        """In the order in which they go."""
        self._growing: Operations | None = None

    @property
    def may_grow(self) -> bool:
        """Whether the next batch still takes operations; to be asked if there is one."""
        first = self.batches[0].operations
        return first is self._growing and len(first.futures) < self.commands_max

    @property
    def first(self) -> B:
        """The batch that goes next."""
        return self.batches[0]

    @property
    def deadline(self) -> float:
        """When :meth:`expire` has something to do."""
        return min((batch.operations.deadline for batch in self.batches), default=NEVER)

    def add(self, command: Any, size: int, deadline: float) -> asyncio.Future[Any]:
        """Take one more operation, of ``size`` bytes; returns what its caller waits for."""
        growing = self._growing
        if (
            growing is None
            or len(growing.futures) >= self.commands_max
            or growing.bytes + size > self._bytes_max
        ):
            batch = self._new_batch()
            self.batches.append(batch)
            self._growing = growing = batch.operations
        future = self._new_future()
        if growing.add(command, future, size, deadline):
            self._on_due()
        return future

    def put_back(self, batches: Sequence[B]) -> None:
        """These go before all others, as they are."""
        self.batches.extendleft(reversed(batches))

    def pop(self) -> B:
        """Take the first batch up."""
        batch = self.batches.popleft()
        if batch.operations is self._growing:
            self._growing = None
        return batch

    def expire(self, now: float, error: KVError) -> list[B]:
        """Fail operations whose time is up; take out and return batches nobody waits for."""
        empty = []
        for batch in self.batches:
            if batch.operations.deadline <= now:
                batch.operations.expire(now, error)
                if batch.operations.deadline == NEVER:
                    empty.append(batch)
        if empty:
            self.batches = deque(batch for batch in self.batches if batch not in empty)
            if all(batch.operations is not self._growing for batch in self.batches):
                self._growing = None
        return empty

    def take_all(self) -> list[B]:
        """Empty it."""
        batches, self._growing = list(self.batches), None
        self.batches.clear()
        return batches
