"""Peers that come, go and move while all runs: one set of lanes a name, and no word of the gone."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from contact_harness import silence
from net_harness import LIMITS, listening, until, within
from peer_harness import N1, QUICK, Events, by_lane, pool_to, raft

from kvstore import errors
from kvstore.ids import NodeId
from kvstore.net.peers import PeerCallbacks, PeerPool
from kvstore.net.transport import Lane

if TYPE_CHECKING:
    from kvstore.wire.hello import Welcome

N2, N3 = NodeId("n2"), NodeId("n3")


def lane_tasks() -> int:
    """How many tasks of any pool there are, those of lanes that close included."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return sum(name.startswith(("lane ", "pings to ", "goodbye to ")) for name in names)


async def test_a_new_peer_gets_lanes_and_the_others_keep_theirs() -> None:
    async with (
        listening() as node,
        listening(node_id="n2") as other,
        pool_to(node.address) as (pool, events),
    ):
        await until(lambda: pool.is_connected(N1))
        assert pool.peers == {N1: node.address}
        pool.set_peers({N1: node.address, N2: other.address})
        assert pool.peers == {N1: node.address, N2: other.address}
        assert pool.has(N2)
        await until(lambda: pool.is_connected(N2))
        assert pool.send(N2, Lane.DATA, raft(1))
        await until(lambda: len(other.received) == 1)
        assert events.told == ["n1 connected", "n2 connected"]
        assert len(node.guests) == 3


async def test_one_that_is_no_peer_any_more_hears_the_last_and_a_goodbye() -> None:
    async with (
        listening() as node,
        listening(node_id="n2") as other,
        pool_to({N1: node.address, N2: other.address}) as (pool, events),
    ):
        await until(lambda: pool.is_connected(N1) and pool.is_connected(N2))
        said = list(events.told)
        assert pool.send(N1, Lane.DATA, raft(1))
        pool.set_peers({N2: other.address})
        assert not pool.send(N1, Lane.DATA, raft(2))
        assert not pool.has(N1)
        assert not pool.is_connected(N1)
        await until(lambda: len(node.closed) == 3)
        assert [connection.reason for connection in node.closed] == [None] * 3
        assert [frame.request for frame in node.received] == [1]
        await until(lambda: lane_tasks() == 4)
        assert pool.send(N2, Lane.DATA, raft(3))
        await until(lambda: len(other.received) == 1)
        assert events.told == said
        assert other.closed == []


async def test_the_same_peers_once_more_change_nothing() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        pool.set_peers({N1: node.address})
        assert pool.send(N1, Lane.DATA, raft(1))
        await until(lambda: len(node.received) == 1)
        assert node.closed == []
        assert events.told == ["n1 connected"]


async def test_a_peer_that_moves_is_dialled_where_it_is_and_its_lanes_are_told_lost() -> None:
    async with (
        listening() as node,
        listening() as moved,
        pool_to(node.address) as (pool, events),
    ):
        await until(lambda: pool.is_connected(N1))
        closed_first = []
        original = moved.on_hello

        def note_closed(*said: object) -> Welcome:
            closed_first.append(len(node.closed))
            return original(*said)  # type: ignore[arg-type]

        moved.server._on_hello = note_closed
        pool.set_peers({N1: moved.address})
        assert not pool.is_connected(N1)
        assert sorted(events.told[1:]) == [
            "n1 dropped BULK", "n1 dropped CONTROL", "n1 dropped DATA",
        ]  # fmt: skip
        await until(lambda: pool.is_connected(N1))
        assert closed_first == [3, 3, 3]
        assert len(node.guests) == len(moved.guests) == 3
        assert events.count("n1 connected") == 2
        assert events.count("n1 gone") == 0
        assert len(events.told) == 5


async def test_a_peer_that_moves_before_it_was_reached_has_lost_nothing() -> None:
    with silence() as nowhere:
        async with listening() as node, pool_to(nowhere) as (pool, events):
            pool.set_peers({N1: node.address})
            await until(lambda: pool.is_connected(N1))
            assert events.told == ["n1 connected"]


async def test_one_that_flaps_a_thousand_times_at_once_has_one_set_of_lanes() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        for _ in range(1000):
            pool.set_peers({})
            pool.set_peers({N1: node.address})
            assert lane_tasks() <= 5
        await until(lambda: pool.is_connected(N1))
        assert lane_tasks() == 4
        assert len(node.guests) == 6
        assert events.told == ["n1 connected"] * 2
        assert pool.send(N1, Lane.DATA, raft(1))
        await until(lambda: len(node.received) == 1)


async def test_one_that_flaps_a_thousand_times_while_the_loop_runs() -> None:
    """Whatever step of dialling, standing or closing it is at when it is dropped again."""
    rng = random.Random(7)
    async with listening() as node, listening() as moved, pool_to({}) as (pool, events):
        for _ in range(1000):
            pool.set_peers(
                {N1: rng.choice((node.address, moved.address))} if rng.random() < 0.7 else {}
            )
            assert lane_tasks() <= 5
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
        pool.set_peers({})
        told = list(events.told)
        await until(lambda: lane_tasks() == 0)
        await until(lambda: node.server.connection_count == moved.server.connection_count == 0)
        assert events.told == told
        assert events.refusals == []
        pool.set_peers({N1: moved.address})
        await until(lambda: pool.is_connected(N1))


async def test_what_is_wanted_when_the_old_lanes_have_closed_counts() -> None:
    async with listening() as node, listening() as moved, pool_to(node.address) as (pool, _):
        await until(lambda: pool.is_connected(N1))
        pool.set_peers({})
        pool.set_peers({N1: node.address})
        pool.set_peers({N1: moved.address})
        await until(lambda: pool.is_connected(N1))
        assert (len(node.guests), len(moved.guests)) == (3, 3)
        pool.set_peers({N1: node.address})
        pool.set_peers({})
        await until(lambda: lane_tasks() == 0)
        assert len(node.guests) == 3


async def test_a_peer_that_died_and_is_dropped_is_not_told_gone() -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        await until(lambda: pool.is_connected(N1))
        events.on_told = lambda what: pool.set_peers({})
        await within(node.server.close())
        await until(lambda: lane_tasks() == 0)
        assert len(events.told) == 2
        assert events.told[1].startswith("n1 dropped")


@pytest.mark.parametrize("lane", [Lane.CONTROL, Lane.DATA])
async def test_a_peer_may_be_dropped_from_within_what_is_told_of_it(lane: Lane) -> None:
    async with listening() as node, pool_to(node.address) as (pool, events):
        events.on_told = lambda what: pool.set_peers({})
        await until(lambda: events.told == ["n1 connected"])
        await until(lambda: len(node.closed) == 3)
        events.on_told = lambda what: None
        pool.set_peers({N1: node.address})
        await until(lambda: pool.is_connected(N1))
        events.on_told = lambda what: pool.set_peers({})
        by_lane(node)[lane].abort()
        await until(lambda: lane_tasks() == 0)
        assert events.told == ["n1 connected", "n1 connected", f"n1 dropped {lane.name}"]


@pytest.mark.parametrize("turn_down", [None, errors.Refused("not any more")])
async def test_a_peer_may_be_dropped_while_its_welcome_is_looked_at(
    turn_down: errors.KVError | None,
) -> None:
    events = Events()
    events.turn_down = turn_down
    async with listening() as node, pool_to(node.address, events=events) as (pool, _):
        events.on_welcome = lambda: pool.set_peers({})
        await until(lambda: len(node.closed) == 1)
        await until(lambda: lane_tasks() == 0)
        assert events.refusals == []
        assert events.told == []


async def test_before_the_start_the_peers_are_only_noted() -> None:
    async with listening() as node, pool_to({N2: "n2:1"}, starts=False) as (pool, events):
        pool.set_peers({N1: node.address})
        assert lane_tasks() == 0
        assert pool.peers == {N1: node.address}
        assert not pool.has(N2)
        assert not pool.send(N1, Lane.CONTROL, raft(1))
        pool.start()
        await until(lambda: events.told == ["n1 connected"])


async def test_after_the_end_nothing_changes_any_more() -> None:
    async with listening() as node:
        async with pool_to(node.address) as (pool, _):
            await until(lambda: pool.is_connected(N1))
            pool.set_peers({})
        assert lane_tasks() == 0
        assert len(node.closed) == 3
        pool.set_peers({N1: node.address})
        pool.start()
        assert lane_tasks() == 0
        assert pool.peers == {}
        assert not pool.has(N1)


async def test_the_end_awaits_lanes_that_close_and_those_that_would_follow() -> None:
    async with listening() as node, listening() as moved:
        async with pool_to(node.address) as (pool, _):
            await until(lambda: pool.is_connected(N1))
            pool.set_peers({N1: moved.address})
            assert lane_tasks() == 5
        assert lane_tasks() == 0
        assert moved.guests == []


async def test_a_frozen_peer_is_dropped_all_the_same() -> None:
    """It never answers the goodbye: its connections are cut when they have lingered."""
    async with listening() as node, pool_to(node.address) as (pool, _):
        await until(lambda: pool.is_connected(N1))
        for guest in node.guests:
            assert guest._transport is not None
            guest._transport.pause_reading()
        pool.set_peers({})
        await until(lambda: lane_tasks() == 0)


async def test_a_lane_that_breaks_is_told_of_and_its_name_can_be_dialled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as node, pool_to(node.address) as (pool, _):
        await until(lambda: pool.is_connected(N1))

        async def fail() -> None:
            raise RuntimeError("a bug")

        pool._peers[N1].wait_stopped = fail  # type: ignore[method-assign]
        pool.set_peers({})
        await until(lambda: "goodbye to n1 has stopped" in caplog.text)
        pool.set_peers({N1: node.address})
        await until(lambda: pool.is_connected(N1))


async def test_a_pool_that_was_never_started_can_be_closed() -> None:
    events = Events()
    callbacks = PeerCallbacks(
        events.make_hello, events.check_welcome, lambda peer: None, lambda peer: None,
        lambda peer, lane: None, events.refused,
    )  # fmt: skip
    pool = PeerPool({N3: "n3:1"}, callbacks, limits=LIMITS, rng=random.Random(1), timing=QUICK)
    await within(pool.close())
    assert pool.peers == {N3: "n3:1"}
