"""The log against a naive model: a list of terms, and a disk that writes in order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from raft_solo import R1, R2, R3, entries

from kvstore.ids import LogIndex, Term
from kvstore.raft import confchange
from kvstore.raft.log import RaftLog, size_of
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, SnapshotMeta

CONFIG = GroupConfig((R1, R2, R3))


class LogModel(RuleBasedStateMachine):
    """``model[i]`` is the entry at index ``i + 1``; ``disk`` is what ended writes made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.log = RaftLog(SnapshotMeta(LogIndex(0), Term(0), CONFIG), ())
        self.model: list[Entry] = []
        self.disk: list[Entry] = []
        self.writes: list[tuple[Entry, ...]] = []
        self.base = 0
        self.is_handed_out = True

    @rule(more=st.integers(1, 4), rise=st.integers(0, 2))
    def append(self, more: int, rise: int) -> None:
        term = (self.model[-1].term if self.model else 1) + rise
        new = [self._entry(len(self.model) + i, term) for i in range(1, more + 1)]
        self.log.extend(new)
        self.model += new
        self.is_handed_out = False

    @rule(data=st.data(), more=st.integers(0, 4), rise=st.integers(0, 2))
    def merge(self, data: st.DataObject, more: int, rise: int) -> None:
        """A leader sends what it has behind some index; the terms may repeat earlier ones."""
        safe = max(self.base, self.log.durable_index // 2)
        at = data.draw(st.integers(safe, len(self.model)))
        term = (self.model[at - 1].term if at else 1) + rise
        new = [self._entry(at + i, term) for i in range(1, more + 1)]
        parts = [
            i for i, entry in enumerate(new, at) if i < len(self.model) and self.model[i] != entry
        ]
        assert self.log.conflict(new) == (parts[0] + 1 if parts else None)
        self.log.merge(new)
        self.is_handed_out &= not parts and at + more <= len(self.model)
        if parts:
            self.model = self.model[:at] + new
        else:
            self.model += new[len(self.model) - at :]

    @rule()
    def hand_out(self) -> None:
        taken = self.log.take_unwritten()
        self.is_handed_out = True
        if taken:
            self.writes.append(taken)

    @precondition(lambda self: self.writes)
    @rule()
    def write_ends(self) -> None:
        done = self.writes.pop(0)
        self.disk[done[0].index - 1 :] = done
        self.log.wrote(done[-1].index, done[-1].term)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        furthest = max(self.base, self.log.durable_index // 2)
        self.base = data.draw(st.integers(self.base, furthest))
        self.log.compact(LogIndex(self.base))

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert self.log.last_index == len(self.model)
        assert self.log.after(self.log.base_index) == tuple(self.model[self.base :])
        assert self.log.bytes == sum(map(size_of, self.model[self.base :]))
        assert self.log.term_at(LogIndex(len(self.model) + 1)) is None

    @invariant()
    def what_counts_as_durable_stays_on_the_disk_whatever_is_under_way(self) -> None:
        disk = list(self.disk)
        durable = self.log.durable_index
        assert disk[self.base : durable] == self.model[self.base : durable]
        for write in self.writes:
            disk[write[0].index - 1 :] = write
            assert disk[self.base : durable] == self.model[self.base : durable]

    @invariant()
    def everything_is_durable_once_everything_is_written(self) -> None:
        if self.is_handed_out and not self.writes:
            assert self.log.durable_index == len(self.model)

    @staticmethod
    def _entry(index: int, term: int) -> Entry:
        return Entry(LogIndex(index), Term(term), EntryKind.COMMAND, b"%d:%d" % (index, term))


LogModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLogModel = LogModel.TestCase


def test_configurations_are_a_stack() -> None:
    log = RaftLog(SnapshotMeta(LogIndex(0), Term(0), CONFIG), entries("1"))
    newer = [GroupConfig((R1, R2)), GroupConfig((R1,))]
    for index, config in enumerate(newer, 2):
        entry = Entry(LogIndex(index), Term(1), EntryKind.CONFIG, confchange.encode(config))
        log.extend([entry])
    assert (log.config, log.config_index) == (newer[1], 3)
    assert log.config_at(LogIndex(2)) == newer[0]
    log.merge(entries("2", after=2))
    assert log.config == newer[0]
    log.take_unwritten()
    log.wrote(LogIndex(3), Term(2))
    log.compact(LogIndex(3))
    assert (log.config, log.config_at(LogIndex(3))) == (newer[0], newer[0])


def test_what_is_sent_is_bounded_but_never_nothing() -> None:
    log = RaftLog(SnapshotMeta(LogIndex(0), Term(0), CONFIG), entries("11111"))
    one = size_of(entries("1")[0])
    assert len(log.following(LogIndex(1), 0)) == 1
    assert len(log.following(LogIndex(1), 3 * one)) == 3
    assert len(log.following(LogIndex(4), 99 * one)) == 2
    assert log.following(LogIndex(6), 99 * one) == ()


def test_a_late_write_of_a_log_that_a_snapshot_replaced_means_nothing() -> None:
    log = RaftLog(SnapshotMeta(LogIndex(0), Term(0), CONFIG), ())
    log.extend(entries("1111"))
    log.take_unwritten()
    log.restore(SnapshotMeta(LogIndex(2), Term(2), CONFIG))
    assert not log.wrote(LogIndex(4), Term(1))
    assert (log.durable_index, log.last_index) == (2, 2)
