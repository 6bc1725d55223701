from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from kvstore.sharding.leaders import NOBODY, spread_leaders

if TYPE_CHECKING:
    from collections.abc import Sequence

HELD = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True), min_size=1, max_size=6
)
WEIGHTS = st.lists(
    st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 10)]), min_size=4, max_size=4
)
ONES = [Fraction(1)] * 4


def cost(leaders: Sequence[int], weights: Sequence[Fraction]) -> Fraction:
    leads = Counter(leaders)
    return sum((Fraction(leads[n] ** 2) / weight for n, weight in enumerate(weights)), Fraction(0))


@given(held=HELD, weights=WEIGHTS, data=st.data())
def test_no_choice_is_more_even(
    held: list[list[int]], weights: list[Fraction], data: st.DataObject
) -> None:
    """Compared with every choice there is."""
    now = [data.draw(st.sampled_from([NOBODY, *nodes])) for nodes in held]
    leaders = spread_leaders(now, held, weights)
    assert all(leader in nodes for leader, nodes in zip(leaders, held, strict=True))
    assert cost(leaders, weights) == min(cost(each, weights) for each in product(*held))
    assert spread_leaders(leaders, held, weights) == leaders


def test_who_leads_stays_as_long_as_that_is_even() -> None:
    held = [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert spread_leaders([1, 0, 3, 2], held, ONES) == [1, 0, 3, 2]


def test_a_shard_without_a_leader_goes_to_who_leads_least() -> None:
    assert spread_leaders([0, NOBODY, 1], [[0, 1], [0, 1, 2], [1, 2]], ONES) == [0, 2, 1]


def test_leads_are_handed_on_where_the_idle_node_holds_nothing_of_the_busy_one() -> None:
    assert spread_leaders([0, 0, 1], [[0], [0, 1], [1, 2]], ONES) == [0, 1, 2]
