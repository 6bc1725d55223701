"""How claims change one member's view, and what it says when they are about itself."""

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
    F,
    Solo,
    claim,
    gossip,
    metadata,
    ping,
    push_pull,
    sender,
)

from kvstore.ids import NodeId
from kvstore.swim.claims import INCARNATION_JUMP_MAX, METADATA_BYTES_MAX, Claim, Metadata, State
from kvstore.swim.members import MEMBERS_MAX, STRANGERS_MIN, STRANGERS_PER_NODE
from kvstore.swim.messages import Ack, Gossip
from kvstore.swim.ready import EventKind

SUSPECTED, REFUTED, DIED = EventKind.SUSPECTED, EventKind.REFUTED, EventKind.DIED
JOINED, LEFT, REMOVED = EventKind.JOINED, EventKind.LEFT, EventKind.REMOVED

# -- of others ------------------------------------------------------------------------------------


def test_news_is_passed_on_and_what_is_known_is_not() -> None:
    solo = Solo(B, C)
    solo.wait(5.0)
    solo.said_of(D)
    solo.step(gossip(B, claim(D)))
    solo.wait(1.0)
    assert set(solo.said_of(D)) == {claim(D)}
    solo.wait(10.0)
    solo.outbox.clear()
    solo.step(gossip(C, claim(D)))
    solo.wait(1.0)
    assert solo.said_of(D) == []


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ([(State.SUSPECT, 1)], [SUSPECTED]),
        ([(State.SUSPECT, 1), (State.ALIVE, 2)], [SUSPECTED, REFUTED]),
        ([(State.SUSPECT, 1), (State.SUSPECT, 2)], [SUSPECTED, SUSPECTED]),
        ([(State.ALIVE, 2), (State.ALIVE, 3)], []),
        ([(State.DEAD, 1), (State.ALIVE, 2)], [DIED, JOINED]),
        ([(State.DEAD, 1), (State.SUSPECT, 2)], [DIED, JOINED, SUSPECTED]),
        ([(State.DEAD, 1), (State.DEAD, 2)], [DIED]),
        ([(State.DEAD, 1), (State.LEFT, 1)], [DIED, LEFT]),
        ([(State.LEFT, 1), (State.ALIVE, 2)], [LEFT, JOINED]),
    ],
)
def test_what_is_told_of_a_member_that_is_known(
    heard: list[tuple[State, int]], told: list[EventKind]
) -> None:
    solo = Solo(B, C)
    for state, incarnation in heard:
        solo.step(gossip(C, claim(B, state, incarnation, C)))
    assert solo.happened() == [(kind, B) for kind in told]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (State.ALIVE, [JOINED]),
        (State.SUSPECT, [JOINED, SUSPECTED]),
        (State.DEAD, []),
        (State.LEFT, []),
    ],
)
def test_what_is_told_of_one_met_for_the_first_time(state: State, told: list[EventKind]) -> None:
    solo = Solo(B)
    solo.step(gossip(B, claim(C, state, accuser=B)))
    assert solo.happened() == [(kind, C) for kind in told]
    assert solo.state(C) is state


def test_who_says_something_else_of_itself_is_reported_even_while_suspected() -> None:
    solo = Solo(B, C)
    solo.step(gossip(B, claim(C, incarnation=2, life=2)))
    assert solo.happened() == [(EventKind.UPDATED, C)]
    solo.is_suspected(C, incarnation=1)  # no more news
    assert solo.happened() == []
    solo.step(gossip(B, claim(C, State.SUSPECT, 2, B, life=2), claim(C, incarnation=3, life=3)))
    assert solo.happened() == [(SUSPECTED, C), (REFUTED, C), (EventKind.UPDATED, C)]
    assert solo.view()[C].metadata == metadata(C, life=3)


def test_what_it_says_now_is_told() -> None:
    solo = Solo(B, C)
    said = [Metadata("c:2"), Metadata("c:3", "b", 2.5, "0.2.0")]
    solo.step(*(gossip(C, Claim(C, State.ALIVE, n, new)) for n, new in enumerate(said, 2)))
    assert [event.detail for event in solo.events] == [
        "c:2, weight 1",
        "c:3, zone b, weight 2.5, version 0.2.0",
    ]


def test_two_of_one_name_in_one_incarnation_are_reported_and_the_first_stays() -> None:
    solo = Solo(B, C)
    solo.step(gossip(B, claim(C, life=2)))
    assert solo.happened() == [(EventKind.CONFLICT, C)]
    assert solo.view()[C].metadata == metadata(C)


# -- suspects -------------------------------------------------------------------------------------


def test_a_suspect_that_does_not_refute_dies_when_its_time_is_over() -> None:
    solo = Solo(B, C, D, E)
    solo.is_suspected(C)
    solo.wait(23.9)  # 4 · 1 s · 6
    assert solo.state(C) is State.SUSPECT
    solo.wait(0.2)
    assert solo.state(C) is State.DEAD
    (said,) = set(solo.said_of(C)) - {claim(C, State.SUSPECT, accuser=B)}
    assert said == claim(C, State.DEAD, accuser=A)


def test_each_further_accuser_is_news_and_shortens_the_time() -> None:
    solo = Solo(B, C, D, E)
    solo.is_suspected(C)
    solo.outbox.clear()
    solo.is_suspected(C, by=D)
    solo.wait(1.0)
    assert claim(C, State.SUSPECT, accuser=D) in solo.said_of(C)
    solo.is_suspected(C, by=E)
    solo.wait(3.1)
    assert solo.state(C) is State.SUSPECT, "three others are asked for"
    solo.is_suspected(C, by=NodeId("f"))
    solo.wait(0.1)
    assert solo.state(C) is State.DEAD


def test_a_suspicion_of_a_later_incarnation_begins_anew() -> None:
    """The refutation was missed: what came before it must not count against the member."""
    solo = Solo(B, C, D, E)
    solo.is_suspected(C, by=B)
    solo.is_suspected(C, by=D)
    solo.is_suspected(C, by=E)
    solo.wait(3.9)
    solo.is_suspected(C, by=B, incarnation=2)
    solo.wait(20.0)
    assert solo.state(C) is State.SUSPECT
    solo.wait(4.1)
    assert solo.state(C) is State.DEAD


def test_who_refutes_in_time_lives_and_the_suspicion_is_forgotten() -> None:
    solo = Solo(B, C, D, E)
    solo.is_suspected(C)
    solo.wait(20.0)
    solo.step(gossip(C, claim(C, incarnation=2)))
    solo.wait(20.0)
    assert solo.happened() == [(SUSPECTED, C), (REFUTED, C)]


# -- of this node itself --------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD])
def test_an_accusation_is_refuted_by_a_later_incarnation_than_it_names(state: State) -> None:
    solo = Solo(B, C, incarnation=3)
    solo.step(gossip(B, claim(A, state, 5, C)))
    assert solo.core.incarnation == 6
    assert solo.core.local_health == 1, "whoever is suspected may well be slow"
    solo.wait(0.5)
    assert set(solo.said_of(A)) == {claim(A, incarnation=6)}
    kinds = [kind for kind, node in solo.happened() if node == A]
    assert kinds == [SUSPECTED if state is State.SUSPECT else DIED, REFUTED]


def test_each_accusation_is_refuted_once() -> None:
    solo = Solo(B, C)
    for by in (B, C, D):
        solo.is_suspected(A, by=by)
    assert solo.core.incarnation == 2
    assert solo.happened() == [(SUSPECTED, A), (REFUTED, A)]


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT])
def test_what_is_said_of_an_earlier_life_is_outdone(state: State) -> None:
    """A restarted node whose disk remembers nothing hears how far it had come."""
    solo = Solo(incarnation=1)
    solo.step(push_pull(B, claim(B), claim(A, state, 7, C)))
    assert solo.core.incarnation == 8
    assert solo.state(A) is State.ALIVE
    assert EventKind.CONFLICT not in [kind for kind, _ in solo.happened()]


@pytest.mark.parametrize("incarnation", [1, 7])
def test_one_that_lives_elsewhere_under_our_name_is_outdone_and_reported(incarnation: int) -> None:
    solo = Solo(B, incarnation=1)
    solo.step(gossip(B, claim(A, incarnation=incarnation, life=2)))
    assert solo.happened() == [(EventKind.CONFLICT, A)]
    assert solo.core.incarnation == incarnation + 1


def test_what_was_said_of_us_long_ago_is_no_news() -> None:
    solo = Solo(B, incarnation=5)
    solo.step(gossip(B, claim(A, State.DEAD, 4, B), claim(A, incarnation=3, life=2)))
    assert solo.core.incarnation == 5
    assert solo.happened() == []


def test_an_absurd_accusation_does_not_carry_us_away() -> None:
    solo = Solo(B, incarnation=2)
    solo.is_suspected(A, incarnation=3 + INCARNATION_JUMP_MAX)
    assert solo.core.incarnation == 2
    assert solo.happened() == [(EventKind.ABSURD, A)]
    solo.is_suspected(A, incarnation=2 + INCARNATION_JUMP_MAX)
    assert solo.core.incarnation == 3 + INCARNATION_JUMP_MAX


def test_many_accusations_carry_us_no_further_than_one() -> None:
    solo = Solo(B, incarnation=2)
    for _ in range(9):
        solo.is_suspected(A, incarnation=solo.core.incarnation + INCARNATION_JUMP_MAX // 2)
    assert solo.core.incarnation <= 4 + INCARNATION_JUMP_MAX
    assert (EventKind.ABSURD, A) in solo.happened()


def test_others_carry_a_member_no_further_than_it_has_told_itself() -> None:
    solo = Solo(B, C)
    for steps in range(1, 9):
        solo.step(gossip(C, claim(B, incarnation=steps * INCARNATION_JUMP_MAX)))
    reached = INCARNATION_JUMP_MAX
    assert solo.view()[B].incarnation == reached
    solo.step(ping(B, incarnation=reached))
    solo.step(gossip(C, claim(B, incarnation=2 * reached)))
    assert solo.view()[B].incarnation == 2 * reached


def test_who_is_removed_says_nothing_any_more() -> None:
    solo = Solo(B, C)
    solo.wait(1.0)
    solo.step(gossip(B, claim(D)))
    solo.core.remove(A, solo.now)
    solo.drain()
    assert solo.core.has_news
    assert solo.happened()[-1] == (REMOVED, A)
    solo.outbox.clear()
    solo.is_suspected(A)
    solo.hint(C, is_gone=True)
    solo.leave()
    assert solo.core.deadline() == float("inf")
    solo.now += 100.0
    solo.tick()
    assert solo.outbox == []
    assert solo.state(A) is State.REMOVED


def test_that_somebody_was_removed_is_not_believed_because_a_member_claims_it() -> None:
    solo = Solo(B, C)
    removed = [Claim(node, State.REMOVED, 1 << 40) for node in (A, C, D)]
    solo.step(gossip(B, *removed), push_pull(B, *removed), push_pull(B, *removed, is_reply=True))
    assert solo.happened() == []
    assert {node: solo.state(node) for node in (A, C, D)} == {
        A: State.ALIVE,
        C: State.ALIVE,
        D: None,
    }
    solo.step(ping(B))
    assert len(solo.take(Ack)) == 1


def test_who_would_not_be_let_in_anywhere_does_not_begin() -> None:
    too_long = Metadata("a:1", "z" * (METADATA_BYTES_MAX - 2))
    with pytest.raises(ValueError, match="metadata of 601 bytes"):
        Solo(said=too_long)


# -- bounds ---------------------------------------------------------------------------------------


def crowd(state: State = State.ALIVE) -> list[tuple[Claim, float]]:
    names = [NodeId(f"m{number}") for number in range(MEMBERS_MAX - 1)]
    return [(claim(name, state), 0.0) for name in names]


def test_a_full_view_takes_nobody_in() -> None:
    solo = Solo(known=crowd())
    solo.step(gossip(NodeId("m0"), claim(B)))
    assert solo.state(B) is None
    assert solo.happened() == [(EventKind.CROWDED, B)]
    assert len(solo.view()) == MEMBERS_MAX


def test_the_living_are_let_in_for_those_who_are_gone_longest() -> None:
    ages = [(gone, float(age)) for age, (gone, _) in enumerate(crowd(State.DEAD))]
    solo = Solo(known=ages)
    longest = ages[-1][0].node
    solo.step(push_pull(C, claim(B), claim(D, State.DEAD, accuser=C)))
    assert solo.state(B) is State.ALIVE
    assert solo.state(D) is None, "of the gone nobody makes room for another"
    assert solo.state(longest) is None
    assert len(solo.view()) == MEMBERS_MAX


def test_of_those_that_the_shard_map_does_not_name_only_so_many_are_kept() -> None:
    solo = Solo(B, known=[(claim(E, State.REMOVED), 0.0)])
    solo.core.expect([A, B, C])
    room = STRANGERS_MIN + 3 * STRANGERS_PER_NODE
    made_up = [NodeId(f"m{number}") for number in range(room)]
    solo.step(gossip(B, *map(claim, made_up)))
    assert len(solo.view()) == room + 3
    solo.happened()
    solo.step(gossip(B, claim(D), claim(C)))
    assert (solo.state(D), solo.state(C)) == (None, State.ALIVE)
    assert solo.happened() == [(EventKind.CROWDED, D), (JOINED, C)]
    solo.step(gossip(B, claim(made_up[0], State.DEAD, accuser=B)))
    solo.step(push_pull(B, claim(F, State.DEAD, accuser=B)), gossip(B, claim(D)))
    assert (solo.state(D), solo.state(F)) == (State.ALIVE, None)
    assert solo.state(made_up[0]) is None, "the gone make room"
    solo.core.expect([A, B, C, D])
    solo.step(gossip(B, claim(F)))
    assert solo.state(F) is State.ALIVE, "one of them has been admitted"


# -- forgetting -----------------------------------------------------------------------------------

SHORT = dataclasses.replace(QUIET, forget_after_s=100.0, push_pull_interval_s=10.0)


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_the_gone_are_forgotten_after_a_while(state: State) -> None:
    solo = Solo(config=SHORT, known=[(claim(B, state), 0.0), (claim(C, state), 50.0)])
    solo.wait(45.0)
    assert set(solo.view()) == {A, B, C}
    solo.wait(25.0)
    assert set(solo.view()) == {A, B}
    solo.wait(50.0)
    assert set(solo.view()) == {A}


def test_the_removed_and_the_living_are_not() -> None:
    solo = Solo(config=SHORT, known=[(claim(B, State.REMOVED), 0.0), (claim(C), 1e6)])
    solo.wait(15.0)
    assert set(solo.view()) == {A, B, C}


def test_who_was_forgotten_is_not_learned_again_from_those_who_are_about_to_forget() -> None:
    solo = Solo(config=SHORT)
    solo.step(push_pull(B, claim(B), age_s=0.0))
    solo.step(push_pull(B, claim(C, State.DEAD), claim(D, State.LEFT), age_s=100.0))
    assert set(solo.view()) == {A, B}
    solo.step(push_pull(B, claim(C, State.DEAD), age_s=90.0))
    assert solo.view()[C].age_s == pytest.approx(90.0)
    solo.wait(30.0)
    assert C not in solo.view()


def test_the_gone_of_whom_nothing_was_known_are_not_told_of_as_news() -> None:
    """News has no age: each member would learn of them anew, and pass it on, for ever."""
    solo = Solo(B, C, config=SHORT)
    solo.step(push_pull(B, claim(D, State.DEAD), age_s=90.0))
    assert solo.state(D) is State.DEAD
    solo.take(Gossip)
    solo.wait(3.0)
    assert all(said.node != D for sent in solo.take(Gossip) for said in sent.claims)


def test_the_dead_who_come_back_count_from_then_on() -> None:
    solo = Solo(B, config=SHORT, known=[(claim(C, State.DEAD), 99.0)])
    solo.step(gossip(C, claim(C, incarnation=2)))
    solo.wait(15.0)
    assert C in solo.view()


# -- vitals ---------------------------------------------------------------------------------------


def test_vitals_are_those_of_the_newest_beat_of_the_newest_life() -> None:
    solo = Solo(B)
    said = [(1, 5), (1, 4), (2, 1), (1, 9), (9, 7)]
    kept = []
    solo.step(gossip(B, claim(B, incarnation=1)))
    for incarnation, beat in said:
        if incarnation == 2:
            solo.step(gossip(C, claim(B, incarnation=2)))
        solo.step(Gossip(sender(B, incarnation, beat=beat), ()))
        kept.append(solo.view()[B].vitals.beat)
    assert kept == [5, 5, 1, 1, 1], "of a life nobody has heard of nothing is believed"
