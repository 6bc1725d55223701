"""How long a move will take yet, by how fast its bytes have come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvstore.cli.movement import Movement
from kvstore.cli.pace import LOOK_BACK_S, Paces
from kvstore.ids import GroupId

MOVE = Movement(GroupId(1), "n4", "n2", "snapshot", 100, 1000)


def at(sent: int, stage: str = "snapshot") -> Movement:
    return replace(MOVE, bytes_sent=sent, stage=stage)


def test_one_look_tells_nothing_and_the_second_how_long_it_will_be() -> None:
    paces = Paces()
    (first,) = paces.timed([at(100)], 50.0)
    assert first.eta_s is None
    (second,) = paces.timed([at(300)], 52.0)
    assert second.eta_s == pytest.approx(7.0), "700 bytes are left, and 100 come each second"
    assert second.to_json()["eta_s"] == 7.0


def test_only_the_pace_of_late_counts() -> None:
    paces = Paces()
    paces.timed([at(0)], 0.0)
    paces.timed([at(500)], 1.0)
    (crawling,) = paces.timed([at(501)], 1.5 + LOOK_BACK_S)
    assert crawling.eta_s is None, "one sample is left"
    (crawling,) = paces.timed([at(502)], 2.5 + LOOK_BACK_S)
    assert crawling.eta_s == pytest.approx(498.0)


@pytest.mark.parametrize(
    "second",
    [
        at(100),
        at(50),
        at(300, "log"),
        replace(at(300), bytes_total=None),
        replace(at(300), is_begun=False),
        at(300, "switching"),
    ],
    ids=[
        "nothing came",
        "it began again",
        "another stage",
        "no total",
        "not begun",
        "all is there",
    ],
)
def test_what_cannot_be_told_is_not(second: Movement) -> None:
    paces = Paces()
    paces.timed([MOVE], 0.0)
    (found,) = paces.timed([second], 1.0)
    assert found == second
    assert found.to_json()["eta_s"] is None


def test_more_than_was_estimated_takes_no_time() -> None:
    paces = Paces()
    paces.timed([MOVE], 0.0)
    assert paces.timed([at(1200)], 1.0)[0].eta_s == 0.0


def test_a_move_that_was_gone_begins_anew() -> None:
    paces = Paces()
    paces.timed([MOVE], 0.0)
    assert paces.timed([], 1.0) == []
    assert paces.timed([at(300)], 2.0)[0].eta_s is None
