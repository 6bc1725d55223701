"""What a whole scan is held against: nothing lost, nothing twice, unknown outcomes allowed."""

from __future__ import annotations

import pytest
from elasticity.ledger import VALUE_BYTES, Findings, Ledger, key_of, value_of

KEYS = 4


def write(ledger: Ledger, number: int) -> int:
    begun = ledger.begin(number)
    assert begun is not None
    ledger.acknowledge(number, begun)
    return begun


def attempt(ledger: Ledger, number: int, *, may_have_applied: bool) -> int:
    begun = ledger.begin(number)
    assert begun is not None
    ledger.fail(number, begun, may_have_applied=may_have_applied)
    return begun


@pytest.fixture
def ledger() -> Ledger:
    """Key 0 was written by write 1 and so on."""
    filled = Ledger(KEYS)
    assert [write(filled, number) for number in range(KEYS)] == [1, 2, 3, 4]
    return filled


def rows(*writes: int) -> list[tuple[bytes, bytes]]:
    return [(key_of(n), value_of(n, number)) for n, number in enumerate(writes)]


def test_a_value_has_its_size_and_is_of_one_key_and_write() -> None:
    assert len(value_of(3, 7)) == VALUE_BYTES
    assert len({value_of(3, 7), value_of(3, 8), value_of(4, 7)}) == 3


def test_all_that_was_acknowledged_is_there(ledger: Ledger) -> None:
    assert ledger.compare(rows(1, 2, 3, 4)) == Findings(KEYS)
    assert Findings(KEYS).is_good


def test_a_missing_key_is_lost(ledger: Ledger) -> None:
    found = ledger.compare(rows(1, 2, 3))
    assert found == Findings(3, lost=1)
    assert not found.is_good


def test_an_older_value_is_a_lost_write(ledger: Ledger) -> None:
    assert write(ledger, 2) == 5
    assert ledger.compare(rows(1, 2, 3, 4)) == Findings(KEYS, lost=1)
    assert ledger.compare(rows(1, 2, 5, 4)) == Findings(KEYS)


def test_a_key_twice_is_counted_once_and_told(ledger: Ledger) -> None:
    found = ledger.compare([*rows(1, 2, 3, 4), *rows(1)])
    assert found == Findings(KEYS, duplicated=1)
    assert not found.is_good


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"other", b"x"),
        (key_of(KEYS), value_of(KEYS, 1)),
        (key_of(3), value_of(2, 4)),
        (key_of(3), b"x"),
        (key_of(3), value_of(3, 99)),
    ],
)
def test_what_nobody_wrote_is_foreign(ledger: Ledger, key: bytes, value: bytes) -> None:
    kept = [row for row in rows(1, 2, 3, 4) if row[0] != key]
    found = ledger.compare([*kept, (key, value)])
    assert (found.foreign, found.lost, found.is_good) == (1, 0, False)


def test_a_write_of_unknown_outcome_may_be_there_or_not_even_late(ledger: Ledger) -> None:
    assert attempt(ledger, 0, may_have_applied=True) == 5
    assert ledger.compare(rows(1, 2, 3, 4)) == Findings(KEYS, unknown=1)
    assert ledger.compare(rows(5, 2, 3, 4)) == Findings(KEYS, unknown=1)
    assert write(ledger, 0) == 6
    assert ledger.compare(rows(5, 2, 3, 4)) == Findings(KEYS, unknown=1)
    assert ledger.compare(rows(1, 2, 3, 4)) == Findings(KEYS, lost=1, unknown=1)


def test_a_write_that_was_refused_is_not_there(ledger: Ledger) -> None:
    assert attempt(ledger, 0, may_have_applied=False) == 5
    assert ledger.compare(rows(5, 2, 3, 4)) == Findings(KEYS, foreign=1)


def test_a_key_has_one_write_under_way_at_a_time(ledger: Ledger) -> None:
    begun = ledger.begin(1)
    assert begun is not None
    assert ledger.begin(1) is None
    assert ledger.begin(2) is not None
    ledger.acknowledge(1, begun)
    assert ledger.begin(1) is not None


def test_a_read_must_see_what_was_acknowledged_before_it_began(ledger: Ledger) -> None:
    floor = ledger.floor(1)
    assert not ledger.is_right(1, None, floor)
    assert ledger.is_right(1, value_of(1, 2), floor)
    newer = write(ledger, 1)
    assert ledger.is_right(1, value_of(1, newer), floor)
    assert ledger.is_right(1, value_of(1, 2), floor)
    assert not ledger.is_right(1, value_of(1, 2), ledger.floor(1))
    assert not ledger.is_right(1, value_of(1, newer + 1), floor)
    assert Ledger(1).is_right(0, None, 0)
