"""The seam to the event loop: what the synchronous parts of a node ask of it.

They get it from their maker. A node gives them asyncio's running loop; the simulator gives
them one that runs on simulated time, so that the same code runs in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Executor

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Outcome(Protocol[T_co]):
    """What became of work that was done elsewhere; a future as seen by a done callback."""

    def cancelled(self) -> bool:
        """Whether the work was given up before it began."""
        ...

    def exception(self) -> BaseException | None:
        """What it raised, if anything."""
        ...

    def result(self) -> T_co:
        """What it returned."""
        ...


class Pending(Outcome[T_co], Protocol[T_co]):
    """An :class:`Outcome` to come."""

    def __await__(self) -> Generator[Any, None, T_co]:
        """Wait for it in a coroutine."""
        ...

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """Run ``callback`` with this, on the loop, once the work is done."""
        ...


class Promise(Protocol[T]):
    """What will be told to whoever waits for it."""

    def done(self) -> bool:
        """Whether it was told, or is of no use any more."""
        ...

    def set_result(self, result: T, /) -> None:
        """Tell it; once."""
        ...

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for it in a coroutine."""
        ...


class Timer(Protocol):
    """What was asked for later."""

    def cancel(self) -> None:
        """It is not to be done any more."""
        ...


class Loop(Protocol):
    """The part of an event loop that decides when things run."""

    def call_soon(self, callback: Callable[..., object], /, *arguments: Any) -> object:
        """Run ``callback`` at the end of this iteration."""
        ...

    def call_later(
        self, delay: float, callback: Callable[..., object], /, *arguments: Any
    ) -> Timer:
        """Run ``callback`` in ``delay`` seconds."""
        ...

    def create_future(self) -> Promise[Any]:
        """Something to wait for."""
        ...

    def run_in_executor(self, executor: Executor | None, work: Callable[[], T], /) -> Pending[T]:
        """Run ``work`` in a thread of ``executor``."""
        ...
