"""Contacts: how much may wait, how many there may be, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from contact_harness import (
    N1,
    N7,
    QUICK,
    clog,
    contacts,
    gossip,
    nobody,
    numbers,
    silence,
    warnings,
)
from net_harness import LIMITS, listening, until, within

from kvstore.net.contact import Waiting

# -- what may wait --------------------------------------------------------------------------------


def waiting_sizes(waiting: Waiting) -> list[int]:
    return [len(frame) for _, frame in waiting.take()]


def test_the_oldest_frames_give_way_when_there_are_too_many() -> None:
    waiting = Waiting(3, 1000)
    for size in (1, 2, 3, 4):
        waiting.add(None, bytes(size))
    assert waiting_sizes(waiting) == [2, 3, 4]
    assert waiting_sizes(waiting) == []


def test_the_oldest_frames_give_way_when_they_are_too_large() -> None:
    waiting = Waiting(64, 10)
    for size in (4, 5, 1):
        waiting.add(None, bytes(size))
    waiting.add(None, bytes(2))
    assert waiting_sizes(waiting) == [5, 1, 2]


def test_a_frame_beyond_the_bound_waits_alone() -> None:
    waiting = Waiting(64, 10)
    waiting.add(None, bytes(3))
    waiting.add(None, bytes(100))
    assert waiting_sizes(waiting) == [100]
    waiting.add(None, bytes(100))
    waiting.add(None, bytes(3))
    assert waiting_sizes(waiting) == [3]


def test_it_is_known_for_whom_something_waits() -> None:
    waiting = Waiting(3, 1000)
    for expected in (N7, None, N1, None):
        waiting.add(expected, b"frame")
    assert waiting.expected() == [None, N1]


# -- what is sent ---------------------------------------------------------------------------------


async def test_the_newest_frames_are_sent_when_more_came_than_may_wait() -> None:
    async with listening() as node, contacts() as (book, events):
        for number in range(100):
            assert book.send(node.address, gossip(number), None)
        await until(lambda: len(node.received) == 64)
        assert numbers(node) == list(range(36, 100))
        assert not events.unreachable


async def test_a_whole_view_may_be_larger_than_all_that_may_wait() -> None:
    size_max = LIMITS.frame_bytes_max
    assert size_max > QUICK.waiting_bytes_max
    async with listening() as node, contacts() as (book, _):
        assert not book.send(node.address, gossip(0, size_max), None)  # a header too large
        assert book.send(node.address, gossip(1, size_max - 10), None)
        await until(lambda: numbers(node) == [1])
        assert book.send(node.address, gossip(2, size_max - 10), None)
        assert not book.send(node.address, gossip(3), None)
        await until(lambda: numbers(node) == [1, 2])


async def test_a_member_that_does_not_read_is_sent_no_more_than_the_bound() -> None:
    async with listening() as node, contacts() as (book, events):
        sent = await clog(book, node)
        (connection,) = book._open
        assert connection.unsent_bytes <= QUICK.waiting_bytes_max
        transport = node.guests[0]._transport
        assert transport is not None
        transport.resume_reading()
        await until(lambda: book.send(node.address, gossip(sent), None))
        await until(lambda: len(node.received) == sent + 1)
        assert numbers(node) == list(range(sent + 1))
        assert not events.lost


async def test_a_member_that_takes_nothing_any_more_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = replace(LIMITS, stall_timeout_s=0.05)
    async with listening() as node, contacts(limits=limits) as (book, events):
        await clog(book, node)
        await until(lambda: events.lost == [(N1, node.address)])
        (line,) = warnings(caplog)  # it was not the kernel that cut it
        assert line.startswith(f"cannot talk to n1 at {node.address}: ")
        assert line.endswith(" bytes were not taken within 0.05 s")
        node.guests[0].abort()


# -- how many -------------------------------------------------------------------------------------


async def test_the_longest_unused_contact_gives_its_place_to_a_new_one() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(listening(node_id=f"n{i}")) for i in range(3)]
        book, events = await stack.enter_async_context(contacts(replace(QUICK, contacts_max=2)))
        for number, node in enumerate((nodes[0], nodes[1], nodes[0])):
            assert book.send(node.address, gossip(number), None)
            await until(lambda: number in numbers(node))  # noqa: B023  awaited at once
        assert book.send(nodes[2].address, gossip(9), None)
        await until(lambda: numbers(nodes[2]) == [9])
        await until(lambda: len(nodes[1].closed) == 1)
        assert nodes[1].closed[0].reason is None
        await until(lambda: book.connection_count == 2)
        assert nodes[0].closed == []
        assert events.lost == []


async def test_an_address_that_failed_gives_its_place_too() -> None:
    async with (
        listening() as node,
        contacts(replace(QUICK, contacts_max=1), wait_s=60) as (book, events),
    ):
        assert book.send(nobody(), gossip(1), None)
        await until(lambda: len(events.unreachable) == 1)
        assert book.send(node.address, gossip(2), None)
        await until(lambda: numbers(node) == [2])


async def test_no_contact_is_given_up_while_it_is_in_use(caplog: pytest.LogCaptureFixture) -> None:
    with silence() as frozen:
        async with listening() as node, contacts(replace(QUICK, contacts_max=1)) as (book, _):
            assert book.send(frozen, gossip(1), None)
            assert not book.send(node.address, gossip(2), None)
            assert not book.send(node.address, gossip(3), None)
            assert book.send(frozen, gossip(4), None)
            assert warnings(caplog) == ["all 1 contacts are in use at once"]
            assert node.server.connection_count == 0


async def test_no_contact_is_given_up_while_something_is_unsent() -> None:
    async with listening() as node, contacts(replace(QUICK, contacts_max=1)) as (book, events):
        await clog(book, node)
        assert not book.send(nobody(), gossip(1), None)
        assert book.connection_count == 1
        node.guests[0].abort()
        await until(lambda: len(events.lost) == 1)
        assert book.send(nobody(), gossip(2), None)


# -- closing --------------------------------------------------------------------------------------


async def test_closing_says_goodbye_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with listening() as node, listening(node_id="n3") as other:
        async with contacts() as (book, events):
            for there in (node, other):
                assert book.send(there.address, gossip(1), None)
                await until(lambda: len(there.received) == 1)  # noqa: B023  awaited at once
        await until(lambda: len(node.closed) == len(other.closed) == 1)
        assert node.closed[0].reason is other.closed[0].reason is None
        assert events.lost == []
    assert asyncio.all_tasks() <= before


async def test_what_waits_is_sent_before_the_end_if_that_is_asked_for() -> None:
    async with listening() as node:
        async with contacts() as (book, _):
            await book.drain(0.0)
            assert book.send(node.address, gossip(1), None)
            await within(book.drain(10.0))
        await until(lambda: numbers(node) == [1])


async def test_closing_while_dialling() -> None:
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with contacts() as (book, events):
            assert book.send(address, gossip(1), None)
            accepted, _ = await within(loop.sock_accept(listener))
            with accepted:
                assert await within(loop.sock_recv(accepted, 4096))  # the hello
                await within(book.close())
                assert await within(loop.sock_recv(accepted, 4096)) == b""
    assert asyncio.all_tasks() <= before
    assert events.unreachable == []
    assert events.lost == []


async def test_closing_before_the_dial_has_begun() -> None:
    async with listening() as node:
        async with contacts() as (book, events):
            assert book.send(node.address, gossip(1), None)
        assert events.unreachable == []
        assert node.server.connection_count == 0


async def test_closing_cuts_a_member_that_does_not_take_the_goodbye() -> None:
    limits = replace(LIMITS, linger_s=60)
    async with listening() as node, contacts(limits=limits) as (book, events):
        await clog(book, node)
        await within(book.close(deadline_s=0.01))
        assert book.connection_count == 0
        assert events.lost == []
        node.guests[0].abort()


async def test_a_close_that_is_cancelled_leaves_nothing_open() -> None:
    limits = replace(LIMITS, linger_s=60)
    async with listening() as node, contacts(limits=limits) as (book, _):
        await clog(book, node)
        closing = asyncio.create_task(book.close(deadline_s=60))
        await until(lambda: book._sweeper is None)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await until(lambda: book.connection_count == 0)
        node.guests[0].abort()
