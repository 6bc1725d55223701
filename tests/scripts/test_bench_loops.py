"""Operations are counted when they end or were due, and none that fails is overlooked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from bench import loops
from bench.loads import Load
from bench.loops import EARLY_S_MAX, WrongAnswer, closed, counted, paced
from bench.resources import look

from kvstore.errors import DeadlineExceeded, KVError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.resources import Look

    from kvstore import Client

GAP_S = 0.01
NOBODY = cast("Client", None)


def at_nothing() -> Look:
    return look({})


class Clock:
    """Time passes only where somebody spends it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Until the clock says so; the first to be due moves it."""
        due = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, due)


def load_of(operation: Callable[[], Awaitable[object]]) -> Load:
    return Load(lambda _: operation())


async def pace(
    clock: Clock, operation: Callable[[], Awaitable[object]], *, seconds: float = 1.0
) -> loops.Lapse:
    """One caller, every :data:`GAP_S`, no warm-up."""
    return await paced(
        load_of(operation), [NOBODY], 1 / GAP_S, 0.0, seconds, at_nothing,
        clock=clock, sleep=clock.sleep,
    )  # fmt: skip


async def test_at_a_fixed_pace_all_that_was_due_counts() -> None:
    clock = Clock()

    async def quick() -> bool:
        clock.now += 0.002
        return True

    lapse = await pace(clock, quick)
    assert len(lapse.took_s) == 100
    assert lapse.took_s == pytest.approx([0.002] * 100)
    assert lapse.seconds == pytest.approx(1.0)


async def test_a_stall_counts_for_everything_that_was_due_meanwhile() -> None:
    clock, begun = Clock(), 0

    async def stalls_once() -> bool:
        nonlocal begun
        begun += 1
        clock.now += 0.5 if begun == 11 else 0.0
        return True

    lapse = await pace(clock, stalls_once)
    assert len(lapse.took_s) == 100
    late = [took_s for took_s in lapse.took_s if took_s > GAP_S / 2]
    # Due every 10 ms, and nobody could begin for 500 ms: 500, 490, 480 ... 10.
    assert late == pytest.approx([0.5 - n * GAP_S for n in range(50)], abs=EARLY_S_MAX)


async def test_what_is_late_at_the_end_is_waited_for() -> None:
    clock = Clock()

    async def slow() -> bool:
        clock.now += 1.5 * GAP_S
        return True

    lapse = await pace(clock, slow)
    assert len(lapse.took_s) == 100
    assert lapse.seconds == pytest.approx(1.5, abs=EARLY_S_MAX)
    assert max(lapse.took_s) == pytest.approx(0.5, rel=0.1)


async def test_the_warm_up_does_not_count() -> None:
    clock = Clock()

    async def quick() -> bool:
        return True

    lapse = await paced(
        load_of(quick), [NOBODY] * 3, 1 / GAP_S, 0.5, 1.0, at_nothing,
        clock=clock, sleep=clock.sleep,
    )  # fmt: skip
    assert len(lapse.took_s) == 100


async def test_a_pace_that_cannot_be_kept_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "DRAIN_S_MIN", 0.01)

    async def never() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(Unavailable, match=r"1,000 operations a second are more than it can do"):
        await paced(load_of(never), [NOBODY], 1000.0, 0.01, 0.01, at_nothing)


async def failing() -> bool:
    await asyncio.sleep(0)
    raise DeadlineExceeded("no answer")


async def missing() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("operation", "error"), [(failing, DeadlineExceeded), (missing, WrongAnswer)]
)
async def test_one_failure_ends_all(
    operation: Callable[[], Awaitable[object]], error: type[KVError]
) -> None:
    callers = [NOBODY] * 8
    load = load_of(operation)
    with pytest.raises(error):
        await closed(load, callers, 30.0, 30.0, at_nothing)
    with pytest.raises(error):
        await counted(load, callers, 100, at_nothing)
    with pytest.raises(error):
        await paced(load, callers, 1000.0, 30.0, 30.0, at_nothing)


async def test_a_closed_loop_counts_what_ends_while_it_is_measured() -> None:
    at_once = most = 0

    async def operation() -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        load.counts["done"] += 1
        return True

    load = load_of(operation)
    lapse = await closed(load, [NOBODY] * 5, 0.05, 0.1, at_nothing)
    assert most == 5
    assert at_once == 0
    assert 0 < len(lapse.took_s) == lapse.counts["done"] < load.counts["done"]
    assert min(lapse.took_s) > 0


async def test_so_many_operations_are_so_many() -> None:
    load = load_of(lambda: asyncio.sleep(0, result=True))
    lapse = await counted(load, [NOBODY] * 7, 100, at_nothing)
    assert len(lapse.took_s) == 100
