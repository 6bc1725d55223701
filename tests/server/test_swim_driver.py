"""The driver of the membership: what is sent, what is logged, and when it wakes up."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from membership_support import (
    N1,
    N2,
    N3,
    N4,
    QUIET,
    SILENT,
    STREAM,
    WALL_MS,
    Asker,
    DriverRig,
    claim,
    gossip,
    lines,
    ping,
)
from server_support import settle, until

from kvstore.ids import NodeId
from kvstore.net import repeats
from kvstore.server import swim_driver
from kvstore.server.swim_driver import TICK_S_MAX
from kvstore.swim.broadcasts import retransmits
from kvstore.swim.claims import INCARNATION_JUMP_MAX, Claim, State
from kvstore.swim.members import MEMBERS_MAX
from kvstore.swim.messages import Ack, Gossip, Ping, PingRequest, PushPull
from kvstore.swim.ready import EventKind
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kvstore.swim.messages import Message

ABSURD = 2 + INCARNATION_JUMP_MAX
FAR = 1e6
"""Longer than any test."""
DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield


# -- sending --------------------------------------------------------------------------------


def test_what_the_core_says_goes_to_a_member_by_courier() -> None:
    rig = DriverRig(N2)
    rig.receive(ping(N2))
    (sent,) = rig.couriers.take(Kind.SWIM)
    assert (sent.node, sent.address) == (N2, "n2:1")
    assert isinstance(sent.message, Ack)
    assert (sent.message.sender.node, sent.message.sequence) == (N1, 7)


def test_a_seed_is_sent_to_by_its_address_alone() -> None:
    rig = DriverRig(seeds=("seed:1",))
    rig.driver.tick()
    (sent,) = rig.couriers.take(Kind.SWIM)
    assert (sent.node, sent.address) == (None, "seed:1")
    assert isinstance(sent.message, PushPull)


def test_a_hint_probes_at_once_and_a_refused_connection_asks_others() -> None:
    rig = DriverRig(N2, N3, config=SILENT)
    rig.driver.hint(N2)
    rig.driver.tick()
    assert [type(message) for message in rig.couriers.messages()] == [Ping]
    rig.driver.hint(N2, is_gone=True)
    rig.driver.tick()
    (sent,) = rig.couriers.take(Kind.SWIM)
    assert sent.node == N3
    assert isinstance(sent.message, PingRequest)


def test_whoever_is_connected_and_not_known_to_take_part_is_greeted() -> None:
    rig = DriverRig(N2)
    rig.driver.greet(N2, "n2:1")
    assert rig.couriers.sent == []
    rig.driver.greet(N3, "n3:9")
    (sent,) = rig.couriers.take(Kind.SWIM)
    assert (sent.node, sent.address) == (N3, "n3:9")
    assert isinstance(sent.message, PushPull)


# -- events, and what is logged of them -----------------------------------------------------

SUSPECTED = gossip(N2, claim(N3, State.SUSPECT, accuser=N2))
SAID: list[tuple[EventKind, list[Gossip], str, str]] = [
    (EventKind.JOINED, [gossip(N2, claim(N4))], "INFO", "n4 has joined (incarnation 1)"),
    (EventKind.SUSPECTED, [SUSPECTED], "INFO", "n3 is suspected by n2 (incarnation 1)"),
    (
        EventKind.REFUTED, [SUSPECTED, gossip(N3, claim(N3, incarnation=2))],
        "INFO", "n3 was suspected, and lives (incarnation 2)",
    ),
    (
        EventKind.DIED, [gossip(N2, claim(N3, State.DEAD, accuser=N2))],
        "WARNING", "n3 is found dead by n2 (incarnation 1)",
    ),
    (EventKind.LEFT, [gossip(N3, claim(N3, State.LEFT))], "INFO", "n3 has left (incarnation 1)"),
    (
        EventKind.UPDATED, [gossip(N3, claim(N3, incarnation=2, life=2))],
        "INFO", "n3 says something else of itself (incarnation 2): n3:2, weight 1",
    ),
    (
        EventKind.CONFLICT, [gossip(N2, claim(N3, life=2))],
        "WARNING", "two nodes are called n3 (incarnation 1): at n3:1 and at n3:2",
    ),
    (
        EventKind.ABSURD, [gossip(N2, claim(N3, incarnation=ABSURD))],
        "WARNING",
        f"n3 cannot have come as far as is claimed (incarnation {ABSURD}): incarnation {ABSURD}",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "messages", "level", "words"), SAID, ids=[kind.value for kind, *_ in SAID]
)
def test_an_event_is_one_line_and_one_row(
    kind: EventKind,
    messages: list[Gossip],
    level: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = DriverRig(N2, N3)
    rig.receive(*messages)
    assert lines(caplog)[-1:] == [(level, words)]
    rows = rig.events.after(0)
    assert [row.number for row in rows] == list(range(1, len(messages) + 1))
    assert (rows[-1].kind, rows[-1].wall_ms) == (kind.value, WALL_MS)
    rig.receive(*messages)
    assert lines(caplog) == [], "it is known now"


def test_whom_the_shard_map_removes_is_one_line_and_one_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = DriverRig(N2, N3)
    for _ in range(2):
        rig.driver.remove(N3)
    assert lines(caplog) == [("INFO", "n3 was removed by n1 (incarnation 1)")]
    assert rig.kinds() == ["removed"]


def crowd() -> list[tuple[Claim, float]]:
    """As many as a view holds beside ourselves."""
    return [(claim(NodeId(f"m{number}")), 0.0) for number in range(MEMBERS_MAX - 1)]


def test_who_finds_no_room_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    rig = DriverRig(known=crowd())
    rig.receive(gossip(NodeId("m0"), claim(N2)))
    assert lines(caplog) == [
        ("WARNING", "no room for n2 (incarnation 1): the view has 4096 members")
    ]
    assert rig.kinds() == ["crowded"]


def test_there_are_words_for_every_kind() -> None:
    assert {kind for kind, *_ in SAID} | {EventKind.CROWDED, EventKind.REMOVED} == set(EventKind)


def test_the_wall_clock_may_jump_and_the_numbers_rise() -> None:
    rig = DriverRig(N2)
    for wall_ms, node in ((WALL_MS, N3), (WALL_MS - 3_600_000, N4)):
        rig.wall.now = wall_ms
        rig.receive(gossip(N2, claim(node)))
    rows = rig.events.after(0)
    assert [(row.number, row.wall_ms) for row in rows] == [(1, WALL_MS), (2, WALL_MS - 3_600_000)]


# -- what may come with every message is told once in a while --------------------------------


def conflicts(_: int) -> Iterator[Gossip]:
    for _ in range(5):
        yield gossip(N2, claim(N3, life=2))


def absurdities(_: int) -> Iterator[Gossip]:
    for further in range(5):
        yield gossip(N2, claim(N3, incarnation=ABSURD + further))


def strangers(_: int) -> Iterator[Gossip]:
    for number in range(5):
        yield gossip(NodeId("m0"), claim(NodeId(f"x{number}")))


def outdoing_each_other(first: int) -> Iterator[Gossip]:
    """Two nodes of one name, as everybody else hears of them."""
    for incarnation in range(first, first + 10):
        yield gossip(N2, claim(N3, incarnation=incarnation, life=1 + incarnation % 2))


@pytest.mark.parametrize(
    ("trouble", "kind", "times"),
    [
        (conflicts, "conflict", 1),
        (absurdities, "absurd", 1),
        (strangers, "crowded", 1),
        (outdoing_each_other, "updated", 2),
    ],
)
def test_trouble_is_told_once_in_a_while(
    trouble: Callable[[int], Iterator[Gossip]],
    kind: str,
    times: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = DriverRig(known=crowd()) if trouble is strangers else DriverRig(N2, N3)
    rig.receive(*trouble(3))
    assert rig.kinds() == [kind] * times
    assert len(lines(caplog)) == times
    rig.clock.now += repeats.QUIET_S + 1.0
    rig.receive(*trouble(13))
    assert len(lines(caplog)) == times, "it has not been heard of for long"


def test_invented_members_fill_no_log_and_hide_no_other_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = DriverRig(N2, N3)
    count = 3 * repeats.LINES_AT_ONCE
    rig.receive(*(gossip(N2, claim(NodeId(f"x{number}"))) for number in range(count)))
    assert len(lines(caplog)) == repeats.LINES_AT_ONCE
    rig.receive(gossip(N2, claim(N3, State.LEFT)))
    assert lines(caplog) == [("INFO", "n3 has left (incarnation 1)")]
    assert rig.kinds() == ["joined"] * count + ["left"], "whoever asks is told of all"
    rig.clock.now += 60.0
    rig.driver.tick()
    left_out = f"{count - repeats.LINES_AT_ONCE} more lines of the kind 'a node has joined'"
    assert ("WARNING", f"{left_out} were left out") in lines(caplog)


def test_trouble_with_another_is_another_trouble() -> None:
    rig = DriverRig(N2, N3, N4)
    rig.receive(gossip(N2, claim(N3, life=2), claim(N4, life=2), claim(N3, life=3)))
    assert [row.node for row in rig.events.after(0)] == [N3, N4, N3]


def test_what_the_disk_should_know_is_told_each_time_and_complaints_are_not() -> None:
    rig = DriverRig(N2, N3)
    rig.receive(*conflicts(0), *absurdities(0))
    assert (len(rig.kinds()), rig.changes) == (2, 0)
    rig.receive(*outdoing_each_other(3))
    assert rig.changes == 10


# -- when to tick ---------------------------------------------------------------------------


def test_it_sleeps_until_something_is_due_and_not_for_ever() -> None:
    rig = DriverRig(N2)
    assert 0.0 < rig.driver.until_tick_s() <= QUIET.probe_interval_s
    rig.pass_time(QUIET.probe_interval_s)
    assert len(rig.couriers.messages()) == 1
    assert DriverRig(N2, config=SILENT).driver.until_tick_s() == TICK_S_MAX


def test_what_is_overdue_is_due_now() -> None:
    rig = DriverRig(N2)
    rig.clock.now += 1e9
    assert rig.driver.until_tick_s() == 0.0


def test_a_clock_that_goes_back_puts_nothing_off() -> None:
    rig = DriverRig(N2, N3)
    rig.pass_time(5.0)
    rig.clock.now -= 1e6
    assert rig.driver.until_tick_s() <= TICK_S_MAX
    rig.driver.tick()
    rig.couriers.sent.clear()
    rig.pass_time(2.0)
    assert any(isinstance(message, Ping) for message in rig.couriers.messages())


def test_whoever_waits_for_events_is_answered_in_time() -> None:
    rig, asker = DriverRig(N2, config=SILENT), Asker()
    rig.events.ask(STREAM, 0, 0.25, rig.clock(), asker)
    assert rig.driver.until_tick_s() == 0.25
    rig.driver.tick()
    assert asker.answers == []
    rig.clock.now += 0.25
    rig.driver.tick()
    assert asker.answers == [b""]


def test_whoever_waits_for_events_is_answered_when_one_comes() -> None:
    rig, asker = DriverRig(N2, config=SILENT), Asker()
    rig.events.ask(STREAM, 0, 5.0, rig.clock(), asker)
    rig.receive(gossip(N2))
    assert asker.answers == []
    rig.receive(gossip(N2, claim(N3)))
    assert asker.answers == [b"1"]


# -- running --------------------------------------------------------------------------------


@asynccontextmanager
async def running(rig: DriverRig) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(rig.driver.run())
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_ticks_by_itself_when_something_is_due() -> None:
    rig = DriverRig(N2, config=SILENT)
    rig.receive(gossip(N2, claim(N3)))
    async with running(rig):
        await until(lambda: len(rig.couriers.sent) == 2)  # to each of the two
        rig.couriers.sent.clear()
        await settle()
        assert rig.couriers.sent == []
        rig.clock.now += 2 * SILENT.gossip_interval_s
        await until(lambda: len(rig.couriers.sent) == 2)


async def test_what_brings_the_deadline_nearer_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swim_driver, "TICK_S_MAX", FAR)
    rig = DriverRig(N2, config=SILENT)
    async with running(rig):
        rig.receive(gossip(N2))
        await settle()
        assert rig.couriers.sent == [], "nothing that it has to do"
        rig.receive(gossip(N2, claim(N3)))
        await settle()
        assert {type(message) for message in rig.couriers.messages()} == {Gossip}


async def test_a_hint_wakes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swim_driver, "TICK_S_MAX", FAR)
    rig = DriverRig(N2, N3, config=SILENT)
    async with running(rig):
        rig.driver.hint(N2, is_gone=True)
        await settle()
        assert [type(message) for message in rig.couriers.messages()] == [Ping, PingRequest]


async def test_it_runs_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swim_driver, "TICK_S_MAX", FAR)
    rig = DriverRig(N2, config=SILENT)
    async with running(rig) as task:
        task.cancel()
        await settle()
        assert task.cancelled()
    rig.receive(gossip(N2, claim(N3)))
    await settle()
    assert rig.couriers.sent == []


# -- leaving --------------------------------------------------------------------------------


def news_of(message: Message) -> tuple[Claim, ...]:
    assert isinstance(message, Gossip)
    return message.claims


async def test_the_goodbye_is_sent_as_often_as_news_is() -> None:
    rig = DriverRig(N2, config=dataclasses.replace(SILENT, late_s_max=math.inf))
    leaving = asyncio.create_task(rig.driver.leave())
    await settle()
    for sent_times in range(1, retransmits(QUIET.retransmit_mult, members=2)):
        assert not leaving.done(), f"sent {sent_times} times"
        rig.clock.now += QUIET.gossip_interval_s
        rig.driver.tick()
        await settle()
    assert leaving.done()
    said = rig.couriers.messages()
    assert len(said) == retransmits(QUIET.retransmit_mult, members=2)
    assert {news_of(message) for message in said} == {(claim(N1, State.LEFT),)}


async def test_with_nobody_there_is_nobody_to_say_goodbye_to() -> None:
    rig = DriverRig()
    async with asyncio.timeout(DEADLINE_S):
        await rig.driver.leave()
    assert rig.couriers.sent == []
