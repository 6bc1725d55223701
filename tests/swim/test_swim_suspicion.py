"""How long a suspect has, against values worked out by hand (Lifeguard section IV-B)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swim_solo import A, B, C, D, E, F

from kvstore.config import PROFILES
from kvstore.swim.suspicion import Suspicion, suspicion_timeout_s

CONFIG = dataclasses.replace(
    PROFILES["lan"], probe_interval_s=1.0, suspicion_mult=4.0, suspicion_max_mult=6.0
)


@pytest.mark.parametrize(
    ("confirmations", "wanted", "seconds"),
    [
        # From 30 down to 5: 30 - 25 · ln(c + 1) / ln(k + 1).
        (0, 3, 30.0),
        (1, 3, 17.5),  # ln 2 / ln 4 = 1/2
        (2, 3, 10.18797),  # ln 3 / ln 4 = 0.792481
        (3, 3, 5.0),
        (9, 3, 5.0),  # more than were asked for
        (0, 1, 30.0),
        (1, 1, 5.0),
        (1, 7, 21.66667),  # ln 2 / ln 8 = 1/3
        (3, 7, 13.33333),  # 2/3
        (7, 7, 5.0),
        (0, 0, 5.0),  # nobody else could confirm
    ],
)
def test_the_formula(confirmations: int, wanted: int, seconds: float) -> None:
    timeout_s = suspicion_timeout_s(confirmations, wanted, 5.0, 30.0)
    assert timeout_s == pytest.approx(seconds, abs=1e-5)


@given(st.integers(0, 20), st.integers(0, 10), st.floats(0.1, 10.0), st.floats(1.0, 10.0))
def test_it_stays_within_its_ends_and_falls_with_each_accuser(
    confirmations: int, wanted: int, min_s: float, mult: float
) -> None:
    timeout_s = suspicion_timeout_s(confirmations, wanted, min_s, min_s * mult)
    assert min_s <= timeout_s <= min_s * mult
    assert suspicion_timeout_s(confirmations + 1, wanted, min_s, min_s * mult) <= timeout_s


@pytest.mark.parametrize(
    ("members", "alone_s", "confirmed_s"),
    [
        # mult 4, interval 1 s, max = 6 · min; log10(N) counts from N = 10 on.
        (2, 4.0, 4.0),  # k = N - 2 = 0: there is nobody else to ask
        (3, 24.0, 4.0),  # k = 1
        (10, 24.0, 4.0),
        (100, 48.0, 8.0),
        (1000, 72.0, 12.0),
    ],
)
def test_it_grows_with_the_cluster(members: int, alone_s: float, confirmed_s: float) -> None:
    suspicion = Suspicion(A, members, CONFIG, 100.0)
    assert suspicion.deadline == pytest.approx(100.0 + alone_s)
    for accuser in (B, C, D):
        suspicion.confirm(accuser)
    assert suspicion.deadline == pytest.approx(100.0 + confirmed_s)


def test_each_accuser_counts_once_and_only_so_many_are_news() -> None:
    suspicion = Suspicion(A, 100, CONFIG, 0.0)
    assert [suspicion.confirm(who) for who in (A, B, B, C, D, E, F)] == [
        *(False, True, False, True, True),
        *(False, False),  # three others were asked for
    ]


def test_in_a_small_cluster_fewer_others_are_enough() -> None:
    suspicion = Suspicion(A, 4, CONFIG, 0.0)
    assert suspicion.confirm(B)
    assert suspicion.deadline > 4.0
    assert suspicion.confirm(C)
    assert suspicion.deadline == pytest.approx(4.0)
    assert not suspicion.confirm(D)
