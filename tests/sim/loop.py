"""A node's event loop and threads on simulated time; see :mod:`kvstore.server.scheduling`."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvstore.errors import KVError
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from sim.node import SimNode

T = TypeVar("T")

ITERATIONS_MAX = 100_000
"""Of one event, hundreds of times as many as it needs."""


class Thread(Executor):
    """Stands for a node's executor of one thread: its works follow one another."""

    def __init__(self) -> None:
        self.free_at = 0.0


class SimFuture(Generic[T]):
    """Work for a thread, and who waits for it."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], object]] = []
        self._result: T
        self._error: Exception | None = None
        self._is_done = False

    def __await__(self) -> Generator[SimFuture[T], None, T]:
        if not self._is_done:
            yield self
        if self._error is not None:
            raise self._error
        return self._result

    def cancelled(self) -> bool:
        return False

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> T:
        return self._result

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self._callbacks.append(callback)

    def run(self, work: Callable[[], T]) -> None:
        try:
            self._result = work()
        except (KVError, OSError) as error:
            self._error = error
        self._is_done = True
        for callback in self._callbacks:
            callback(self)


class SimPromise(Generic[T]):
    """What one coroutine waits for, until somebody tells it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._callbacks: list[Callable[[Any], object]] = []
        self._results: list[T] = []

    def __await__(self) -> Generator[Any, None, T]:
        if not self._results:
            yield self
        return self._results[0]

    def done(self) -> bool:
        return bool(self._results)

    def set_result(self, result: T, /) -> None:
        assert not self._results, "it was told already"
        self._results.append(result)
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self._callbacks.append(callback)


class SimTimer:
    """What was asked for later."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class SimLoop:
    """Invariant: what is asked for soon runs in the order of asking."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, callback: Callable[..., object], /, *arguments: Any) -> None:
        self._soon.append((callback, arguments))

    def call_later(
        self, delay: float, callback: Callable[..., object], /, *arguments: Any
    ) -> SimTimer:
        timer = SimTimer()

        def ring() -> None:
            if not timer.is_cancelled:
                callback(*arguments)

        self._node.later(delay, ring)
        return timer

    def create_future(self) -> SimPromise[Any]:
        return SimPromise(self)

    def run_in_executor(self, executor: Executor | None, work: Callable[[], T], /) -> SimFuture[T]:
        """In the one thread of ``executor``, or beside all others where that is None."""
        future = SimFuture[T]()
        node = self._node
        ends_at = node.world.now + node.rng.random() * node.swarm.thread_s_max
        if isinstance(executor, Thread):
            ends_at = executor.free_at = max(executor.free_at, ends_at)
        node.later(ends_at - node.world.now, lambda: future.run(work))
        return future

    @property
    def is_idle(self) -> bool:
        return not self._soon

    def drain(self) -> None:
        """Run what was asked for soon, and what that asks for in turn.

        Raises:
            Violation: there is no end to it.
        """
        for _ in range(ITERATIONS_MAX):
            if not self._soon:
                return
            callback, arguments = self._soon.popleft()
            callback(*arguments)
        raise Violation(f"{self._node.id}: livelock, always something to be done soon")


def run_coroutine(work: Coroutine[SimFuture[Any] | SimPromise[Any], None, None]) -> None:
    """Run ``work`` to its first wait; each future that it waits for takes it on from there."""

    def step(_: object = None) -> None:
        try:
            future = work.send(None)
        except StopIteration:
            return
        future.add_done_callback(step)

    step()
