"""Contacts: dialled when there is something to say, and told apart how they end."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from contact_harness import (
    N1,
    N7,
    QUICK,
    Draw,
    Events,
    contacts,
    gossip,
    nobody,
    numbers,
    silence,
    warnings,
)
from net_harness import LIMITS, listening, until, within

from kvstore import errors
from kvstore.net.contacts import ContactBook, ContactCallbacks
from kvstore.net.dial import NobodyListens
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.transport import Lane
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    import pytest

    from kvstore.net.connection import FrameConnection
    from kvstore.wire.hello import Hello, Welcome

# -- sending --------------------------------------------------------------------------------------


async def test_nothing_is_dialled_before_there_is_something_to_say() -> None:
    async with listening() as node, contacts() as (book, events):
        assert node.server.connection_count == book.connection_count == 0
        assert book.send(node.address, gossip(1), None)
        await until(lambda: numbers(node) == [1])
        assert book.connection_count == 1
        assert [guest.hello for guest in node.guests] == [events.make_hello(Lane.CONTACT)]
        assert not events.unreachable


async def test_frames_arrive_in_order_on_one_connection() -> None:
    async with listening() as node, contacts() as (book, events):
        welcomes = []
        events.on_welcome = lambda: welcomes.append(1)
        for number in range(50):
            assert book.send(node.address, gossip(number), None)
        await until(lambda: len(node.received) == 50)
        for number in range(50, 200):
            assert book.send(node.address, gossip(number), N1)
        await until(lambda: len(node.received) == 200)
        assert numbers(node) == list(range(200))
        assert len(node.guests) == 1
        assert len(welcomes) == 2  # for anybody, then for n1


async def test_nothing_is_sent_before_the_start_and_after_the_end() -> None:
    async with listening() as node:
        async with contacts() as (book, events):
            pass
        assert not book.send(node.address, gossip(1), None)
        callbacks = ContactCallbacks(
            events.make_hello, events.check_welcome, events.tell_unreachable, events.tell_lost
        )
        assert not ContactBook(callbacks, limits=LIMITS, rng=Draw(0)).send(
            node.address, gossip(1), None
        )
        assert node.server.connection_count == 0


# -- failures -------------------------------------------------------------------------------------


async def test_a_dead_process_is_told_apart_and_left_alone_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = nobody()
    async with contacts(wait_s=60) as (book, events):
        assert book.send(address, gossip(1), N1)
        assert book.send(address, gossip(2), None)
        assert book.send(address, gossip(3), N1)
        await until(lambda: len(events.unreachable) == 2)
        assert [(where, expected) for where, expected, _ in events.unreachable] == [
            (address, N1), (address, None),
        ]  # fmt: skip
        assert all(isinstance(error, NobodyListens) for *_, error in events.unreachable)
        assert not book.send(address, gossip(4), N1)
        assert book._dials() == []
        assert warnings(caplog) == []  # members die; that is what membership is for


async def test_what_waited_in_vain_is_not_sent_later() -> None:
    address = nobody()
    async with contacts() as (book, events):
        assert book.send(address, gossip(1), None)
        await until(lambda: len(events.unreachable) == 1)
        async with listening(port=int(address.rpartition(":")[2])) as node:
            assert book.send(address, gossip(2), None)
            await until(lambda: numbers(node) == [2])


async def test_a_member_that_is_heard_again_is_dialled_again() -> None:
    address = nobody()
    async with contacts(replace(QUICK, backoff_base_s=0.001), wait_s=60) as (book, events):
        book.forgive(address)  # of whom nothing is known
        assert book.send(address, gossip(1), None)
        await until(lambda: len(events.unreachable) == 1)
        async with listening(port=int(address.rpartition(":")[2])) as node:
            assert not book.send(address, gossip(2), None)
            book.forgive(address)
            await until(lambda: book.send(address, gossip(3), None))
            await until(lambda: 3 in numbers(node))


async def test_a_member_that_is_heard_and_cannot_be_reached_is_not_dialled_at_once() -> None:
    async with contacts(replace(QUICK, backoff_base_s=30), wait_s=60) as (book, events):
        address = nobody()
        assert book.send(address, gossip(1), None)
        await until(lambda: len(events.unreachable) == 1)
        book.forgive(address)
        assert not book.send(address, gossip(2), None)


async def test_a_process_that_accepts_and_never_welcomes(caplog: pytest.LogCaptureFixture) -> None:
    with silence() as address:
        async with contacts(replace(QUICK, dial_timeout_s=0.05), wait_s=60) as (book, events):
            assert book.send(address, gossip(1), N1)
            await until(lambda: len(events.unreachable) == 1)
            ((_, expected, error),) = events.unreachable
            assert expected == N1
            assert error.message == f"{address}: no answer within 0.05 s"
            assert isinstance(error, errors.Unavailable)
            assert not isinstance(error, NobodyListens)
            assert not book.send(address, gossip(2), N1)
            assert warnings(caplog) == []


async def test_a_node_of_another_cluster_is_told_of_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def welcome_all(connection: FrameConnection, hello: Hello) -> Welcome:
        return welcome(connection, replace(hello, cluster_id="home"))

    async with listening() as node, contacts() as (book, events):
        welcome, node.server._on_hello = node.on_hello, welcome_all
        events.cluster_id = "away"
        open_when_told = []
        events.on_unreachable = lambda: open_when_told.append(book.connection_count)
        for attempt in range(3):
            assert book.send(node.address, gossip(attempt), None)
            await until(lambda: len(events.unreachable) == attempt + 1)  # noqa: B023
        assert all(isinstance(error, errors.Refused) for *_, error in events.unreachable)
        assert warnings(caplog) == [
            f"nobody of this cluster answers at {node.address}: "
            "the node at its address is of cluster home"
        ]
        assert node.received == []
        await until(lambda: len(node.closed) == 3)
        assert {type(connection.reason) for connection in node.closed} == {errors.Refused}
        assert open_when_told == [0, 0, 0]
        assert events.lost == []


async def test_who_is_turned_away_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as node, contacts() as (book, events):
        events.cluster_id = "away"
        for attempt in range(3):
            assert book.send(node.address, gossip(attempt), N1)
            await until(lambda: len(events.unreachable) == attempt + 1)  # noqa: B023
        assert warnings(caplog) == [
            f"cannot talk to n1 at {node.address}: this is cluster home, not away"
        ]


async def test_one_that_has_removed_us_is_left_alone_and_its_word_is_the_owners(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(connection: FrameConnection, hello: Hello) -> Welcome:
        raise errors.Removed("n2 was removed")

    for wait_s, is_dialled_again in ((60.0, False), (0.0, True)):
        bounds = replace(QUICK, removed_wait_s=wait_s)
        async with listening() as node, contacts(bounds) as (book, events):
            node.server._on_hello = refuse
            assert book.send(node.address, gossip(1), N1)
            await until(lambda: len(events.unreachable) == 1)
            assert type(events.unreachable[0][2]) is errors.Removed
            assert book.send(node.address, gossip(2), N1) is is_dialled_again
    assert warnings(caplog) == []


async def test_what_is_no_address_is_told_of_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with contacts() as (book, events):
        for attempt in range(3):
            assert book.send("no address", gossip(attempt), N1)
            await until(lambda: len(events.unreachable) == attempt + 1)  # noqa: B023
        assert warnings(caplog) == [
            "cannot talk to n1 at no address: 'no address' is not host:port"
        ]


async def test_another_node_at_the_address_gets_only_what_is_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a dead member's address was given to a new one."""
    async with listening() as node, contacts(wait_s=60) as (book, events):
        assert book.send(node.address, gossip(1), N7)
        assert book.send(node.address, gossip(2), N1)
        assert book.send(node.address, gossip(3), N7)
        assert book.send(node.address, gossip(4), None)
        await until(lambda: len(node.received) == 2)
        assert not book.send(node.address, gossip(5), N7)
        assert book.send(node.address, gossip(6), N1)
        await until(lambda: len(node.received) == 3)
        assert numbers(node) == [2, 4, 6]
        ((where, expected, error),) = events.unreachable
        assert (where, expected, type(error)) == (node.address, N7, errors.Refused)
        assert warnings(caplog) == [
            f"cannot talk to n7 at {node.address}: the node at its address is n1"
        ]
        assert len(node.guests) == 1


async def test_an_address_that_another_node_has_taken_over() -> None:
    async with contacts() as (book, events):
        async with listening() as node:
            assert book.send(node.address, gossip(1), N1)
            await until(lambda: len(node.received) == 1)
        await until(lambda: len(events.lost) == 1)
        async with listening(node_id="n7", port=node.server.port) as other:
            assert book.send(other.address, gossip(2), N1)
            await until(lambda: len(events.unreachable) == 1)
            assert book.send(other.address, gossip(3), N7)
            await until(lambda: len(other.received) == 1)
            assert numbers(other) == [3]


async def test_a_dead_member_at_the_address_of_another_costs_it_nothing() -> None:
    async with listening() as node, contacts(wait_s=60) as (book, events):
        assert book.send(node.address, gossip(1), N7)
        await until(lambda: len(events.unreachable) == 1)
        assert book.send(node.address, gossip(2), N1)
        await until(lambda: numbers(node) == [2])


# -- how a connection ends ------------------------------------------------------------------------


async def test_an_idle_connection_is_closed_with_a_goodbye() -> None:
    async with listening() as node, contacts(replace(QUICK, idle_s=0.05)) as (book, events):
        for number in (1, 2):
            assert book.send(node.address, gossip(number), None)
            await until(lambda: len(node.closed) == number)  # noqa: B023  awaited at once
        assert [connection.reason for connection in node.closed] == [None, None]
        assert numbers(node) == [1, 2]
        await until(lambda: book.connection_count == 0)
        assert events.lost == []
        assert not book._contacts


async def test_a_connection_that_is_lost_is_told_and_dialled_again_on_demand() -> None:
    async with listening() as node, contacts(wait_s=60) as (book, events):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        node.guests[0].abort()
        await until(lambda: events.lost == [(N1, node.address)])
        assert book.connection_count == 0
        assert node.server.connection_count == 0
        assert book.send(node.address, gossip(2), None)
        await until(lambda: numbers(node) == [1, 2])
        assert not events.unreachable


async def test_a_member_that_stops_as_planned_is_lost_then_gone() -> None:
    async with listening() as node, contacts() as (book, events):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        events.on_lost = lambda: book.send(node.address, gossip(2), N1)
        await within(node.server.close())
        await until(lambda: len(events.unreachable) >= 1)
        assert events.lost == [(N1, node.address)]
        assert isinstance(events.unreachable[0][2], NobodyListens)


async def test_a_listener_that_dies_a_moment_after_its_connections() -> None:
    """The first attempt is still accepted, then reset; only the next one is refused."""
    async with listening() as node, contacts(wait_s=60) as (book, events):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        server, attempts = node.server, []

        def die(connection: FrameConnection, hello: Hello) -> Welcome:
            attempts.append(hello.lane)
            assert server._server is not None
            server._server.close()
            connection.abort()
            raise errors.Unavailable("dying")

        server._on_hello = die
        node.guests[0].abort()
        await until(lambda: len(events.lost) == 1)
        assert book.send(node.address, gossip(2), N1)
        await until(lambda: len(events.unreachable) == 1)
        assert len(attempts) == 1
        assert isinstance(events.unreachable[0][2], NobodyListens)


async def test_a_connection_that_breaks_as_soon_as_it_stands_is_not_dialled_at_once() -> None:
    async with (
        listening() as node,
        contacts(replace(QUICK, settled_s=30), wait_s=60) as (book, events),
    ):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        node.guests[0].abort()
        await until(lambda: len(events.lost) == 1)
        assert not book.send(node.address, gossip(2), None)


async def test_a_member_that_sends_requests_down_our_own_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as node, contacts(wait_s=60) as (book, events):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        node.guests[0].send(gossip(2))
        await until(lambda: len(events.lost) == 1)
        assert isinstance(node.closed[0].reason, errors.ProtocolError)
        assert not book.send(node.address, gossip(3), None)
        assert warnings(caplog) == [
            f"cannot talk to n1 at {node.address}: "
            f"kind {Kind.RAFT.value} does not belong on a peer's incoming side"
        ]


async def test_a_standing_peer_keeps_its_lanes_when_its_address_is_a_contact() -> None:
    dropped: list[Lane] = []
    events = Events()
    pool_callbacks = PeerCallbacks(
        make_hello=events.make_hello,
        check_welcome=events.check_welcome,
        on_connected=lambda node: None,
        on_gone=lambda node: None,
        on_dropped=lambda node, lane: dropped.append(lane),
        on_refused=lambda node, error: None,
    )
    async with listening() as node, contacts() as (book, _):
        pool = PeerPool({N1: node.address}, pool_callbacks, limits=LIMITS, rng=random.Random(1))
        pool.start()
        await until(lambda: pool.is_connected(N1))
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        assert pool.send(N1, Lane.CONTROL, gossip(2))
        await until(lambda: numbers(node) == [1, 2])
        assert node.server.connection_count == 4
        await within(pool.close())
        assert dropped == []


# -- from within callbacks ------------------------------------------------------------------------


async def test_sending_to_another_when_one_is_unreachable() -> None:
    async with listening() as node, contacts(wait_s=60) as (book, events):
        address = nobody()
        sent: list[bool] = []

        def send() -> None:
            sent.append(book.send(address, gossip(2), None))
            sent.append(book.send(node.address, gossip(3), None))

        events.on_unreachable = send
        assert book.send(address, gossip(1), None)
        await until(lambda: numbers(node) == [3])
        assert sent == [False, True]
        assert len(events.unreachable) == 1


async def test_sending_when_a_connection_is_lost() -> None:
    async with listening() as node, contacts() as (book, events):
        assert book.send(node.address, gossip(1), None)
        await until(lambda: len(node.received) == 1)
        events.on_lost = lambda: book.send(node.address, gossip(2), N1)
        node.guests[0].abort()
        await until(lambda: 2 in numbers(node))
        assert len(events.lost) == 1


async def test_sending_while_a_welcome_is_looked_at() -> None:
    async with listening() as node, contacts() as (book, events):
        numbers_to_send = iter((1, 2, 3))

        def send() -> None:
            number = next(numbers_to_send, None)
            if number is not None:
                assert book.send(node.address, gossip(number), N7 if number == 2 else N1)

        events.on_welcome = send
        assert book.send(node.address, gossip(0), N1)
        await until(lambda: len(node.received) == 3)
        assert sorted(numbers(node)) == [0, 1, 3]
        await until(lambda: len(events.unreachable) == 1)
        assert events.unreachable[0][1] == N7
