"""From what a crash left: every case of ``kvstore.server.recovery``."""

from __future__ import annotations

import pytest
from server_support import FakeEngine, batch, command

from kvstore.errors import CorruptionError
from kvstore.ids import NO_REPLICA, GroupId, LogIndex, ReplicaId, ShardId, Term
from kvstore.kv.state_machine import StateMachine
from kvstore.raft import confchange
from kvstore.raft.core import RecoveredGroup
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, HardState, SnapshotMeta
from kvstore.server import recovery
from kvstore.storage import records, stays
from kvstore.storage.records import RecordType
from kvstore.storage.replay import LogEntry, Mark, RecoveredLog

GROUP = GroupId(1)
INITIAL = GroupConfig(tuple(map(ReplicaId, (1, 2, 3))))
LATER = GroupConfig(tuple(map(ReplicaId, (1, 2))))


def machine_at(index: int, engine: FakeEngine, term: int = 1) -> StateMachine:
    """A state machine that has applied ``index`` entries, and an engine that has them flushed."""
    machine = StateMachine(ShardId(0), engine, owns=lambda key: True)
    into = engine.batch()
    for at in range(1, index + 1):
        machine.apply(at, term, command(at, term, b"%d" % at).payload)
    machine.flush(into)
    engine.write(into)
    machine.written()
    engine.writes = 0
    return machine


def log_of(first: int, last: int, term: int = 1, mark: int = 0, mark_term: int = 1) -> RecoveredLog:
    entries = [
        LogEntry(index, term, EntryKind.COMMAND, command(index, term, b"%d" % index).payload)
        for index in range(first, last + 1)
    ]
    marked = Mark(mark, mark_term, confchange.encode(LATER)) if mark else None
    return RecoveredLog(term=term, vote=2, mark=marked, entries=entries, end=last)


def recover(
    machine: StateMachine, engine: FakeEngine, log: RecoveredLog | None, *, installed: int = 0
) -> RecoveredGroup:
    return recovery.recover_group(
        GROUP, INITIAL, machine, engine, log, lambda _group: LogIndex(installed)
    )


def indexes(recovered: RecoveredGroup) -> list[int]:
    return [entry.index for entry in recovered.entries]


def test_a_new_group() -> None:
    engine = FakeEngine()
    recovered = recover(machine_at(0, engine), engine, None)
    assert recovered == RecoveredGroup(
        HardState(Term(0), NO_REPLICA), SnapshotMeta(LogIndex(0), Term(0), INITIAL), (), LogIndex(0)
    )
    assert recovery.marks_missing(GROUP, recovered.base, None) == []


def test_a_log_without_a_mark_is_the_cores_to_judge() -> None:
    engine = FakeEngine()
    machine = machine_at(2, engine)
    recovered = recover(machine, engine, log_of(1, 5))
    assert recovered.hard_state == HardState(Term(1), ReplicaId(2))
    assert (recovered.base.index, recovered.base.config) == (0, INITIAL)
    assert (indexes(recovered), recovered.applied_index) == ([1, 2, 3, 4, 5], 2)
    assert engine.writes == 0, "nobody has said that the rest is committed"


def test_what_the_mark_proves_to_be_committed_is_applied_again() -> None:
    engine = FakeEngine()
    machine = machine_at(2, engine)
    recovered = recover(machine, engine, log_of(1, 6, mark=4))
    assert machine.applied_index == recovered.applied_index == 4
    assert machine.get_many([b"k"]) == [(b"4", 4)]
    assert (recovered.base, indexes(recovered)) == (
        SnapshotMeta(LogIndex(4), Term(1), LATER),
        [5, 6],
    )


def test_applying_again_goes_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "REPLAY_BATCH_BYTES", 1)
    engine = FakeEngine()
    recover(machine_at(0, engine), engine, log_of(1, 3, mark=3))
    assert engine.writes == 3


def test_configurations_and_first_entries_are_applied_again_too() -> None:
    engine = FakeEngine()
    machine = machine_at(0, engine)
    log = RecoveredLog(
        term=1,
        vote=1,
        mark=Mark(3, 1, confchange.encode(LATER)),
        entries=[
            LogEntry(1, 1, EntryKind.NOOP, b""),
            LogEntry(2, 1, EntryKind.CONFIG, confchange.encode(LATER)),
            LogEntry(3, 1, EntryKind.COMMAND, command(3).payload),
        ],
        end=3,
    )
    recover(machine, engine, log)
    assert machine.applied_index == 3
    assert confchange.decode(machine.config_bytes) == LATER


def test_an_engine_ahead_of_its_mark_but_within_the_log() -> None:
    engine = FakeEngine()
    recovered = recover(machine_at(5, engine), engine, log_of(1, 8, mark=3))
    assert (recovered.base.index, recovered.applied_index) == (3, 5)
    assert indexes(recovered) == [4, 5, 6, 7, 8]


def test_an_engine_ahead_of_the_whole_log_was_replaced_by_a_snapshot() -> None:
    engine = FakeEngine()
    recovered = recover(machine_at(9, engine), engine, log_of(1, 5, mark=3), installed=9)
    assert (recovered.base.index, recovered.base.term, recovered.applied_index) == (9, 1, 9)
    assert recovered.entries == ()
    assert recovered.hard_state.vote == 2, "what the log says of votes still holds"


def test_a_log_that_contradicts_the_engine_was_replaced_by_a_snapshot() -> None:
    engine = FakeEngine()
    log = log_of(1, 8, term=1)
    recovered = recover(machine_at(4, engine, term=2), engine, log, installed=4)
    assert (recovered.base.index, recovered.base.term) == (4, 2)
    assert recovered.entries == ()


@pytest.mark.parametrize("installed", [0, 8])
@pytest.mark.parametrize("log", [None, log_of(1, 5, mark=3), log_of(1, 9, term=2)])
def test_a_log_that_fell_behind_its_engine_is_corruption(
    log: RecoveredLog | None, installed: int
) -> None:
    engine = FakeEngine()
    with pytest.raises(CorruptionError, match="group 1: entry 9 was applied from this log, which"):
        recover(machine_at(9, engine), engine, log, installed=installed)


def test_the_snapshots_own_configuration_is_kept() -> None:
    engine = FakeEngine()
    machine = machine_at(0, engine)
    into = engine.batch()
    machine.apply_config(1, 1, confchange.encode(LATER))
    machine.flush(into)
    engine.write(into)
    machine.written()
    assert recover(machine, engine, None, installed=1).base.config == LATER


def test_entries_under_a_mark_of_another_term_are_obsolete() -> None:
    engine = FakeEngine()
    recovered = recover(
        machine_at(4, engine, term=2), engine, log_of(1, 6, term=1, mark=4, mark_term=2)
    )
    assert (recovered.base.index, recovered.base.term) == (4, 2)
    assert indexes(recovered) == []


def test_what_came_after_such_a_mark_continues_it() -> None:
    engine = FakeEngine()
    log = log_of(1, 4, term=1, mark=4, mark_term=2)
    log.entries.append(LogEntry(5, 2, EntryKind.COMMAND, command(5, 2).payload))
    recovered = recover(machine_at(4, engine, term=2), engine, log)
    assert (recovered.base.index, indexes(recovered)) == (4, [5])


def test_a_mark_beyond_what_engine_and_log_have_is_corruption() -> None:
    engine = FakeEngine()
    with pytest.raises(CorruptionError, match="entries 3 to 7"):
        recover(machine_at(2, engine), engine, log_of(8, 7, mark=7))


def test_a_gap_between_engine_and_log_is_corruption() -> None:
    engine = FakeEngine()
    with pytest.raises(CorruptionError, match="entries 3 to 4"):
        recover(machine_at(2, engine), engine, log_of(5, 9, mark=6))


def test_a_gap_behind_the_mark_is_corruption() -> None:
    engine = FakeEngine()
    with pytest.raises(CorruptionError, match="entries 4 to 5"):
        recover(machine_at(3, engine), engine, log_of(6, 9, mark=3))


def test_a_log_that_does_not_begin_at_its_beginning_is_corruption() -> None:
    engine = FakeEngine()
    with pytest.raises(CorruptionError):
        recover(machine_at(0, engine), engine, log_of(2, 3))


def test_what_was_recovered_is_recovered_again_the_same() -> None:
    engine = FakeEngine()
    machine = machine_at(2, engine)
    first = recover(machine, engine, log_of(1, 6, mark=4))
    again = StateMachine(ShardId(0), engine, owns=lambda key: True)
    assert recover(again, engine, log_of(1, 6, mark=4)) == first


def test_a_mark_that_a_crash_swallowed_is_written_now() -> None:
    base = SnapshotMeta(LogIndex(9), Term(2), LATER)
    mark, cut = recovery.marks_missing(GROUP, base, log_of(1, 5, mark=3))
    assert records.peek(mark)[:4] == (RecordType.MARK, GROUP, 9, 2)
    assert records.peek(cut)[:3] == (RecordType.TRUNCATION, GROUP, 10)
    assert confchange.decode(bytes(records.payload_of(mark))) == LATER


@pytest.mark.parametrize("mark", [9, 12])
def test_a_mark_that_is_there_is_not_written_again(mark: int) -> None:
    base = SnapshotMeta(LogIndex(9), Term(2), LATER)
    assert recovery.marks_missing(GROUP, base, log_of(1, 5, mark=mark)) == []


def test_an_entry_of_the_log_is_the_cores_entry() -> None:
    engine = FakeEngine()
    (entry,) = recover(machine_at(0, engine), engine, log_of(1, 1)).entries
    assert entry == Entry(LogIndex(1), Term(1), EntryKind.COMMAND, command(1, 1, b"1").payload)
    assert batch(b"k", b"1") in entry.payload


def test_an_engine_that_began_anew_is_not_ahead_of_the_new_replicas_log() -> None:
    engine = FakeEngine()
    machine_at(9, engine)
    stays.begin(engine, GROUP, ReplicaId(1 << 16 | 1))
    machine = StateMachine(ShardId(0), engine, owns=lambda key: True)
    recovered = recover(machine, engine, RecoveredLog(replica=1 << 16 | 1))
    assert (recovered.base.index, recovered.applied_index, recovered.entries) == (0, 0, ())
    assert recovered.hard_state == HardState(Term(0), NO_REPLICA)
