"""How operations follow one another: as fast as they are answered, or at a fixed pace.

In a closed loop each of ``in_flight`` callers asks again once it has its answer: it shows what the
store can do at most. In an open loop operations are due at a fixed pace, whatever becomes of
earlier ones, and each one's time runs from when it was due: if the store stalls, all that was due
meanwhile counts (Tene's "coordinated omission").
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from bench.resources import Look
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.loads import Load
    from kvstore import Client

SLEEP_S_MIN: Final = 0.0005
"""Operations that are due within so short a time begin at once: no loop sleeps for less."""
DRAIN_S_MIN: Final = 10.0


class Wrong(KVError):
    """An answer that cannot be."""


@dataclass(frozen=True, slots=True)
class Lapse:
    """What happened while it was measured."""

    took_s: list[float]
    """How long each operation took that ended meanwhile, or was due, at a fixed pace."""
    counts: dict[str, int]
    before: Look
    after: Look


async def closed(
    load: Load,
    callers: Sequence[Client],
    warm_up_s: float,
    seconds: float,
    look: Callable[[], Look],
) -> Lapse:
    """One operation at a time by each of the callers.

    Raises:
        KVError: one has failed, also in the warm-up.
    """
    operation = load.operation
    took_s: list[float] = []
    is_over = False

    async def call(store: Client) -> None:
        clock, done = time.perf_counter, took_s.append
        while not is_over:
            began = clock()
            if await operation(store) is None:
                raise Wrong("a key is missing that was written")
            done(clock() - began)

    try:
        async with asyncio.TaskGroup() as group:
            for store in callers:
                group.create_task(call(store))
            await asyncio.sleep(warm_up_s)
            gc.freeze()  # what a program holds after its start it holds to its end
            took_s.clear()
            counts_before, before = load.counts.copy(), look()
            await asyncio.sleep(seconds)
            after, total = look(), len(took_s)
            counts = load.counts - counts_before
            is_over = True
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return Lapse(took_s[:total], dict(counts), before, after)


async def paced(
    load: Load,
    callers: Sequence[Client],
    rate: float,
    warm_up_s: float,
    seconds: float,
    look: Callable[[], Look],
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Lapse:
    """So many operations a second, each by the caller that is free first.

    Raises:
        KVError: one has failed, also in the warm-up.
        Unavailable: the pace cannot be kept.
    """
    operation, turns, gap_s = load.operation, count(), 1 / rate
    started = clock()
    opens = started + warm_up_s
    closes = opens + seconds
    took_s: list[float] = []

    async def call(store: Client) -> None:
        for turn in turns:
            due = started + turn * gap_s
            if due >= closes:
                return
            if (wait_s := due - clock()) > SLEEP_S_MIN:
                await sleep(wait_s)
            began = min(due, clock())  # what begins a little early takes no less time
            if await operation(store) is None:
                raise Wrong("a key is missing that was written")
            if due >= opens:
                took_s.append(clock() - began)

    try:
        async with (
            asyncio.timeout(warm_up_s + seconds + max(DRAIN_S_MIN, seconds)),
            asyncio.TaskGroup() as group,
        ):
            for store in callers:
                group.create_task(call(store))
            await sleep(warm_up_s)
            gc.freeze()
            counts_before, before = load.counts.copy(), look()
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    except TimeoutError:
        raise Unavailable(f"{rate:,.0f} operations a second are more than can be kept") from None
    return Lapse(took_s, dict(load.counts - counts_before), before, look())


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that is told, of callers who failed together."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
