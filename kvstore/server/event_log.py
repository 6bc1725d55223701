"""The last events of the membership, numbered, for those who ask and those who wait."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvstore.errors import Overloaded
from kvstore.server.checksums import Asker
from kvstore.wire.membership import EventRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.swim.ready import Event

EVENTS_KEPT: Final = 1024
WAITERS_MAX: Final = 256
WAIT_S_MAX: Final = 10.0


@dataclass(slots=True)
class _Waiter:
    after: int
    deadline: float
    asker: Asker


class EventLog:
    """Invariant: each asker is answered once, with news or at its deadline."""

    def __init__(self, encode: Callable[[int], bytes], stream: int) -> None:
        """Begin with none.

        Args:
            encode: Makes the answer to whoever has all up to a number.
            stream: Tells the numbers of this log from those of any other.
        """
        self.stream = stream
        self._encode = encode
        self._events: deque[EventRow] = deque(maxlen=EVENTS_KEPT)
        self._last = 0
        self._waiters: list[_Waiter] = []

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    @property
    def oldest(self) -> int:
        """The number of the oldest that is still kept."""
        return self._events[0].number if self._events else self._last + 1

    def after(self, number: int) -> list[EventRow]:
        """What is kept beyond ``number``, the oldest first."""
        return [logged for logged in self._events if logged.number > number]

    def add(self, event: Event, wall_ms: int) -> None:
        """Something happened; whoever waited for it is answered."""
        self._last += 1
        self._events.append(EventRow.of(self._last, wall_ms, event))

    def ask(self, stream: int, after: int, wait_s: float, now: float, asker: Asker) -> None:
        """Answer with what came after ``after``: at once if anything did, or when it does.

        Whose number is of another stream is answered at once with all that is kept.
        """
        if stream != self.stream or after > self._last:
            asker.reply(self._encode(0))
        elif self._last > after or wait_s <= 0:
            asker.reply(self._encode(after))
        elif not self._has_room():
            asker.fail(Overloaded(f"{WAITERS_MAX} others wait for events of this node already"))
        else:
            self._waiters.append(_Waiter(after, now + min(wait_s, WAIT_S_MAX), asker))

    def _has_room(self) -> bool:
        """Whether one more may wait, once those who have gone away are forgotten."""
        if len(self._waiters) >= WAITERS_MAX:
            self._waiters = [waiter for waiter in self._waiters if waiter.asker.is_wanted]
        return len(self._waiters) < WAITERS_MAX

    def answer(self, now: float) -> None:
        """Answer those for whom there is news, and those who have waited long enough."""
        due = [w for w in self._waiters if w.after < self._last or w.deadline <= now]
        if due:
            self._waiters = [w for w in self._waiters if w not in due]
            for waiter in due:
                waiter.asker.reply(self._encode(waiter.after))

    @property
    def deadline(self) -> float:
        """When somebody will have waited long enough."""
        return min((w.deadline for w in self._waiters), default=float("inf"))

    def stop(self) -> None:
        """Nobody waits any longer."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.asker.reply(self._encode(waiter.after))
