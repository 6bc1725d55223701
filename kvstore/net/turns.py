"""How much of one kind of work one iteration of the loop sees to, such as of what arrives.

A socket that always has more to read would otherwise have all of it handled before anything else
is: hundreds of thousands of small requests at once, and nobody would hear this node meanwhile. So
each iteration has a bound, and what is beyond it waits in order for the next. Those that wait take
turns, a little each, so that one that always has more keeps none of the others from being heard.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES_A_TURN: Final = 512
"""Of all that share the turns. A small request costs some 20 µs until it is answered."""
FRAMES_A_STEP: Final = 128
"""Of one connection, before the next one is heard."""
BYTES_PER_FRAME: Final = 16384
"""So many bytes that came, or that go at once in answer, count as one more frame."""


class Listener(Protocol):
    """Has something that waits, such as frames."""

    def take_turn(self) -> None:
        """See to some of it, and come again if there is more."""
        ...


class Turns:
    """Invariant: while something waits or was spent, the next turn is on its way."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
        *,
        budget: int = FRAMES_A_TURN,
    ) -> None:
        """Nothing waits, nothing is spent.

        Args:
            call_soon: Runs something in the next iteration; by default that of the running loop.
            budget: How much may be spent in one turn; frames, unless it is about other work.
        """
        self._call_soon = call_soon or asyncio.get_running_loop().call_soon
        self._budget = budget
        self.left = budget
        """What may still be spent in this turn; nothing if it is not above 0."""
        self._waiting: deque[Listener] = deque()
        self._is_scheduled = False

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for the next turn."""
        return bool(self._waiting)

    def spend(self, cost: int) -> None:
        """So much is taken from this turn."""
        self.left -= cost
        self._schedule()

    def put(self, listener: Listener) -> None:
        """It has its turn from the next one on; to be put once until then."""
        self._waiting.append(listener)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._is_scheduled = False
        self.left = self._budget
        try:
            while self._waiting and self.left > 0:
                self._waiting.popleft().take_turn()
        finally:
            if self._waiting:
                self._schedule()
