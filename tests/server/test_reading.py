"""Reads of many keys: a few in each turn of the loop, and whatever happens between two turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from server_support import settle
from test_client_requests import MIB, Front, leading

from kvstore.errors import InvalidArgument, KVError, NotLeader, Overloaded, Unavailable
from kvstore.ids import GroupId
from kvstore.server.reading import BYTES_PER_KEY, KEYS_A_STEP, KEYS_A_TURN, SCANS_AT_ONCE
from kvstore.wire import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MANY = 3 * KEYS_A_TURN


class Reading(Front):
    """Its turns come when the test says so, and it knows how many keys each has read."""

    def __init__(self) -> None:
        super().__init__(voters=1)
        self.turns: list[Callable[[], None]] = []
        self.requests._reads.turns._call_soon = lambda turn: self.turns.append(turn)
        self.read_keys = 0
        machine = self.rig.host.machine
        get_many = machine.get_many

        def counted(keys: Sequence[bytes], bytes_max: int | None = None) -> object:
            self.read_keys += len(keys)
            return get_many(keys, bytes_max)

        machine.get_many = counted  # type: ignore[method-assign,assignment]

    def turn(self) -> int:
        """The next; how many keys were read in it."""
        before = self.read_keys
        (turn,), self.turns = self.turns, []
        turn()
        return self.read_keys - before

    @property
    def is_idle(self) -> bool:
        return not self.requests._reads.turns.is_waited_for and self.admission.pending_bytes == 0


async def reading() -> Reading:
    front = Reading()
    await front.rig.lead()
    return front


def keys(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


async def test_many_keys_are_read_in_several_turns_and_answered_in_their_order() -> None:
    front = await reading()
    put = front.write(b"5", b"five")
    await settle()
    assert front.body(put)
    request = front.read(*keys(MANY))
    await settle()
    read = []
    while not front.is_idle:
        read.append(front.turn())
    assert max(read) < KEYS_A_TURN + KEYS_A_STEP
    assert sum(read) == MANY
    rows = requests.decode_read_reply(front.body(request), MANY)
    assert [number for number, row in enumerate(rows) if row is not None] == [5]


async def test_many_requests_share_a_turn_and_small_ones_need_not_wait_for_large_ones() -> None:
    front = await reading()
    small = [front.read(*keys(KEYS_A_STEP)) for _ in range(KEYS_A_TURN // KEYS_A_STEP + 2)]
    large, last = front.read(*keys(MANY)), front.read(b"k")
    await settle()
    assert front.read_keys == KEYS_A_TURN, "the first turn is the one in which they are confirmed"
    assert front.turn() < KEYS_A_TURN + KEYS_A_STEP
    assert [len(front.body(request)) > 0 for request in (*small, last)] == [True] * (len(small) + 1)
    assert large not in {frame.request for frame in front.wire.frames}
    while not front.is_idle:
        front.turn()
    assert front.body(large)


async def test_large_values_take_more_of_a_turn() -> None:
    front = await reading()
    front.write(b"0", bytes(KEYS_A_TURN * BYTES_PER_KEY))
    await settle()
    first, second = front.read(b"0"), front.read(b"0")
    await settle()
    assert front.read_keys == 1
    assert front.body(first)
    front.turn()
    assert front.body(second)


def install(front: Reading) -> None:
    front.rig.host.begin_install()
    front.rig.host.installing = False


def leave(front: Reading) -> None:
    front.rig.driver.remove(GroupId(1))


def too_late(front: Reading) -> None:
    front.rig.now += 10


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        (lambda front: front.rig.host.begin_install(), Unavailable),
        (install, Unavailable),
        (leave, NotLeader),
        (too_late, Overloaded),
    ],
)
async def test_what_comes_between_two_turns_ends_the_read(
    what: Callable[[Reading], None], kind: type[KVError]
) -> None:
    front = await reading()
    request = front.read(*keys(MANY))
    await settle()
    front.turn()
    what(front)
    front.turn()
    assert isinstance(front.error(request), kind)
    assert front.is_idle


async def test_nothing_more_is_read_for_a_connection_that_is_gone() -> None:
    front = await reading()
    front.read(*keys(MANY))
    await settle()
    front.turn()
    front.wire.is_open = False
    assert front.turn() == 0
    assert front.is_idle


async def test_an_answer_that_grows_too_large_over_its_turns_is_refused() -> None:
    front = await reading()
    for number in (0, KEYS_A_STEP, KEYS_A_TURN):
        front.write(b"%d" % number, bytes(6 * MIB))
        await settle()
    request = front.read(*keys(KEYS_A_TURN + 1))
    await settle()
    while not front.is_idle:
        front.turn()
    assert isinstance(front.error(request), InvalidArgument)


async def test_connections_are_looked_at_after_so_many_bytes_of_answers() -> None:
    """Answers that nobody takes are charged to no request."""
    front = await leading()
    front.write(b"k", bytes(7 * MIB))
    await settle()
    for expected in (0, 0, 0, 0, 1, 1, 1, 1, 1, 2):
        front.read(b"k")
        await settle()
        assert front.reliefs == expected


async def test_of_pages_only_a_few_are_read_at_once_and_none_after_the_end() -> None:
    front = await leading()
    asked = [front.scan() for _ in range(2 * SCANS_AT_ONCE + 3)]
    await settle()
    assert len(front.threads.work) == SCANS_AT_ONCE
    front.threads.run()
    await settle()
    assert len(front.threads.work) == SCANS_AT_ONCE
    assert answered(front) == set(asked[:SCANS_AT_ONCE])
    front.requests.stop()
    front.threads.run()
    await settle()
    assert front.threads.work == []
    assert answered(front) == set(asked[: 2 * SCANS_AT_ONCE])


async def test_no_page_is_read_for_a_connection_that_is_gone() -> None:
    front = await leading()
    for _ in range(3 * SCANS_AT_ONCE):
        front.scan()
    await settle()
    front.wire.is_open = False
    front.threads.run()
    await settle()
    assert front.threads.work == []
    assert front.admission.pending_bytes == 0


async def test_the_loop_sees_to_all_else_between_two_turns() -> None:
    front = await leading()
    request = front.read(*keys(MANY))
    front.rig.driver._flush()
    order: list[str] = []
    loop = front.rig.driver.loop
    loop.call_soon(order.append, "another")
    loop.call_soon(lambda: order.append(f"answered: {request in answered(front)}"))
    while request not in answered(front):
        assert len(order) < 2 or order == ["another", "answered: False"]
        await pause(front)
    assert order == ["another", "answered: False"]


def answered(front: Front) -> set[int]:
    return {frame.request for frame in front.wire.frames}


async def pause(front: Front) -> None:
    """One iteration of the loop."""
    future = front.rig.driver.loop.create_future()
    front.rig.driver.loop.call_soon(future.set_result, None)
    await future
