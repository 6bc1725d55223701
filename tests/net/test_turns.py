"""What one iteration of the loop hears of all that came."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from net_harness import (
    LIMITS,
    PEER,
    Client,
    error_of,
    hello_frame,
    listening,
    raw,
    read_frame,
)

from kvstore import errors
from kvstore.ids import NodeId
from kvstore.net.connection import FrameConnection
from kvstore.net.turns import BYTES_PER_FRAME, FRAMES_A_STEP, FRAMES_A_TURN, Turns
from kvstore.wire.frames import HEADER_BYTES, Frame, FrameDecoder, encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MANY = 3 * FRAMES_A_TURN
AT_FIRST = FRAMES_A_TURN - MANY * HEADER_BYTES // BYTES_PER_FRAME
"""Of many so many are heard at once: to read them is some of the work."""


class Iterations:
    """A loop that goes on when it is told to."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def run(self) -> None:
        for _ in range(len(self.due)):
            self.due.popleft()()


class Socket:
    """A transport that is read and written by the test."""

    def __init__(self) -> None:
        self.is_read = True
        self.is_closed = False
        self.sent = b""
        self.unsent_bytes = 0

    def get_extra_info(self, name: str) -> None:
        del name

    def set_write_buffer_limits(self, high: int) -> None:
        del high

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        assert self.is_read
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_read
        self.is_read = True

    def write(self, data: bytes) -> None:
        self.sent += data

    def writelines(self, parts: list[bytes]) -> None:
        self.sent += b"".join(parts)

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Guest:
    """An established connection, and what was heard of it."""

    def __init__(self, turns: Turns) -> None:
        self.heard: list[int] = []
        self.answer: Callable[[Frame], None] = lambda frame: None
        self.connection = FrameConnection(LIMITS, on_frames=self._hear, turns=turns)
        self.socket = Socket()
        self.connection.connection_made(cast("asyncio.Transport", self.socket))
        self.connection.establish(self._hear, [])

    def _hear(self, _: FrameConnection, frames: list[Frame]) -> None:
        for frame in frames:
            self.heard.append(frame.request)
            self.answer(frame)

    def says(self, *frames: bytes) -> None:
        self.connection.data_received(b"".join(frames))


def questions(first: int, last: int) -> bytes:
    return b"".join(encode_frame(Kind.STATUS, n, b"") for n in range(first, last + 1))


def numbers(last: int) -> list[int]:
    return list(range(1, last + 1))


async def test_so_much_is_heard_in_each_iteration_in_order_and_nothing_read_meanwhile() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    guest.says(questions(1, MANY))
    for turn in range(3):
        assert guest.heard == numbers(AT_FIRST + turn * FRAMES_A_TURN)
        assert not guest.socket.is_read
        assert guest.connection.held_bytes > 0
        loop.run()
    assert guest.heard == numbers(MANY)
    assert guest.socket.is_read
    assert guest.connection.held_bytes == 0


async def test_what_few_ask_is_heard_at_once() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    guest.says(questions(1, FRAMES_A_TURN))
    assert guest.heard == numbers(FRAMES_A_TURN)
    assert guest.socket.is_read


async def test_half_a_frame_behind_what_waits_is_completed_later() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    stream = questions(1, MANY + 1)
    guest.says(stream[:-3])
    while not guest.socket.is_read:
        loop.run()
    assert guest.heard == numbers(MANY)
    guest.says(stream[-3:])
    assert guest.heard == numbers(MANY + 1)


async def test_one_that_always_has_more_keeps_nobody_from_being_heard() -> None:
    loop = Iterations()
    turns = Turns(loop.call_soon)
    greedy, modest, also_greedy = Guest(turns), Guest(turns), Guest(turns)
    greedy.says(questions(1, MANY))
    modest.says(questions(1, 2))
    also_greedy.says(questions(1, MANY))
    assert modest.heard == []  # the turn is used up
    loop.run()
    assert modest.heard == [1, 2]
    assert len(greedy.heard) + len(also_greedy.heard) >= AT_FIRST + FRAMES_A_TURN - 2
    assert len(also_greedy.heard) >= FRAMES_A_STEP


async def test_answers_that_are_large_take_more_of_a_turn() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    large = encode_frame(Kind.REPLY, 1, bytes(1000))

    def answer(_: Frame) -> None:
        guest.connection.send(large)

    guest.answer = answer
    guest.says(questions(1, FRAMES_A_TURN))
    assert FRAMES_A_TURN // 2 < len(guest.heard) < FRAMES_A_TURN
    loop.run()
    assert guest.heard == numbers(FRAMES_A_TURN)


async def test_a_goodbye_ends_what_waits_behind_it_and_not_what_stands_before() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    goodbye = encode_frame(Kind.GOODBYE, 0, b"")
    guest.says(questions(1, FRAMES_A_TURN + 5), goodbye, questions(1, MANY))
    assert not guest.socket.is_closed
    loop.run()
    loop.run()
    assert guest.heard == numbers(FRAMES_A_TURN + 5)
    assert guest.socket.is_closed


async def test_bytes_that_are_no_frame_are_found_out_when_it_is_their_turn() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    guest.says(questions(1, FRAMES_A_TURN + 5), bytes(20))
    assert guest.connection.is_open
    loop.run()
    assert guest.heard == numbers(FRAMES_A_TURN + 5)
    assert not guest.connection.is_open
    (frame,) = FrameDecoder(1 << 20).feed(guest.socket.sent)
    assert isinstance(error_of(frame), errors.ProtocolError)
    assert guest.socket.is_read  # to discard what still comes


@pytest.mark.parametrize("end", ["close", "abort", "lose"])
async def test_of_a_connection_that_has_ended_nothing_more_is_heard(end: str) -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    guest.says(questions(1, MANY))
    match end:
        case "close":
            guest.connection.close()
        case "abort":
            guest.connection.abort()
        case _:
            guest.connection.connection_lost(None)
    loop.run()
    loop.run()
    assert guest.heard == numbers(AT_FIRST)
    assert guest.connection.held_bytes <= LIMITS.outbound_bytes_max // 2
    assert not loop.due


async def test_who_takes_no_answers_has_no_turn_until_it_does() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    guest.says(questions(1, MANY))
    guest.connection.pause_writing()
    for _ in range(4):
        loop.run()
    assert guest.heard == numbers(AT_FIRST)
    assert not guest.socket.is_read
    guest.connection.resume_writing()
    for _ in range(4):
        loop.run()
    assert guest.heard == numbers(MANY)
    assert guest.socket.is_read


async def test_no_more_is_heard_of_who_has_got_too_much_in_the_middle_of_a_turn() -> None:
    loop = Iterations()
    guest = Guest(Turns(loop.call_soon))
    half = encode_frame(Kind.REPLY, 1, bytes(LIMITS.outbound_bytes_max // 4))

    def answer(frame: Frame) -> None:
        if frame.request in (1, 2, 3):
            guest.connection.send(half)

    guest.answer = answer
    guest.says(questions(1, FRAMES_A_TURN))
    assert guest.heard == numbers(FRAMES_A_STEP)
    guest.connection._flush()
    while not guest.socket.is_read:
        loop.run()
    assert guest.heard == numbers(FRAMES_A_TURN)


async def test_a_frame_that_waits_for_its_turn_is_not_overdue() -> None:
    guest = Guest(Turns(Iterations().call_soon))
    guest.says(questions(1, MANY))
    assert guest.connection.overdue(0.0) is None
    assert guest.connection.overdue(10 * LIMITS.frame_timeout_s) is None


async def test_what_comes_with_the_hello_is_bounded_as_well() -> None:
    async with listening() as node, raw(node) as guest:
        guest.send(hello_frame() + b"".join(read_frame(n, b"key") for n in range(MANY)))
        welcome, *replies = await guest.frames(1 + MANY)
        assert welcome.kind == Kind.WELCOME
        assert [reply.request for reply in replies] == list(range(MANY))
        assert max(node.arrivals) <= FRAMES_A_STEP


async def test_clients_share_their_turns_and_each_peer_has_its_own() -> None:
    async with listening() as node, raw(node) as second, raw(node) as third:
        clients = [Client(), Client()]
        for client in clients:
            await client.connect(node)
        await second.shake_hands(PEER)
        await third.shake_hands(replace(PEER, node_id=NodeId("n3")))
        one, other, *peers = (guest.turns for guest in node.guests)
        assert one is other
        assert len({id(turns) for turns in (one, *peers)}) == 3
