from __future__ import annotations

from fractions import Fraction

from placement_rules import member

from kvstore.sharding.loads import Level, load_max, scaled, shares


def test_shares_follow_weights_until_a_node_would_hold_a_shard_twice() -> None:
    assert shares([member(1, 1.0), member(2, 3.0), member(3, 96.0)], 8, 2) == {
        "n3": 8,
        "n2": Fraction(6),
        "n1": Fraction(2),
    }


def test_the_bound_is_exact() -> None:
    assert load_max(Fraction(10), 64) == 11
    assert load_max(Fraction(41, 4), 64) == 12
    assert load_max(Fraction(10), 8) == 8


def test_scaled_numbers_are_in_proportion() -> None:
    assert scaled([Fraction(1, 2), Fraction(2, 3), Fraction(5)]) == ([3, 4, 30], 6)


def test_a_node_may_hold_a_little_less_or_more_than_its_share() -> None:
    level = Level([Fraction(3, 2), Fraction(4), Fraction(123, 2)], 64)
    assert level.low == [1, 4, 61]
    assert level.high == [2, 4, 62]
    assert level.least == [1, 3, 57]
    assert level.most == [2, 5, 64]
    assert level.slack == 5


def test_there_is_no_slack_with_one_replica_a_shard() -> None:
    level = Level([Fraction(32)] * 2, 64)
    assert level.least == level.low == level.high == level.most
    assert level.slack == 0


def test_excess_is_in_one_unit_for_all() -> None:
    level = Level([Fraction(3, 2), Fraction(5, 3)], 64)
    assert level.excess(0, 2) == 3
    assert level.excess(1, 2) == 2
    assert level.excess(1, 1) == -4
