"""News: how often, in what order and how much of it at a time (SWIM sections 4.1 and 5)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swim_solo import A, B, C, D, claim

from kvstore.ids import NodeId
from kvstore.swim.broadcasts import Broadcasts, retransmits
from kvstore.swim.claims import State

PLENTY = 10_000
ONE = claim(A).size_bytes
"""Bytes; the claims of this file differ by an accuser at most."""


@pytest.mark.parametrize(
    ("members", "times"),
    [(1, 4), (2, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)],
)
def test_each_is_sent_so_often_as_the_epidemic_needs(members: int, times: int) -> None:
    assert retransmits(4, members) == times
    news = Broadcasts(4)
    news.add(claim(A))
    sent = 0
    while news.take(PLENTY, members):
        sent += 1
    assert sent == times
    assert len(news) == 0


def test_what_was_sent_least_goes_first_and_of_that_the_newest() -> None:
    news = Broadcasts(4)
    news.add(claim(A))
    assert news.take(ONE, 2) == (claim(A),)
    news.add(claim(B))
    news.add(claim(C))
    assert news.take(2 * ONE, 2) == (claim(C), claim(B))
    news.add(claim(D))
    assert news.take(ONE, 2) == (claim(D),)


def test_what_does_not_fit_waits_and_smaller_news_goes_instead() -> None:
    news = Broadcasts(4)
    large, small = claim(A, State.SUSPECT, accuser=NodeId("long-name")), claim(B)
    news.add(small)
    news.add(large)
    assert news.take(small.size_bytes, 2) == (small,)
    assert news.take(large.size_bytes, 2) == (large,)


def test_of_a_suspect_each_accuser_is_told_until_something_outdoes_them() -> None:
    news = Broadcasts(4)
    accused = [claim(A, State.SUSPECT, accuser=accuser) for accuser in (B, C, D)]
    for said in (claim(A), *accused, accused[0]):
        news.add(said)
    assert set(news.take(PLENTY, 2)) == set(accused)
    assert news.take(PLENTY, 2, first=accused[1])[0] == accused[1]
    assert len(news.take(PLENTY, 2, first=accused[1])) == 3, "none is told twice"
    news.add(claim(B))
    news.add(claim(A, incarnation=2))
    assert set(news.take(PLENTY, 2)) == {claim(A, incarnation=2), claim(B)}
    news.add(claim(A, State.SUSPECT, 2, accuser=B))
    news.discard(A)
    assert news.take(PLENTY, 2) == (claim(B),)


def test_newer_news_of_a_member_replaces_older_and_begins_anew() -> None:
    news = Broadcasts(1)
    news.add(claim(A))
    news.add(claim(A, State.SUSPECT, accuser=B))
    assert news.take(PLENTY, 10) == (claim(A, State.SUSPECT, accuser=B),)
    news.add(claim(A, incarnation=2))
    assert [news.take(PLENTY, 10) for _ in range(3)] == [
        *((claim(A, incarnation=2),),) * 2,
        (),
    ]


def test_what_has_to_go_first_goes_first_and_takes_its_room() -> None:
    news = Broadcasts(4)
    news.add(claim(A))
    news.add(claim(B))
    first = claim(C)
    assert news.take(2 * ONE, 2, first) == (first, claim(B))
    assert news.take(PLENTY, 2, first) == (first, claim(A), claim(B))


def test_what_has_to_go_first_does_not_go_twice_but_counts() -> None:
    news = Broadcasts(1)
    news.add(claim(A))
    assert news.take(PLENTY, 2, claim(A)) == (claim(A),)
    assert len(news) == 0
    assert news.take(PLENTY, 2, claim(A)) == (claim(A),)


def test_it_can_be_dropped() -> None:
    news = Broadcasts(4)
    news.add(claim(A))
    news.discard(A)
    news.discard(B)
    assert news.take(PLENTY, 2) == ()


@given(
    st.lists(st.sampled_from("abcdefghijkl"), unique=True),
    st.integers(ONE, 5 * ONE),
    st.integers(1, 2000),
    st.integers(1, 5),
)
def test_all_is_sent_equally_often_within_the_bound(
    names: list[str], bytes_max: int, members: int, mult: int
) -> None:
    news = Broadcasts(mult)
    for name in names:
        news.add(claim(NodeId(name)))
    sent: Counter[str] = Counter()
    while taken := news.take(bytes_max, members):
        assert sum(one.size_bytes for one in taken) <= bytes_max
        sent.update(one.node for one in taken)
        spread = [sent[name] for name in names]
        assert max(spread) - min(spread) <= 1
    assert sent == dict.fromkeys(names, retransmits(mult, members))
