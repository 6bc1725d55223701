"""One node's membership as its driver sees it: time, statuses, what to keep on disk."""

from __future__ import annotations

import dataclasses
import math

import pytest
from swim_solo import QUIET, A, B, C, D, E, F, Solo, claim, gossip, metadata, ping, sender

from kvstore.config import PROFILES
from kvstore.swim.claims import State, Vitals
from kvstore.swim.messages import Ack, Gossip, Ping, PingRequest
from kvstore.swim.ready import EventKind

ALL = (B, C, D, E, F)
LATE_S = QUIET.late_s_max

# -- a process that did not run -------------------------------------------------------------------


def frozen_in_a_probe(solo: Solo) -> tuple[Ping, Ack]:
    """It has just pinged somebody, and has not run since, when the answer lies there."""
    _, sent = solo.wait_for(Ping)
    solo.freeze(60.0)
    return sent, Ack(sender(sent.target), sent.sequence)


@pytest.mark.parametrize("is_tick_first", [True, False])
def test_a_frozen_process_accuses_nobody(is_tick_first: bool) -> None:
    """Whether its loop sees to the timers first, or to what has come in."""
    solo = Solo(*ALL)
    _, answer = frozen_in_a_probe(solo)
    if is_tick_first:
        solo.tick()
    solo.step(answer)
    solo.wait(5.0)
    assert solo.happened() == []
    assert solo.take(PingRequest) == []


def test_nor_does_one_that_knows_no_better() -> None:
    solo = Solo(*ALL, config=dataclasses.replace(QUIET, late_s_max=math.inf))
    sent, answer = frozen_in_a_probe(solo)
    solo.tick()
    solo.step(answer)
    assert solo.happened() == [(EventKind.SUSPECTED, sent.target)], "this is what is prevented"


def test_what_was_due_is_due_again_once_the_messages_were_read() -> None:
    solo = Solo(*ALL)
    sent, _ = frozen_in_a_probe(solo)
    solo.tick()
    assert solo.core.deadline() == pytest.approx(solo.now + LATE_S)
    solo.silent.add(sent.target)
    solo.wait(LATE_S)
    assert {request.target for request in solo.take(PingRequest)} == {sent.target}
    solo.wait(QUIET.probe_interval_s)
    assert (EventKind.SUSPECTED, sent.target) in solo.happened()


def test_a_suspect_has_its_whole_time_though_the_node_slept() -> None:
    solo = Solo(*ALL)
    solo.is_suspected(C)
    solo.freeze(3600.0)
    solo.tick()
    solo.wait(10.0)
    assert solo.state(C) is State.SUSPECT
    solo.step(gossip(C, claim(C, incarnation=2)))
    assert solo.state(C) is State.ALIVE


def test_to_have_slept_is_no_sign_of_health() -> None:
    solo = Solo(*ALL)
    solo.wait(1.0)
    solo.freeze(5.0)
    solo.tick()
    assert solo.core.local_health == 1
    solo.tick()
    assert solo.core.local_health == 1


def test_a_tick_that_comes_a_little_late_is_nothing() -> None:
    solo = Solo(*ALL)
    for _ in range(100):
        solo.now = max(solo.now, solo.core.deadline()) + 0.9 * LATE_S
        solo.tick()
        for sent in solo.outbox:
            solo.answer(sent) if isinstance(sent.message, Ping) else None
        solo.outbox.clear()
    assert solo.core.local_health == 0
    assert solo.happened() == []


def test_the_callers_clock_may_begin_anywhere_and_go_back() -> None:
    solo = Solo(*ALL)
    solo.now = -1e6
    solo.tick()
    solo.wait(10.0)
    assert len(solo.take(Ping)) >= 9
    assert solo.happened() == []


# -- what it tells of itself ----------------------------------------------------------------------


def test_vitals_go_out_with_everything_and_are_seen_in_the_view() -> None:
    solo = Solo(B)
    solo.core.set_vitals(7, 0.5)
    solo.step(ping(B))
    (ack,) = solo.take(Ack)
    assert ack.sender.vitals == solo.view()[A].vitals == Vitals(1, 7, 0.5)
    solo.core.set_vitals(8, 0.5)
    assert solo.view()[A].vitals == Vitals(2, 8, 0.5)


def test_the_view_lists_this_node_first() -> None:
    solo = Solo(B, C)
    assert [status.node for status in solo.core.members(solo.now)] == [A, B, C]
    status = solo.core.member(A, solo.now)
    assert status is not None
    assert (status.metadata, status.state, status.phi) == (metadata(A), State.ALIVE, 0.0)
    assert solo.core.member(D, solo.now) is None


def test_ages_count_from_the_change_of_state() -> None:
    solo = Solo(B)
    solo.wait(10.0)
    assert solo.view()[B].age_s == pytest.approx(10.0)
    solo.is_suspected(B)
    solo.wait(2.0)
    assert solo.view()[B].age_s == pytest.approx(2.0)
    solo.step(gossip(B, claim(B, incarnation=2)))
    solo.wait(1.0)
    solo.step(gossip(B, claim(B, incarnation=3)))
    assert solo.view()[B].age_s == pytest.approx(1.0), "it has been alive all the time"


def test_silence_surprises_by_how_often_a_member_was_to_be_heard() -> None:
    solo = Solo(*ALL)
    solo.step(Gossip(sender(B), ()))
    assert solo.view()[B].phi < 0.1
    solo.silent.add(B)
    solo.wait(4.0)
    assert solo.view()[B].phi < 1.0, "a round of six takes 6 s"
    solo.wait(20.0)
    assert solo.view()[B].phi > 8.0
    assert solo.view()[C].phi < 1.0


def test_what_is_kept_on_disk_makes_the_same_view_again() -> None:
    solo = Solo(B, C, D, E)
    solo.step(gossip(B, claim(C, State.SUSPECT, accuser=B), claim(D, State.LEFT)))
    solo.core.remove(E, solo.now)
    solo.wait(3.0)
    again = Solo(known=[(said, age_s + 10.0) for said, age_s in solo.core.known(solo.now)])
    before, after = solo.view(), again.view()
    assert before.keys() == after.keys()
    for node in (B, C, D, E):
        assert (before[node].state, before[node].metadata) == (after[node].state, metadata(node))
        assert after[node].age_s == pytest.approx(before[node].age_s + 10.0)


def test_what_the_disk_says_of_this_node_itself_is_outdone() -> None:
    solo = Solo(incarnation=1, known=[(claim(A, State.DEAD, 4, B), 0.0)])
    assert solo.core.incarnation == 5


# -- numbers --------------------------------------------------------------------------------------


def test_numbers_of_an_earlier_life_are_not_used_again() -> None:
    """Else its late answers would count as answers to this one's pings."""
    firsts = set()
    for seed in range(20):
        _, sent = Solo(B, seed=seed).wait_for(Ping)
        firsts.add(sent.sequence)
    assert len(firsts) == 20


@pytest.mark.parametrize("profile", PROFILES)
def test_the_deadline_is_never_long_past(profile: str) -> None:
    """Whoever sleeps until it does not spin."""
    solo = Solo(*ALL, config=PROFILES[profile])
    for _ in range(2000):
        before = solo.now
        solo.now = max(before, solo.core.deadline())
        solo.tick()
        for sent in solo.outbox:
            solo.answer(sent) if isinstance(sent.message, Ping) else None
        solo.outbox.clear()
    assert solo.now - 100.0 > 100 * PROFILES[profile].probe_interval_s
