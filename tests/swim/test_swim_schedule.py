"""Whom to probe: a round of everybody, then another in another order (SWIM section 4.3)."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import NodeId
from kvstore.swim.schedule import ProbeSchedule


def schedule(names: str, seed: int = 1) -> ProbeSchedule:
    made = ProbeSchedule(random.Random(seed))
    for name in names:
        made.add(NodeId(name))
    return made


def test_nobody_is_probed_where_nobody_is() -> None:
    assert schedule("").take() is None
    alone = schedule("b")
    assert [alone.take() for _ in range(3)] == ["b"] * 3


def test_each_round_has_everybody_once_in_an_order_of_its_own() -> None:
    made = schedule("bcdefgh")
    rounds = ["".join(str(made.take()) for _ in range(7)) for _ in range(5)]
    assert all(sorted(one) == list("bcdefgh") for one in rounds)
    assert len(set(rounds)) == 5


@given(st.integers(1, 30), st.integers(0, 1000))
def test_between_two_probes_of_a_member_are_2n_minus_1_at_most(others: int, seed: int) -> None:
    """With N others, a member probed first in one round may be last in the next."""
    made = schedule("".join(chr(98 + i) for i in range(others)), seed)
    taken = [made.take() for _ in range(5 * others)]
    for name in set(taken):
        places = [-1, *(place for place, one in enumerate(taken) if one == name)]
        assert max(after - before for before, after in pairwise(places)) <= 2 * others - 1


changes = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.just("")),
        st.tuples(st.just("add"), st.sampled_from("mnopqrst")),
        st.tuples(st.just("remove"), st.sampled_from("mnopqrst")),
    ),
    max_size=60,
)


@given(changes, st.integers(0, 1000))
def test_whoever_stays_is_not_forgotten_while_others_come_and_go(
    done: list[tuple[str, str]], seed: int
) -> None:
    made = schedule("bcd", seed)
    listed = set("bcd")
    since = dict.fromkeys("bcd", 0)
    for what, name in done:
        if what == "add" and name not in listed:
            listed.add(name)
            made.add(NodeId(name))
        elif what == "remove" and name in listed:
            listed.remove(name)
            made.remove(NodeId(name))
        elif what == "take":
            taken = made.take()
            assert taken in listed
            since = {one: 0 if one == taken else probes + 1 for one, probes in since.items()}
        # At most eleven are listed at a time.
        assert max(since.values()) < 2 * 11 - 1


def test_who_joins_in_mid_round_may_be_probed_in_it() -> None:
    found = 0
    for seed in range(200):
        made = schedule("bcdefgh", seed)
        taken = {made.take() for _ in range(4)}
        made.add(NodeId("x"))
        rest = [made.take() for _ in range(3)]
        assert taken.isdisjoint(rest), "nobody is probed twice for it"
        found += "x" in [*rest, made.take()]
    assert 70 < found < 150, "places are drawn evenly: about half are still to come"


def test_who_goes_in_mid_round_is_probed_no_more_and_nobody_is_skipped_for_it() -> None:
    for seed in range(50):
        made = schedule("bcdefg", seed)
        taken = [made.take() for _ in range(3)]
        gone = NodeId("d")
        made.remove(gone)
        rest = [made.take() for _ in range(6 - 3 - (gone not in taken))]
        assert {*taken, *rest, gone} == set("bcdefg")
        assert gone not in rest
