"""The table shows what was measured, and a broken promise is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from elasticity.balance import Balance
from elasticity.ledger import Findings
from elasticity.rows import Row
from elasticity.samples import Sample, summarise
from elasticity.table import (
    HEADER,
    Outcome,
    broken_bounds,
    broken_figures,
    broken_rows,
    cells,
    figures,
    markdown,
    notes,
    plain,
)

STEADY = summarise([Sample(0.0, 0.0, 0.002, 0, is_write=True)])
SLOW = summarise([Sample(0.0, 0.0, 0.040, 1, is_write=True)])
FAILED = summarise([Sample(0.0, 0.0, 5.0, 1, is_write=True, error="Unavailable")])
NOTHING = summarise(())
GOOD = Row(
    name="3 → 4",
    is_planned=True,
    seconds=4.71,
    leaders_s=11.0,
    bytes_moved=40_000_000,
    bytes_ideal=39_000_000,
    others_cores=0.3,
    before=STEADY,
    starting=NOTHING,
    during=SLOW,
    settling=STEADY,
    after=STEADY,
    findings=Findings(200_000),
    wrong_reads=0,
    is_equal=True,
)
EVEN = Balance(64, {"n1": 100, "n2": 110}, {"n1": 1000, "n2": 1100})
UNEVEN = Balance(64, {"n1": 100, "n2": 200}, {"n1": 1000, "n2": 1000})
OUTCOME = Outcome((GOOD,), EVEN, EVEN, 0.5)


def test_a_row_shows_what_was_measured() -> None:
    assert dict(zip(HEADER, cells(GOOD), strict=True)) == {
        "phase": "3 → 4",
        "s": "4.7",
        "leaders s": "11.0",
        "moved": "40.0 MB",
        "ideal": "39.0 MB",
        "pause ms": "40",
        "p99 before": "2.0",
        "start": "-",
        "during": "40.0",
        "times": "20.0",
        "after": "2.0",
        "errors": "0",
        "lost": "0",
        "twice": "0",
        "replicas": "equal",
    }


def test_the_pause_is_the_longest_until_the_leaders_rest_too() -> None:
    assert replace(GOOD, during=STEADY, settling=SLOW).pause_ms == 40.0
    assert replace(GOOD, after=SLOW, during=STEADY).pause_ms == 2.0


def test_plain_columns_are_aligned() -> None:
    assert plain(("a", "bb"), [("ccc", "1"), ("→", "22")]) == [
        "a    bb",
        "ccc   1",
        "→    22",
    ]


def test_markdown_is_a_table() -> None:
    assert markdown(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --: |", "| 1 | 2 |"]


def test_a_good_row_breaks_no_promise() -> None:
    assert broken_rows([GOOD]) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (replace(GOOD, settling=FAILED), "3 → 4: callers got errors: 1 Unavailable"),
        (replace(GOOD, findings=Findings(9, lost=2)), "3 → 4: 2 keys lost"),
        (replace(GOOD, findings=Findings(9, duplicated=1)), "3 → 4: 1 keys twice in a scan"),
        (replace(GOOD, findings=Findings(9, foreign=1)), "that nobody wrote"),
        (replace(GOOD, wrong_reads=3), "3 → 4: 3 gets with a wrong answer"),
        (replace(GOOD, is_equal=False), "3 → 4: replicas differ"),
        (replace(GOOD, is_equal=None), "3 → 4: not all replicas could be compared"),
    ],
)
def test_a_broken_promise_is_said(row: Row, said: str) -> None:
    (sentence,) = broken_rows([GOOD, row])
    assert said in sentence


def test_what_is_usual_is_the_higher_of_before_and_after() -> None:
    assert replace(GOOD, after=SLOW).slowdown == replace(GOOD, before=SLOW).slowdown == 1.0
    assert replace(GOOD, before=NOTHING, after=NOTHING).slowdown == 0.0


def test_a_bound_that_was_not_kept_is_said() -> None:
    assert broken_bounds([replace(GOOD, during=STEADY), replace(GOOD, is_planned=False)]) == []
    assert broken_bounds([replace(GOOD, bytes_moved=0, bytes_ideal=0)]) == [], "a restart"
    assert broken_bounds([GOOD]) == ["3 → 4: p99 was 20.0 times its usual value, over 2"]
    (much,) = broken_bounds([replace(GOOD, during=STEADY, bytes_moved=60_000_000)])
    assert much == "3 → 4: 60.0 MB moved, over 1.5 times the ideal"


def test_errors_may_come_of_what_nobody_planned() -> None:
    row = replace(GOOD, is_planned=False, during=FAILED)
    assert broken_rows([row]) == []
    assert "1 (not planned)" in cells(row)


def test_balance_and_placement_have_bounds() -> None:
    assert broken_figures(OUTCOME) == []
    (uneven,) = broken_figures(replace(OUTCOME, founded=UNEVEN))
    assert "max/mean of keys 1.333" in uneven
    (slow,) = broken_figures(replace(OUTCOME, placement_s=2.0))
    assert "placement took 2.00 s" in slow


def test_what_is_said_below_and_in_the_file_is_what_was_measured() -> None:
    assert any("200,000 keys" in line for line in notes(OUTCOME.rows))
    assert any("Other programs used 0.3 to 0.3 cores" in line for line in notes(OUTCOME.rows))
    below = "\n".join(figures(OUTCOME))
    assert "64 shards on 2 nodes: max/mean 1.048 of keys" in below
    assert "placement of 10,000 shards on 1,000 nodes: 0.50 s of one core" in below
    said = OUTCOME.to_json()
    assert said["phases"][0]["during"]["p99_ms"] == 40.0
    assert said["broken"] == broken_bounds([GOOD])
