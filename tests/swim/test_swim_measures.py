"""The figures measure what they say: on a small cluster they are as they must be."""

from __future__ import annotations

import pytest
from swim_hardships import Clogged
from swim_measures import LIFEGUARD, PLAIN_SWIM, Measured, size_of, wronged
from swim_solo import A, B, claim, gossip, push_pull


def test_a_death_is_suspected_then_found_then_known() -> None:
    death = Measured(8, seed=1).death()
    assert 1.0 < death.suspected_s <= death.all_suspect_s < death.found_s <= death.all_know_s
    assert death.load.messages > 2.0


def test_an_idle_member_sends_a_ping_and_an_answer_each_second() -> None:
    idle = Measured(8, seed=1).idle()
    assert idle.messages == pytest.approx(2.0, rel=0.1)
    assert 0.0 < idle.views_bytes < idle.size_bytes


def test_one_cluster_can_bear_many_deaths() -> None:
    cluster = Measured(8, seed=1)
    assert len({cluster.death().suspected_s for _ in range(4)}) == 4


def test_lifeguard_saves_those_whom_swim_alone_wrongs() -> None:
    alone = wronged(12, 1, Clogged, PLAIN_SWIM, seed=1)
    saved = wronged(12, 1, Clogged, LIFEGUARD, seed=1)
    assert alone.dead_told >= alone.dead > 0
    assert alone.dead_told >= alone.dead_told_healthy
    assert saved.dead_told * 10 < alone.dead_told
    assert saved.suspected < alone.suspected


def test_sizes_grow_with_what_is_said() -> None:
    said = size_of(gossip(B, claim(A))) - size_of(gossip(B))
    assert 0 < said <= claim(A).size_bytes
    assert size_of(push_pull(B, claim(A), claim(B))) > size_of(push_pull(B)) + 2 * said
