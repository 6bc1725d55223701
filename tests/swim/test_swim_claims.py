"""Which claim wins: whoever heard the same believes the same."""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swim_solo import QUIET, A, B, C, D, claim, metadata

from kvstore.swim.awareness import Awareness
from kvstore.swim.claims import (
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    METADATA_BYTES_MAX,
    Claim,
    Metadata,
    State,
    precedence,
)
from kvstore.swim.ready import EventKind
from kvstore.swim.view import View

if TYPE_CHECKING:
    from kvstore.ids import NodeId

Belief = tuple[State, int, Metadata | None]

LEFT_LAST = (State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT)


def view() -> View:
    return View(A, metadata(A), 1, config=QUIET, awareness=Awareness(8), rng=random.Random(1))


def beliefs(seen: View) -> dict[NodeId, Belief]:
    return {m.node: (m.state, m.incarnation, m.metadata) for m in seen.members if m is not seen.own}


def said(node: NodeId, state: State, incarnation: int, accuser: NodeId) -> Claim:
    """As the protocol makes claims: each incarnation has metadata of its own."""
    return claim(node, state, incarnation, accuser, life=incarnation)


claims = st.builds(
    said,
    st.sampled_from([B, C]),
    st.sampled_from([*LEFT_LAST, State.REMOVED]),
    st.integers(0, 3),
    st.sampled_from([A, B, C, D]),
)


def model(heard: list[Claim]) -> dict[NodeId, Belief]:
    """The dumbest definition: of each member the greatest claim."""
    best: dict[NodeId, Claim] = {}
    for one in heard:
        known = best.get(one.node)
        if known is None or one.precedence > known.precedence:
            best[one.node] = one
    return {node: (one.state, one.incarnation, one.metadata) for node, one in best.items()}


@given(st.lists(claims, max_size=12), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(heard: list[Claim], chance: random.Random) -> None:
    again = [*heard, *chance.choices(heard, k=len(heard))] if heard else []
    chance.shuffle(again)
    first, second = view(), view()
    for one in heard:
        first.take(one, 0.0)
    for one in again:
        second.take(one, 0.0)
    assert beliefs(first) == beliefs(second) == model(heard)


@given(st.lists(claims, max_size=8), st.lists(claims, max_size=8))
def test_grouping_does_not_matter(left: list[Claim], right: list[Claim]) -> None:
    """Two views that are exchanged hold what one would that had heard it all."""
    first, second = view(), view()
    for one in left:
        first.take(one, 0.0)
    for one in right:
        second.take(one, 0.0)
    for member in [*second.members]:
        first.take(member.claim(), 0.0)
    for member in [*first.members]:
        second.take(member.claim(), 0.0)
    assert beliefs(first) == beliefs(second) == model([*left, *right])


@given(st.lists(claims, max_size=12))
def test_what_is_believed_only_gains_precedence(heard: list[Claim]) -> None:
    seen = view()
    for one in heard:
        member = seen.members.get(one.node)
        before = None if member is None else member.precedence
        seen.take(one, 0.0)
        after = seen.members.get(one.node)
        assert after is not None
        assert before is None or after.precedence >= before


@given(st.lists(claims, max_size=12))
def test_a_suspect_has_its_time_and_nobody_else(heard: list[Claim]) -> None:
    seen = view()
    for one in heard:
        seen.take(one, 0.0)
    for member in seen.members:
        assert (member.suspicion is not None) == (member.state is State.SUSPECT)
    is_any = any(member.suspicion for member in seen.members)
    assert (seen.suspicion_deadline < float("inf")) == is_any


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        # SWIM section 4.2: the order in which a claim overrides another.
        ((State.ALIVE, 1), (State.ALIVE, 2)),
        ((State.SUSPECT, 1), (State.ALIVE, 2)),
        ((State.ALIVE, 1), (State.SUSPECT, 1)),
        ((State.ALIVE, 1), (State.SUSPECT, 2)),
        ((State.SUSPECT, 1), (State.SUSPECT, 2)),
        ((State.ALIVE, 1), (State.DEAD, 1)),
        ((State.SUSPECT, 1), (State.DEAD, 1)),
        # And beyond it: the dead may come back, who left and who was removed is told apart.
        ((State.DEAD, 1), (State.ALIVE, 2)),
        ((State.DEAD, 1), (State.LEFT, 1)),
        ((State.LEFT, 1), (State.ALIVE, 2)),
        ((State.LEFT, 9), (State.REMOVED, 1)),
        ((State.ALIVE, 9), (State.REMOVED, 1)),
    ],
)
def test_the_order_of_claims(loser: tuple[State, int], winner: tuple[State, int]) -> None:
    assert precedence(*loser) < precedence(*winner)


def test_no_two_claims_are_of_the_same_rank() -> None:
    ranks = [precedence(*one) for one in product(State, range(3))]
    assert len(set(ranks)) == len(ranks)


# -- what cannot be so ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "claimed", "is_believed"),
    [
        (1, 1 + INCARNATION_JUMP_MAX, True),
        (1, 2 + INCARNATION_JUMP_MAX, False),
        (INCARNATION_MAX - 1, INCARNATION_MAX, True),
        (INCARNATION_MAX - 1, INCARNATION_MAX + 1, False),
    ],
)
def test_an_incarnation_far_ahead_is_refused(known: int, claimed: int, is_believed: bool) -> None:
    seen = view()
    seen.take(claim(B), 0.0)
    seen.events.clear()
    member = seen.members.get(B)
    assert member is not None
    member.incarnation = member.told = known
    seen.take(claim(B, State.DEAD, claimed, C), 0.0)
    assert (member.incarnation == claimed) is is_believed
    expected = EventKind.DIED if is_believed else EventKind.ABSURD
    assert [event.kind for event in seen.events] == [expected]


def test_who_is_met_first_in_an_impossible_incarnation_is_not_let_in() -> None:
    seen = view()
    seen.take(claim(B, incarnation=INCARNATION_JUMP_MAX + 1), 0.0)
    assert seen.members.get(B) is None
    seen.take(claim(B, incarnation=INCARNATION_JUMP_MAX), 0.0)
    assert seen.members.get(B) is not None


def test_whoever_says_too_much_of_itself_is_not_let_in() -> None:
    seen = view()
    long = Metadata("b:1", "z" * (METADATA_BYTES_MAX - 3))
    assert long.size_bytes == METADATA_BYTES_MAX
    too_long = Metadata("c:1", "z" * (METADATA_BYTES_MAX - 2))
    seen.take(Claim(B, State.ALIVE, 1, long), 0.0)
    seen.take(Claim(C, State.ALIVE, 1, too_long), 0.0)
    assert beliefs(seen) == {B: (State.ALIVE, 1, long)}
    assert seen.events[-1].kind is EventKind.ABSURD


def test_a_stranger_without_an_address_is_not_let_in_unless_to_be_kept_out() -> None:
    seen = view()
    for state in LEFT_LAST:
        seen.take(Claim(B, state, 1), 0.0)
    assert seen.members.get(B) is None
    seen.take(Claim(B, State.REMOVED, 0), 0.0)
    seen.take(claim(B, incarnation=7), 0.0)
    assert beliefs(seen) == {B: (State.REMOVED, 0, None)}
