"""The pool of peers: what a loss means, and that nothing of it depends on luck."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from net_harness import LIMITS, PEER, Node, error_of, listening, raw, until, within
from peer_harness import N1, QUICK, Events, by_lane, pool_to, raft

from kvstore import errors
from kvstore.ids import NodeId
from kvstore.net.server import CONTACTS_PER_PEER
from kvstore.net.transport import STANDING_LANES, Lane
from kvstore.wire.hello import Begun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.net.connection import FrameConnection
    from kvstore.net.transport import PeerTransport
    from kvstore.wire.hello import Hello, Welcome


@contextmanager
def process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node's listening side in a process of its own, and its port."""
    script = Path(__file__).with_name("net_peer_process.py")
    command = [sys.executable, str(script), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child, int(child.stdout.readline())
        finally:
            child.kill()


async def test_three_lanes_that_say_who_they_are() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        assert events.told == ["n1 connected"]
        assert {guest.hello for guest in node.guests} == {
            replace(PEER, lane=lane) for lane in (0, 1, 2)
        }
        assert node.guests[0].hello is not None
        assert node.guests[0].hello.lane == Lane.CONTROL


async def test_frames_of_a_lane_arrive_in_order() -> None:
    async with listening() as node, pool_to(node.address) as (pool, _):
        transport: PeerTransport = pool
        await until(lambda: pool.is_connected(N1))
        for number in range(100):
            assert transport.send(N1, Lane.DATA, raft(number))
        await until(lambda: len(node.received) == 100)
        assert [frame.request for frame in node.received] == list(range(100))
        assert node.arrivals == [100]


async def test_what_cannot_be_sent_is_refused_at_once() -> None:
    async with listening() as node, pool_to(node.address) as (pool, _):
        assert not pool.send(N1, Lane.DATA, raft(1))  # not yet connected
        assert not pool.send(NodeId("n9"), Lane.DATA, raft(1))
        assert not pool.is_connected(NodeId("n9"))
        assert pool.has(N1)
        assert not pool.has(NodeId("n9"))
        await until(lambda: pool.is_connected(N1))
        assert not pool.send(N1, Lane.DATA, raft(1, LIMITS.frame_bytes_max + 1))
        assert pool.send(N1, Lane.DATA, raft(2))
        await until(lambda: len(node.received) == 1)
        assert node.received[0].request == 2


async def test_a_full_lane_drops_and_delays_no_other() -> None:
    limits = replace(LIMITS, lane_bytes_max=2 * LIMITS.outbound_bytes_max)
    async with listening() as node, pool_to(node.address, limits) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        transport = by_lane(node)[Lane.BULK]._transport
        assert transport is not None
        transport.pause_reading()
        sent = 0
        while pool.send(N1, Lane.BULK, raft(sent, 100_000)):
            sent += 1
            assert sent < 1000
            await asyncio.sleep(0)
        assert pool.send(N1, Lane.CONTROL, raft(5000))
        assert pool.send(N1, Lane.DATA, raft(5001))
        await until(lambda: {5000, 5001} <= {frame.request for frame in node.received})
        transport.resume_reading()
        await until(lambda: pool.send(N1, Lane.BULK, raft(6000)))
        await until(lambda: node.received[-1].request == 6000)
        bulk = [f.request for f in node.received if f.request not in (5000, 5001, 6000)]
        assert bulk == list(range(sent))
        assert events.told == ["n1 connected"]


async def test_a_killed_process_is_gone_and_comes_back() -> None:
    with process() as (child, port):
        async with pool_to(f"127.0.0.1:{port}") as (pool, events):
            await until(lambda: pool.is_connected(N1))
            child.send_signal(signal.SIGKILL)
            await until(lambda: events.count("n1 gone") == 1)
            await until(lambda: events.count("n1 dropped BULK") == 1)
            assert not pool.is_connected(N1)
            with process(port) as (second, _):
                await until(lambda: events.count("n1 connected") == 2)
                second.send_signal(signal.SIGKILL)
                await until(lambda: events.count("n1 gone") == 2)
                await until(lambda: events.count("n1 dropped BULK") == 2)
        assert Counter(events.told) == {
            "n1 connected": 2, "n1 gone": 2,
            "n1 dropped CONTROL": 2, "n1 dropped DATA": 2, "n1 dropped BULK": 2,
        }  # fmt: skip


async def test_a_frozen_process_is_not_gone() -> None:
    timing = replace(QUICK, dial_timeout_s=0.1, ping_interval_s=0.1, silent_pings_max=5)
    with process() as (child, port):
        async with pool_to(f"127.0.0.1:{port}", timing=timing) as (pool, events):
            await until(lambda: pool.is_connected(N1))
            dropped, connected = events.count("n1 dropped BULK"), events.count("n1 connected")
            child.send_signal(signal.SIGSTOP)
            await until(lambda: events.count("n1 dropped BULK") > dropped)
            assert not pool.is_connected(N1)
            # It is dialled in vain: its kernel accepts, and nobody answers.
            lane = pool._peers[N1].lanes[Lane.CONTROL]
            await until(lambda: lane._backoff._bound_s > timing.backoff_base_s)
            assert events.count("n1 gone") == 0
            assert events.refusals == []
            child.send_signal(signal.SIGCONT)
            await until(lambda: events.count("n1 connected") > connected)
            assert events.count("n1 gone") == 0


async def test_a_process_killed_while_frozen_is_gone() -> None:
    timing = replace(QUICK, dial_timeout_s=0.05, ping_interval_s=0.1, silent_pings_max=5)
    with process() as (child, port):
        async with pool_to(f"127.0.0.1:{port}", timing=timing) as (pool, events):
            await until(lambda: pool.is_connected(N1))
            child.send_signal(signal.SIGSTOP)
            await until(lambda: not pool.is_connected(N1))
            child.send_signal(signal.SIGKILL)
            await until(lambda: events.count("n1 gone") == 1)


@pytest.mark.parametrize("lane", STANDING_LANES)
async def test_a_loss_on_one_side_only_is_mended(lane: Lane) -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        by_lane(node)[lane].abort()
        await until(lambda: events.count("n1 connected") == 2)
        assert events.told == ["n1 connected", f"n1 dropped {lane.name}", "n1 connected"]
        assert pool.send(N1, lane, raft(1))
        await until(lambda: len(node.received) == 1)


async def test_a_node_that_stops_as_planned_is_gone_too() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        await within(node.server.close())
        await until(lambda: events.count("n1 gone") == 1)


async def test_a_listener_that_dies_a_moment_after_its_connections() -> None:
    """The first attempt is still accepted, then reset; only the next one is refused."""
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        server, attempts = node.server, []

        def die(connection: FrameConnection, hello: Hello) -> Welcome:
            attempts.append(hello.lane)
            assert server._server is not None
            server._server.close()
            connection.abort()
            raise errors.Unavailable("dying")

        server._on_hello = die
        for guest in list(node.guests):
            guest.abort()
        await until(lambda: events.count("n1 gone") == 1)
        assert attempts
        assert events.refusals == []


async def test_a_peer_that_was_never_there_is_not_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with pool_to(f"127.0.0.1:{port}") as (pool, events):
        lane = pool._peers[N1].lanes[Lane.CONTROL]
        await until(lambda: lane._backoff._bound_s > 0.02)  # several attempts later
        assert events.told == []
        async with listening(port=port):
            await until(lambda: events.told == ["n1 connected"])


async def test_who_is_turned_away_is_told_once_per_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    events.cluster_id = "away"
    async with listening() as node, pool_to(node.address, events=events):
        seen = 0
        original = node.on_hello

        def count(connection: FrameConnection, hello: Hello) -> Welcome:
            nonlocal seen
            seen += 1
            return original(connection, hello)

        node.server._on_hello = count
        await until(lambda: seen >= 5)
        (refusal,) = events.refusals
        assert isinstance(refusal, errors.Refused)
        assert refusal.message == "this is cluster home, not away"
        lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(lines) == 2, lines  # one on each side
        events.cluster_id = "home"
        await until(lambda: events.told == ["n1 connected"])
        events.cluster_id = "away"
        for guest in node.guests:
            guest.abort()
        await until(lambda: len(events.refusals) == 2)


async def test_one_that_has_removed_us_is_left_alone_and_its_word_is_the_owners(
    caplog: pytest.LogCaptureFixture,
) -> None:
    n2, hellos = NodeId("n2"), Counter[str]()

    def refuse(node: Node, error: errors.KVError) -> None:
        def on_hello(connection: FrameConnection, hello: Hello) -> Welcome:
            hellos[node.node_id] += 1
            raise error

        node.server._on_hello = on_hello

    async with listening() as node, listening(node_id="n2") as other:
        refuse(node, errors.Removed("n2 was removed"))
        refuse(other, errors.ClockAhead("too fast"))
        async with pool_to({N1: node.address, n2: other.address}) as (_, events):
            await until(lambda: hellos["n2"] >= 10)
            assert hellos["n1"] == 1
            assert {type(error) for error in events.refusals} == {errors.Removed, errors.ClockAhead}
            assert len(events.refusals) == 2
    said = [r.getMessage() for r in caplog.records if r.name == "kvstore.net.peers"]
    assert said == ["n2 and this node cannot work together: too fast"]


async def test_one_that_has_removed_us_by_mistake_is_reached_in_the_end() -> None:
    timing = replace(QUICK, removed_wait_s=0.001)
    async with listening() as node:
        hello, asked = node.on_hello, 0

        def refuse(connection: FrameConnection, said: Hello) -> Welcome:
            nonlocal asked
            asked += 1
            if asked < 8:
                raise errors.Removed("n2 was removed")
            return hello(connection, said)

        node.server._on_hello = refuse
        async with pool_to(node.address, timing=timing) as (pool, events):
            await until(lambda: pool.is_connected(N1))
            assert len(events.refusals) == 1


async def test_a_node_that_is_not_the_expected_one() -> None:
    events = Events()
    events.turn_down = errors.Refused("the node at its address is n7")
    async with (
        listening() as node,
        pool_to(node.address, events=events) as (pool, _),
    ):
        await until(lambda: len(node.closed) >= 3)
        assert [error.message for error in events.refusals] == ["the node at its address is n7"]
        assert not pool.is_connected(N1)
        reasons = {str(connection.reason) for connection in node.closed}
        assert reasons == {"the node at its address is n7"}
        events.turn_down = None
        await until(lambda: events.told == ["n1 connected"])


async def test_a_peer_that_sends_requests_down_our_own_lane_is_dropped() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        victim = by_lane(node)[Lane.DATA]
        victim.send(raft(1))
        await until(lambda: events.count("n1 dropped DATA") == 1)
        await until(lambda: victim in node.closed)
        assert isinstance(victim.reason, errors.ProtocolError)
        await until(lambda: events.count("n1 connected") == 2)


async def test_pings_keep_an_idle_connection() -> None:
    timing = replace(QUICK, ping_interval_s=0.005, silent_pings_max=3)
    async with listening() as node, pool_to(node.address, timing=timing) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        control = by_lane(node)[Lane.CONTROL]
        before = control._frames_received
        await until(lambda: control._frames_received >= before + 20)
        assert events.told == ["n1 connected"]


async def test_closing_says_goodbye_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    async with listening() as node:
        async with pool_to(node.address) as (pool, events):
            await until(lambda: pool.is_connected(N1))
        await until(lambda: len(node.closed) == 3)
        assert [connection.reason for connection in node.closed] == [None] * 3
        assert events.told == ["n1 connected"]
    assert asyncio.all_tasks() <= before


async def test_closing_while_dialling_in_vain_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with pool_to(f"127.0.0.1:{silent.getsockname()[1]}") as (pool, events):
            accepted, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
            accepted.close()
            assert asyncio.all_tasks() > before
            assert not pool.is_connected(N1)
        assert events.told == []
        assert asyncio.all_tasks() <= before


async def test_a_peer_is_heard_through_a_crowd_of_strangers() -> None:
    limits = replace(LIMITS, handshakes_max=2, connections_max=1)
    async with listening(limits) as node, raw(node), raw(node), raw(node) as client:
        await client.shake_hands()
        async with pool_to(node.address, limits) as (pool, _):
            await until(lambda: pool.is_connected(N1))


async def test_a_lane_has_one_connection_and_the_newest_is_it() -> None:
    async with listening() as node, raw(node) as earlier, raw(node) as other_lane:
        await earlier.shake_hands(PEER)
        await other_lane.shake_hands(replace(PEER, lane=1))
        for _ in range(3):
            async with raw(node) as later:
                await later.shake_hands(PEER)
                await until(lambda: node.server.connection_count == 2)
                later.send(raft(1))
                await until(lambda: len(node.received) == 1)
                node.received.clear()
        assert not node.guests[0].is_open
        assert node.guests[1].is_open


async def test_a_peer_that_knows_us_by_several_addresses_has_a_few_contacts() -> None:
    contact = replace(PEER, lane=Lane.CONTACT.value)
    async with listening() as node, AsyncExitStack() as dialled:
        for number in range(CONTACTS_PER_PEER + 2):
            peer = await dialled.enter_async_context(raw(node))
            await peer.shake_hands(contact)
            await until(lambda: node.server.connection_count <= CONTACTS_PER_PEER)
            assert node.guests[number].is_open
        open_ = [guest.is_open for guest in node.guests]
        assert open_ == [False, False, *[True] * CONTACTS_PER_PEER], "the oldest made way"
        node.guests[3].abort()
        await until(lambda: node.server.connection_count == CONTACTS_PER_PEER - 1)
        peer = await dialled.enter_async_context(raw(node))
        await peer.shake_hands(contact)
        assert node.guests[2].is_open, "a place was free"


async def test_a_peers_new_process_takes_the_place_of_the_last_on_all_lanes() -> None:
    async with listening() as node, AsyncExitStack() as dialled:
        for begun in (Begun(1, 5), Begun(2, 6)):
            for lane in (Lane.DATA, Lane.CONTACT):
                peer = await dialled.enter_async_context(raw(node))
                await peer.shake_hands(replace(PEER, lane=lane.value, begun=begun))
        await until(lambda: node.server.connection_count == 2)
        silent = await dialled.enter_async_context(raw(node))
        await silent.shake_hands(replace(PEER, lane=Lane.BULK.value))
        is_open = [guest.is_open for guest in node.guests]
        assert is_open == [False, False, True, True, True], "who does not say moves nobody"


async def test_when_another_directory_comes_by_its_name_the_last_one_is_cut() -> None:
    """How often each was started does not matter, nor on which lanes they come."""
    first = replace(PEER, data_id=2, begun=Begun(9, 9))
    async with listening() as node, AsyncExitStack() as dialled:
        for hello in (first, replace(first, lane=1), replace(first, node_id="n3")):
            peer = await dialled.enter_async_context(raw(node))
            await peer.shake_hands(hello)
        for number, other in enumerate(
            (
                replace(first, data_id=3, begun=Begun(1, 1), lane=Lane.CONTACT.value),
                replace(first, data_id=3, begun=Begun(1, 1), life=4),
            )
        ):
            peer = await dialled.enter_async_context(raw(node))
            await peer.shake_hands(other)
            await until(lambda: node.server.connection_count == 2)
            is_open = [guest.is_open for guest in node.guests]
            assert is_open == [False, False, True, *[False] * number, True]


async def test_a_lane_that_is_not_known_yet() -> None:
    async with listening() as node, raw(node) as peer:
        assert error_of(await peer.shake_hands(replace(PEER, lane=4))).message == "unknown lane 4"
