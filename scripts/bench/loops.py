"""How operations follow one another: as fast as they are answered, or at a fixed pace.

In a closed loop each of the callers asks again once it has its answer: it shows what the store can
do at most. In an open loop operations are due at a fixed pace, whatever becomes of earlier ones,
and each one's time runs from when it was due: if the store stalls, all that was due meanwhile
counts (Tene's "coordinated omission").

A caller is a client with one operation under way; several may share a client.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from bench.resources import Look
from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence

    from bench.loads import Load
    from kvstore import Client

EARLY_S_MAX: Final = 0.001
"""No loop sleeps to less than a millisecond. So what is due within one begins at once: to begin
late would look as if the store were slow."""
DRAIN_S_MIN: Final = 10.0
"""At least so long what is late at the end may take."""


class WrongAnswer(KVError):
    """An answer that cannot be."""


@dataclass(frozen=True, slots=True)
class Lapse:
    """What happened while it was measured."""

    took_s: list[float]
    """How long each operation took that ended meanwhile; at a fixed pace, that was due."""
    seconds: float
    """That they took together."""
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
    """Every caller without a pause, for a time.

    Raises:
        KVError: an operation has failed, also in the warm-up.
    """
    took_s: list[float] = []
    turns = _until_stopped(stop := [False])
    async with _callers(_ask(load, store, turns, took_s) for store in callers):
        await asyncio.sleep(warm_up_s)
        gc.freeze()  # what a program holds after its start it holds to its end
        took_s.clear()
        counts, before = load.counts.copy(), look()
        await asyncio.sleep(seconds)
        after, total, counts = look(), len(took_s), load.counts - counts
        stop[0] = True
    return Lapse(took_s[:total], after.at - before.at, dict(counts), before, after)


async def counted(
    load: Load, callers: Sequence[Client], operations: int, look: Callable[[], Look]
) -> Lapse:
    """Every caller without a pause, for so many operations in all. Raises likewise."""
    took_s: list[float] = []
    turns = iter(range(operations))
    gc.freeze()
    before = look()
    async with _callers(_ask(load, store, turns, took_s) for store in callers):
        pass
    after = look()
    return Lapse(took_s, after.at - before.at, dict(load.counts), before, after)


def _until_stopped(stop: list[bool]) -> Iterator[int]:
    turns = count()
    while not stop[0]:
        yield next(turns)


async def _ask(load: Load, store: Client, turns: Iterator[int], took_s: list[float]) -> None:
    """The hot loop."""
    operation, clock, done = load.operation, time.perf_counter, took_s.append
    for _ in turns:
        began = clock()
        if await operation(store) is None:
            raise WrongAnswer("a key is missing that was written")
        done(clock() - began)


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
        KVError: an operation has failed, also in the warm-up.
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
            while (wait_s := due - clock()) > EARLY_S_MAX:
                await sleep(wait_s - EARLY_S_MAX / 2)
            began = min(due, clock())  # what begins a little early takes no less time
            if await operation(store) is None:
                raise WrongAnswer("a key is missing that was written")
            if due >= opens:
                took_s.append(clock() - began)

    try:
        async with (
            asyncio.timeout(warm_up_s + seconds + max(DRAIN_S_MIN, seconds)),
            _callers(map(call, callers)),
        ):
            await sleep(warm_up_s)
            gc.freeze()
            counts, before = load.counts.copy(), look()
    except TimeoutError:
        raise Unavailable(f"{rate:,.0f} operations a second are more than it can do") from None
    ended = max(closes, clock())
    return Lapse(took_s, ended - opens, dict(load.counts - counts), before, look())


@asynccontextmanager
async def _callers(calls: Iterator[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Let them run until all have ended; one that fails ends all. Raises what it has raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
            yield
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
