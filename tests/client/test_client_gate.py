from __future__ import annotations

import asyncio

import pytest

from kvstore.client.gate import Gate
from kvstore.errors import Overloaded, Unavailable


def new_gate(waiting_max: int = 10) -> Gate:
    return Gate(operations_max=3, bytes_max=100, waiting_max=waiting_max)


def in_a_minute() -> float:
    return asyncio.get_running_loop().time() + 60


async def entering(gate: Gate, size: int) -> asyncio.Task[None]:
    task = asyncio.create_task(gate.enter(size, in_a_minute()))
    await asyncio.sleep(0)
    return task


async def test_bounds_operations_and_bytes() -> None:
    gate = new_gate()
    assert gate.try_enter(60)
    assert not gate.try_enter(41)
    assert gate.try_enter(40)
    gate.leave(2, 100)
    assert [gate.try_enter(1) for _ in range(4)] == [True, True, True, False]


async def test_what_is_larger_than_the_bound_goes_alone() -> None:
    gate = new_gate()
    assert gate.try_enter(1000)
    assert not gate.try_enter(1)
    gate.leave(1, 1000)
    assert gate.try_enter(1)
    assert not gate.try_enter(1000)


async def test_turns_come_in_order_and_nobody_slips_in() -> None:
    gate = new_gate()
    assert gate.try_enter(90)
    large, small = await entering(gate, 50), await entering(gate, 5)
    assert not gate.try_enter(5)
    gate.leave(1, 90)
    await asyncio.gather(large, small)
    assert (gate.operations, gate.bytes) == (2, 55)


async def test_whoever_gives_up_waiting_lets_the_next_one_pass() -> None:
    gate = new_gate()
    assert gate.try_enter(90)
    large, small = await entering(gate, 50), await entering(gate, 5)
    large.cancel()
    await small
    assert (gate.operations, gate.bytes) == (2, 95)


async def test_a_turn_that_comes_together_with_a_cancellation_is_given_back() -> None:
    gate = new_gate()
    assert gate.try_enter(90)
    first, second = await entering(gate, 90), await entering(gate, 90)
    gate.leave(1, 90)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert (gate.operations, gate.bytes) == (1, 90)


async def test_no_turn_by_the_deadline() -> None:
    gate = new_gate()
    assert gate.try_enter(100)
    with pytest.raises(Overloaded) as caught:
        await gate.enter(1, asyncio.get_running_loop().time() + 0.01)
    assert not caught.value.may_have_applied
    gate.leave(1, 100)
    assert gate.try_enter(100)


async def test_whoever_gets_no_turn_hears_what_is_in_flight_then() -> None:
    gate = new_gate()
    assert gate.try_enter(40)
    assert gate.try_enter(60)
    waiting = asyncio.create_task(gate.enter(90, asyncio.get_running_loop().time() + 0.01))
    await asyncio.sleep(0)
    gate.leave(1, 60)
    with pytest.raises(Overloaded, match=r"1 operations \(40 bytes\)"):
        await waiting


async def test_the_queue_is_bounded_and_ends_with_the_client() -> None:
    gate = new_gate(waiting_max=1)
    assert gate.try_enter(100)
    waiting = await entering(gate, 1)
    with pytest.raises(Overloaded):
        await gate.enter(1, in_a_minute())
    gate.close(Unavailable("closed"))
    with pytest.raises(Unavailable, match="closed"):
        await waiting
