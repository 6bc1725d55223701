"""Gossip, exchange of views, joining, leaving, asking the dead: one member's part in them."""

from __future__ import annotations

import dataclasses

import pytest
from swim_solo import (
    QUIET,
    A,
    B,
    C,
    D,
    E,
    Solo,
    claim,
    gossip,
    metadata,
    ping,
    push_pull,
    sender,
)

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.claims import Claim, State
from kvstore.swim.exchange import LEAVE_FANOUT, MEMBERS_AT_FULL_RATE
from kvstore.swim.members import MEMBERS_MAX
from kvstore.swim.messages import Ack, Gossip, Ping, PushPull
from kvstore.swim.ready import EventKind

LAN = PROFILES["lan"]
EXCHANGING = dataclasses.replace(QUIET, push_pull_interval_s=30.0)
RECONNECTING = dataclasses.replace(QUIET, reconnect_interval_s=10.0)


def names(count: int) -> list[NodeId]:
    return [NodeId(f"m{number}") for number in range(count)]


def asked(solo: Solo) -> list[str]:
    """The addresses that were asked for their view since the last time."""
    found = [
        sent.address
        for sent in solo.outbox
        if isinstance(sent.message, PushPull) and not sent.message.is_reply
    ]
    solo.outbox.clear()
    return found


# -- news -----------------------------------------------------------------------------------------


def test_news_goes_to_a_few_each_gossip_interval_until_it_was_sent_often_enough() -> None:
    solo = Solo(*names(20))
    solo.wait(10.0)
    solo.outbox.clear()
    solo.step(gossip(B, claim(B)))
    began, per_tick = solo.now, []
    while solo.core.has_news:
        solo.now = max(solo.now, solo.core.deadline())
        solo.tick()
        per_tick.append(len(solo.take(Gossip)))
    assert set(per_tick) <= {0, 1, 2, 3}
    assert 6 <= sum(per_tick) <= 8, "4 · ceil(log10(23)) = 8, of which pings may take some"
    assert solo.now - began < 1.0


def test_without_news_nobody_gossips() -> None:
    solo = Solo(B, C)
    solo.wait(10.0)
    solo.outbox.clear()
    solo.wait(60.0)
    assert not solo.core.has_news
    assert solo.take(Gossip) == []


def test_what_a_node_knew_before_it_began_is_no_news() -> None:
    solo = Solo(*names(100))
    solo.wait(5.0)
    messages = [sent.message for sent in solo.outbox]
    said = [c.node for m in messages if isinstance(m, Gossip | Ping) for c in m.claims]
    assert set(said) == {A}


# -- exchange of views ----------------------------------------------------------------------------


def test_views_are_exchanged_with_one_member_now_and_then() -> None:
    solo = Solo(B, C, D, config=EXCHANGING)
    solo.wait(600.0)
    addresses = asked(solo)
    assert set(addresses) == {"b:1", "c:1", "d:1"}
    assert 15 <= len(addresses) <= 25


def test_in_a_large_cluster_less_often_so_that_it_costs_no_more() -> None:
    large = 10 * MEMBERS_AT_FULL_RATE
    solo = Solo(*names(large - 1), config=EXCHANGING)
    solo.wait(6000.0)
    assert 15 <= len(asked(solo)) <= 25


def test_who_is_asked_answers_with_all_it_knows() -> None:
    solo = Solo(B, known=[(claim(C, State.DEAD, 4, B), 7.0), (Claim(D, State.REMOVED, 0), 0.0)])
    solo.step(push_pull(B, claim(E)))
    (reply,) = solo.take(PushPull)
    assert reply.is_reply
    assert {row.claim.node: row.claim.state for row in reply.rows} == {
        A: State.ALIVE,
        B: State.ALIVE,
        E: State.ALIVE,
        C: State.DEAD,
        D: State.REMOVED,
    }
    (dead,) = [row for row in reply.rows if row.claim.node == C]
    assert (dead.claim.metadata, dead.age_s) == (metadata(C), 7.0)
    solo.step(push_pull(B, is_reply=True))
    assert solo.take(PushPull) == []


def test_vitals_travel_with_the_view() -> None:
    solo = Solo(B, C)
    solo.step(Gossip(sender(C, beat=3), ()))
    solo.step(push_pull(B))
    (reply,) = solo.take(PushPull)
    (row,) = [row for row in reply.rows if row.claim.node == C]
    other = Solo(B, C)
    other.step(PushPull(sender(B), True, (row,)))
    assert other.view()[C].vitals == row.vitals == solo.view()[C].vitals
    assert row.vitals.beat == 3


def test_the_dead_of_another_view_are_only_suspects_where_they_are_alive() -> None:
    """After a partition both sides have each other for dead, and both are wrong."""
    solo = Solo(B, C, D)
    solo.step(push_pull(D, claim(B, State.DEAD, 1, D), claim(C, State.LEFT)))
    assert (solo.state(B), solo.state(C)) == (State.SUSPECT, State.LEFT)
    solo.step(gossip(D, claim(B, State.DEAD, 1, D)))
    assert solo.state(B) is State.DEAD, "but news is news"


# -- who is met, and how --------------------------------------------------------------------------


def test_a_stranger_that_speaks_is_asked_who_there_is() -> None:
    solo = Solo(B, config=RECONNECTING)
    solo.step(ping(C))
    assert asked(solo) == ["c:1"]
    solo.step(ping(C), ping(C))
    assert asked(solo) == [], "and not again at once"
    solo.wait(RECONNECTING.reconnect_interval_s)
    solo.step(ping(C))
    assert "c:1" in asked(solo)


def test_who_introduces_itself_need_not_be_asked() -> None:
    solo = Solo(B)
    solo.step(gossip(C, claim(C)))
    solo.step(push_pull(D, claim(D)))
    assert asked(solo) == []
    assert set(solo.view()) == {A, B, C, D}


@pytest.mark.parametrize("incarnation", [1, 3])
def test_one_that_speaks_in_another_incarnation_than_we_know_is_asked(incarnation: int) -> None:
    solo = Solo(known=[(claim(B, incarnation=2), 0.0)])
    solo.step(ping(B, incarnation=incarnation))
    assert asked(solo) == ["b:1"]


def test_one_that_speaks_though_it_is_dead_is_asked_and_one_that_has_left_is_not() -> None:
    solo = Solo(B, known=[(claim(C, State.DEAD), 0.0), (claim(D, State.LEFT), 0.0)])
    solo.step(ping(C), ping(D))
    assert asked(solo) == ["c:1"]


def test_strangers_are_asked_within_bounds() -> None:
    solo = Solo(B)
    for number in range(MEMBERS_MAX + 10):
        solo.step(ping(NodeId(f"x{number}")))
    assert len(asked(solo)) == MEMBERS_MAX


def test_who_was_removed_is_told_so_and_nothing_it_says_counts() -> None:
    solo = Solo(B, known=[(claim(C, State.REMOVED), 0.0)])
    solo.step(gossip(C, claim(D)), ping(C), push_pull(C, claim(E)))
    assert set(solo.view()) == {A, B, C}
    assert [said.state for said in solo.said_of(C)] == [State.REMOVED] * 3


# -- joining --------------------------------------------------------------------------------------

SEEDS = ("b:1", "c:1", "d:1")


def test_who_begins_asks_all_its_seeds_until_one_answers() -> None:
    solo = Solo(seeds=SEEDS, config=RECONNECTING)
    solo.tick()
    assert asked(solo) == [*SEEDS]
    solo.wait(0.7)
    assert asked(solo) == []
    solo.wait(0.6)
    assert asked(solo) == [*SEEDS], "about every second"
    solo.step(push_pull(B, claim(B), claim(C), claim(D), is_reply=True))
    solo.wait(60.0)
    assert asked(solo) == []
    assert set(solo.view()) == {A, B, C, D}


def test_our_own_address_is_no_seed() -> None:
    solo = Solo(seeds=("a:1", "b:1"), config=RECONNECTING)
    solo.tick()
    assert asked(solo) == ["b:1"]
    alone = Solo(seeds=("a:1",), config=RECONNECTING)
    alone.wait(60.0)
    assert alone.outbox == []


def test_an_echo_of_ourselves_is_no_conflict() -> None:
    """Our address may stand among the seeds in another spelling."""
    solo = Solo(seeds=("localhost:1",))
    solo.step(PushPull(sender(A), False, ()))
    assert solo.happened() == []
    assert solo.take(PushPull) == []
    solo.step(PushPull(sender(A, life=2), False, ()))
    assert solo.happened() == [(EventKind.CONFLICT, A)]


def test_who_joins_does_not_tell_the_members_of_each_other() -> None:
    solo = Solo(seeds=SEEDS)
    solo.step(push_pull(B, *map(claim, names(50)), is_reply=True))
    solo.wait(10.0)
    assert len(solo.view()) == 51
    messages = [m for m in (sent.message for sent in solo.outbox) if isinstance(m, Gossip | Ping)]
    assert {said.node for message in messages for said in message.claims} == {A}


def test_whom_a_member_meets_later_it_does_tell_of() -> None:
    solo = Solo(seeds=SEEDS)
    solo.step(push_pull(B, claim(B), claim(C), is_reply=True))
    solo.step(push_pull(D, claim(D), is_reply=True), push_pull(E, claim(E)))
    solo.wait(2.0)
    messages = [m for m in (sent.message for sent in solo.outbox) if isinstance(m, Gossip)]
    assert {said.node for message in messages for said in message.claims} == {A, D, E}


def test_whom_it_asked_and_everybody_else_having_died_it_asks_the_seeds_again() -> None:
    solo = Solo(seeds=SEEDS, config=RECONNECTING)
    solo.step(push_pull(B, claim(B), is_reply=True))
    solo.wait(30.0)
    asked(solo)
    solo.step(gossip(B, claim(B, State.LEFT)))
    solo.wait(12.5)
    assert set(asked(solo)) == {*SEEDS}


def test_a_seed_that_is_no_member_is_asked_now_and_then() -> None:
    """Whoever lives there may never have met anybody here: nobody else would ask."""
    solo = Solo(B, C, seeds=SEEDS, config=EXCHANGING)
    solo.step(push_pull(B, is_reply=True))
    asked(solo)
    solo.wait(300.0)
    assert "d:1" in asked(solo)
    solo.step(push_pull(D, claim(D)))
    solo.outbox.clear()
    solo.wait(3000.0)
    found = asked(solo)
    assert 20 <= found.count("d:1") <= 60, "only as one of three members"


# -- the dead -------------------------------------------------------------------------------------


def test_the_dead_are_asked_now_and_then_whether_they_are_back() -> None:
    dead = [(claim(node, State.DEAD), 0.0) for node in (C, D)]
    solo = Solo(B, config=RECONNECTING, known=[*dead, (claim(E, State.LEFT), 0.0)])
    solo.silent.update((C, D, E))
    solo.wait(200.0)
    found = [sent for sent in solo.take(Ping) if sent.target != B]
    assert {sent.target for sent in found} == {C, D}
    assert 15 <= len(found) <= 25
    assert {sent.claims[0].state for sent in found} == {State.DEAD}
    assert solo.core.local_health == 0, "that they do not answer says nothing of us"
    assert solo.happened() == []


def test_who_is_alone_asks_those_who_have_left_as_well() -> None:
    """They may have been started again, like this node, and have it for one that left."""
    known = [(claim(C, State.LEFT), 0.0), (claim(D, State.REMOVED), 0.0)]
    solo = Solo(config=RECONNECTING, known=known)
    solo.silent.update((C, D))
    solo.wait(60.0)
    assert {sent.target for sent in solo.take(Ping)} == {C}
    assert solo.happened() == []


def test_one_of_them_that_answers_is_asked_for_its_view_and_may_refute() -> None:
    solo = Solo(B, config=RECONNECTING, known=[(claim(C, State.DEAD), 0.0)])
    solo.silent.add(C)
    while True:
        out, sent = solo.wait_for(Ping)
        if sent.target == C:
            break
        solo.answer(out)
    solo.answer(out)
    assert asked(solo) == ["c:1"]
    solo.step(push_pull(C, claim(C, incarnation=2), is_reply=True))
    assert solo.happened() == [(EventKind.JOINED, C)]


# -- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [3, 8, 40])
def test_who_leaves_tells_many_at_once(members: int) -> None:
    solo = Solo(*names(members))
    solo.wait(5.0)
    solo.outbox.clear()
    solo.leave()
    told = [sent.node for sent in solo.outbox if isinstance(sent.message, Gossip)]
    assert len(set(told)) == len(told) == min(members, LEAVE_FANOUT)
    for goodbye in solo.take(Gossip):
        assert goodbye.claims[0] == claim(A, State.LEFT)


def test_then_it_only_says_that_it_has_left_until_that_is_news_no_more() -> None:
    busy = dataclasses.replace(LAN, push_pull_interval_s=0.1, reconnect_interval_s=0.1)
    solo = Solo(B, seeds=SEEDS, config=busy, known=[(claim(E, State.DEAD), 0.0)])
    solo.wait(5.0)
    solo.outbox.clear()
    solo.leave()
    solo.wait(10.0)
    assert {type(sent.message) for sent in solo.outbox} == {Gossip}
    assert len(solo.take(Gossip)) == 4, "4 · ceil(log10(3))"
    assert not solo.core.has_news
    assert solo.core.deadline() == float("inf")
    solo.hint(B, is_gone=True)
    solo.step(ping(C))
    (answer,) = [sent.message for sent in solo.outbox]
    assert isinstance(answer, Ack)
    assert answer.claims == (claim(A, State.LEFT),)


def test_who_has_left_does_not_refute_and_does_not_leave_twice() -> None:
    solo = Solo(B)
    solo.leave()
    solo.outbox.clear()
    solo.is_suspected(A, incarnation=5)
    solo.leave()
    assert solo.core.incarnation == 1
    assert solo.outbox == []
    assert solo.state(A) is State.LEFT


# -- removing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_known", [True, False])
def test_who_is_removed_stays_removed_whatever_is_said_of_it(is_known: bool) -> None:
    solo = Solo(*((B, C) if is_known else (B,)))
    solo.core.remove(C, solo.now)
    solo.drain()
    solo.step(gossip(B, claim(C, incarnation=99), claim(C, State.LEFT, 99)))
    assert solo.state(C) is State.REMOVED
    solo.wait(1.0)
    assert {said.state for said in solo.said_of(C)} == {State.REMOVED}
