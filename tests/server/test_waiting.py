"""Coroutines wait for one another as with asyncio's own means, and may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
import contextlib

from server_support import settle

from kvstore.server.waiting import Signal, Turns, pause


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_signal_is_waited_for_and_stays_set_until_it_is_cleared() -> None:
    signal = Signal(asyncio.get_running_loop())
    waiting = asyncio.create_task(signal.wait())
    await settle()
    assert not waiting.done()
    signal.set()
    await waiting
    await signal.wait()
    signal.clear()
    assert not await signal.wait_for(0.0)
    signal.set()
    assert await signal.wait_for(60.0)


async def test_a_signal_comes_before_the_time_is_up() -> None:
    loop = asyncio.get_running_loop()
    signal = Signal(loop)
    loop.call_soon(signal.set)
    assert await signal.wait_for(60.0)


async def test_whoever_gave_up_waiting_is_in_nobodys_way() -> None:
    loop = asyncio.get_running_loop()
    signal = Signal(loop)
    waiting = asyncio.create_task(signal.wait())
    await settle()
    await cancel(waiting)
    assert waiting.cancelled()
    signal.set()
    assert await signal.wait_for(60.0)
    await pause(loop, 0.0)


async def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns = Turns(asyncio.get_running_loop())
    seen: list[str] = []
    go_on = asyncio.Event()

    async def take(name: str) -> None:
        async with turns:
            seen.append(name)
            await go_on.wait()

    tasks = [asyncio.create_task(take(name)) for name in "abcd"]
    await settle()
    assert seen == ["a"]
    await cancel(tasks[1])
    await cancel(tasks[0])
    await settle()
    assert seen == ["a", "c"]
    go_on.set()
    await asyncio.gather(*tasks[2:])
    assert seen == ["a", "c", "d"]


async def test_a_turn_that_was_given_to_one_who_is_cancelled_goes_on_to_the_next() -> None:
    turns = Turns(asyncio.get_running_loop())
    seen: list[str] = []

    async def take(name: str) -> None:
        async with turns:
            seen.append(name)

    await turns.__aenter__()
    tasks = [asyncio.create_task(take(name)) for name in "ab"]
    await settle()
    await turns.__aexit__()
    await cancel(tasks[0])
    await tasks[1]
    assert seen == ["b"]
