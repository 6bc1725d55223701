"""From records to what a group knew; and that a segment's start can stand for all before it."""

from __future__ import annotations

import random

import pytest

from kvstore.storage import records
from kvstore.storage.ledger import VOIDS, Ledger
from kvstore.storage.records import RecordType, read_record
from kvstore.storage.replay import LogEntry, Mark, RecoveredLog, Replay


def decoded(record: bytes) -> records.Record:
    found = read_record(memoryview(record), 0, len(record))
    assert found is not None
    return found


def replay(*written: bytes, applied: dict[int, int] | None = None) -> RecoveredLog:
    found = Replay(applied or {})
    for record in written:
        assert found.take(decoded(record)) is None
    return found.logs[1]


def entry(index: int, term: int = 1, payload: bytes = b"") -> bytes:
    return records.encode_entry(1, index, term, 0, payload)


def entries(first: int, last: int, term: int = 1) -> list[bytes]:
    return [entry(index, term) for index in range(first, last + 1)]


def indexes(log: RecoveredLog) -> list[tuple[int, int]]:
    return [(found.index, found.term) for found in log.entries]


def test_entries_follow_one_another() -> None:
    log = replay(entry(1, 1, b"a"), entry(2, 1, b"b"))
    assert log.entries == [LogEntry(1, 1, 0, b"a"), LogEntry(2, 1, 0, b"b")]
    assert log.end == 2


def test_an_entry_replaces_what_stood_at_its_index_and_beyond() -> None:
    log = replay(*entries(1, 5), entry(3, 2))
    assert indexes(log) == [(1, 1), (2, 1), (3, 2)]
    assert log.end == 3


def test_a_truncation_ends_the_log_before_its_index() -> None:
    log = replay(*entries(1, 5), records.encode_truncation(1, 4))
    assert indexes(log) == [(1, 1), (2, 1), (3, 1)]
    assert log.end == 3
    same = replay(*entries(1, 3), records.encode_truncation(1, 4))
    assert same == log


def test_a_gap_is_wrong() -> None:
    found = Replay({})
    found.take(decoded(entry(1)))
    assert "entry 3 right after entry 1" in str(found.take(decoded(entry(3))))


def test_an_unknown_type_is_wrong() -> None:
    found = Replay({})
    assert "unknown type" in str(found.take(decoded(records.encode_close(1, 1))))


def test_an_entry_without_a_kind_is_wrong() -> None:
    record = decoded(records.encode_truncation(1, 1))
    record.type = RecordType.ENTRY
    assert "no kind" in str(Replay({}).take(record))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_highest_term_and_the_vote_in_it_count_in_any_order(order: tuple[int, ...]) -> None:
    states = [(1, 2), (2, 0), (3, 0), (3, 5)]
    log = replay(*(records.encode_hard_state(1, *states[i]) for i in order))
    assert (log.term, log.vote) == (3, 5)


def test_a_mark_keeps_the_entries_around_it() -> None:
    log = replay(*entries(1, 5), records.encode_mark(1, 3, 1, b"config"))
    assert log.mark == Mark(3, 1, b"config")
    assert [index for index, _ in indexes(log)] == [1, 2, 3, 4, 5]
    assert log.missing() is None


def test_a_mark_never_goes_back() -> None:
    log = replay(
        *entries(1, 5), records.encode_mark(1, 4, 1, b"new"), records.encode_mark(1, 2, 1, b"old")
    )
    assert log.mark == Mark(4, 1, b"new")


def test_a_snapshot_beyond_the_end_replaces_the_log() -> None:
    log = replay(*entries(1, 5), records.encode_mark(1, 9, 2, b""), entry(10, 2))
    assert indexes(log) == [(10, 2)]
    assert log.missing() is None


def test_a_snapshot_that_contradicts_the_log_replaces_it() -> None:
    log = replay(*entries(1, 5), records.encode_mark(1, 3, 2, b""))
    assert log.entries == []
    assert log.end == 3
    assert log.missing() is None


def test_a_snapshot_with_its_truncation_replaces_the_log() -> None:
    log = replay(*entries(1, 5), records.encode_truncation(1, 4), records.encode_mark(1, 3, 1, b""))
    assert log.end == 3


def test_entries_below_mark_and_applied_state_are_not_kept() -> None:
    mark = records.encode_mark(1, 4, 1, b"")
    assert indexes(replay(*entries(1, 6), mark, applied={1: 9}))[0] == (4, 1)
    assert indexes(replay(*entries(1, 6), mark, applied={1: 2}))[0] == (2, 1)
    assert indexes(replay(*entries(1, 6), mark, applied={2: 9}))[0] == (1, 1)


def test_entries_that_must_be_there_and_are_not() -> None:
    found = Replay({})
    found.log_end(decoded(records.encode_log_end(1, 7)))
    assert found.logs[1].missing() == (1, 7)
    for record in entries(8, 9):
        assert found.take(decoded(record)) is None
    assert found.logs[1].missing() == (1, 7)
    assert found.take(decoded(records.encode_mark(1, 5, 1, b""))) is None
    assert found.logs[1].missing() == (6, 7)
    assert found.take(decoded(records.encode_mark(1, 8, 1, b""))) is None
    assert found.logs[1].missing() is None


def replica(number: int) -> bytes:
    return records.encode_replica(1, number)


BEFORE = (
    records.encode_hard_state(1, 9, 3),
    *entries(1, 5),
    records.encode_mark(1, 4, 1, b"config"),
)
"""What an earlier replica of the group wrote."""


@pytest.mark.parametrize("earlier", [(), (replica(7),)], ids=["founded here", "came"])
def test_what_stands_before_a_replica_is_void(earlier: tuple[bytes, ...]) -> None:
    assert replay(*earlier, *BEFORE, replica(8)) == RecoveredLog(replica=8)
    log = replay(*earlier, *BEFORE, replica(8), records.encode_hard_state(1, 1, 2), *entries(1, 2))
    assert (log.term, log.vote, log.mark, log.end) == (1, 2, None, 2)
    assert log.missing() is None


def test_a_group_that_has_left_is_not_there() -> None:
    found = Replay({})
    for record in (*BEFORE, records.encode_hard_state(2, 1, 1), replica(0), replica(0)):
        assert found.take(decoded(record)) is None
    assert found.logs.keys() == {2}
    assert found.take(decoded(replica(9))) is None
    assert found.logs[1] == RecoveredLog(replica=9)


def test_the_replica_that_the_group_has_already_makes_nothing_void() -> None:
    once = replay(replica(8), *BEFORE)
    assert replay(replica(8), *BEFORE, replica(8)) == once
    assert (once.replica, once.end, once.mark) == (8, 5, Mark(4, 1, b"config"))


def test_what_a_void_part_lacks_is_not_missed() -> None:
    """As when its first segments were released, for it held them no longer."""
    found = Replay({})
    found.log_end(decoded(records.encode_log_end(1, 7)))
    for record in entries(8, 9):
        assert found.take(decoded(record)) is None
    assert found.logs[1].missing() == (1, 7)
    for record in (replica(8), *entries(1, 2)):
        assert found.take(decoded(record)) is None
    assert found.logs[1].missing() is None


@pytest.mark.parametrize(
    ("held", "first"), [({}, 1), ({1: 7}, 1), ({1: 8}, 4), ({2: 8}, 1)], ids=str
)
def test_only_what_was_applied_as_the_same_replica_counts(held: dict[int, int], first: int) -> None:
    found = Replay({1: 9}, held)
    for record in (replica(7), *BEFORE, replica(8), *entries(1, 6), BEFORE[-1]):
        assert found.take(decoded(record)) is None
    assert indexes(found.logs[1])[0] == (first, 1)


def test_a_checkpoint_says_first_which_replicas_there_are() -> None:
    ledger = Ledger({3: RecoveredLog(term=1, end=4, replica=30)})
    for record in (replica(8), *BEFORE, records.encode_hard_state(2, 1, 1)):
        ledger.note(record)
    found = [
        (RecordType(kind), group) for kind, group, *_ in map(records.peek, ledger.checkpoint())
    ]
    assert found[:2] == [(RecordType.REPLICA, 3), (RecordType.REPLICA, 1)]
    assert sorted(found[2:], key=str) == sorted(
        [
            *((RecordType.HARD_STATE, group) for group in (1, 2, 3)),
            *((RecordType.LOG_END, group) for group in (1, 3)),
            (RecordType.MARK, 1),
        ],
        key=str,
    )


def test_a_checkpoint_says_nothing_of_a_group_that_has_left() -> None:
    ledger = Ledger({})
    for record in (replica(8), *BEFORE, replica(0)):
        ledger.note(record)
    assert ledger.checkpoint() == []
    assert ledger.mark_index(1) == 0


def test_a_ledger_tells_what_is_void() -> None:
    ledger = Ledger({})
    told = [ledger.note(record) for record in (entry(1), replica(8), replica(8), replica(0))]
    assert told == [1, VOIDS, 0, VOIDS]


@pytest.mark.parametrize("seed", range(200))
def test_a_checkpoint_stands_for_all_before_it(seed: int) -> None:
    """Replaying checkpoint and rest ends like replaying all, but for entries before it."""
    rng = random.Random(seed)
    history = random_history(rng)
    cut = rng.randint(0, len(history))
    ledger = Ledger({})
    for record in history[:cut]:
        ledger.note(record)
    whole, rest = Replay({}), Replay({})
    for record in ledger.checkpoint():
        if decoded(record).type == RecordType.LOG_END:
            rest.log_end(decoded(record))
        else:
            assert rest.take(decoded(record)) is None
    for record in history:
        assert whole.take(decoded(record)) is None
    for record in history[cut:]:
        assert rest.take(decoded(record)) is None
    assert whole.logs.keys() == rest.logs.keys()
    for group, log in whole.logs.items():
        found = rest.logs[group]
        assert (found.term, found.vote, found.mark) == (log.term, log.vote, log.mark)
        assert (found.end, found.replica) == (log.end, log.replica)
        assert found.entries == log.entries[len(log.entries) - len(found.entries) :]


def random_history(rng: random.Random) -> list[bytes]:
    """What a group may write: marks stand for entries that are in the log."""
    model = Replay({})
    history: list[bytes] = []
    for number in range(rng.randint(0, 60)):
        group = rng.randint(1, 2)
        log = model.logs.get(group, RecoveredLog())
        low = log.mark.index if log.mark else 0
        match rng.randint(0, 5 if rng.random() < 0.3 else 4):
            case 5:
                record = records.encode_replica(group, rng.choice((number, log.replica, 0)))
            case 0:
                record = records.encode_hard_state(group, log.term + rng.randint(0, 1), log.vote)
            case 1 if log.end > low:
                index = rng.randint(low + 1, log.end)
                term = next(found.term for found in log.entries if found.index == index)
                record = records.encode_mark(group, index, term, rng.randbytes(3))
            case 2 if log.end > low:
                record = records.encode_truncation(group, rng.randint(low + 1, log.end))
            case _:
                index = rng.randint(low + 1, log.end + 1)
                record = records.encode_entry(group, index, log.term, 0, rng.randbytes(3))
        assert model.take(decoded(record)) is None
        history.append(record)
    return history
