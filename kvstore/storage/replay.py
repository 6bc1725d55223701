"""From the records of the log, in order, to what each group knew. Pure.

The rules:

* An entry replaces whatever stood at its index and beyond (Raft §5.3).
* Of the hard states the one with the highest term counts, and within a term the vote: there
  is at most one (Raft §5.2), so their order does not matter. On a full disk a vote may be
  written before entries that were appended earlier (see :mod:`kvstore.storage.writer`).
* A mark never goes back. One beyond the log's end, or with another term than the entry at
  its index, came with a snapshot: the log before and after it is obsolete (Raft §7).
* Entries are contiguous and start at most one beyond the mark: everything before may have
  been released with its segment, nothing after it.
* A REPLICA record makes void whatever its group wrote before, unless it names the replica
  that the group has already: then it is the start of a segment that repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from kvstore.storage import records
from kvstore.storage.records import Record, RecordType

if TYPE_CHECKING:
    from collections.abc import Mapping


class LogEntry(NamedTuple):
    """An entry as it was written; ``kind`` is the byte given to ``encode_entry``."""

    index: int  # type: ignore[assignment]
    term: int
    kind: int
    payload: bytes


class Mark(NamedTuple):
    """Entries up to ``index`` are applied; ``config`` is in force there."""

    index: int  # type: ignore[assignment]
    term: int
    config: bytes


@dataclass(slots=True)
class RecoveredLog:
    """One group's part of the log.

    ``entries`` holds every entry that is still there, also those at or below the mark: the
    engine may be behind it, and then they are its only source.
    """

    term: int = 0
    vote: int = 0
    mark: Mark | None = None
    entries: list[LogEntry] = field(default_factory=list)
    end: int = 0
    """The log's last index, or more when that entry was released long ago."""
    replica: int = 0
    """Whose log it is; 0 if none was ever noted: the group was founded here."""

    def missing(self) -> tuple[int, int] | None:
        """First and last index of entries that should be here and are not."""
        marked = self.mark.index if self.mark else 0
        first = self.entries[0].index if self.entries else self.end + 1
        return (marked + 1, first - 1) if first > marked + 1 else None


class Replay:
    """Takes the records of all groups in the order they were written."""

    def __init__(self, applied: Mapping[int, int], held: Mapping[int, int] | None = None) -> None:
        """Entries below both ``applied[group]`` and the group's mark are not kept.

        What was ``applied`` counts for the replica as which the engine has ``held`` the group
        (0 if it was founded here), and for no other.
        """
        self.logs: dict[int, RecoveredLog] = {}
        self._applied = applied
        self._held = held or {}

    def voids(self, record: Record) -> bool:
        """Whether ``record``, when it is taken, makes void all that its group wrote before."""
        if record.type != RecordType.REPLICA:
            return False
        log = self.logs.get(record.group)
        replica = records.decode_replica(record.payload)
        return not replica or log is None or log.replica != replica

    def take(self, record: Record) -> str | None:
        """Fold in one record; the result says what is wrong with it, if anything."""
        if record.type == RecordType.REPLICA:
            self._replica(record)
            return None
        log = self.logs.get(record.group)
        if log is None:
            log = self.logs[record.group] = RecoveredLog()
        match record.type:
            case RecordType.ENTRY:
                return self._entry(log, record)
            case RecordType.HARD_STATE:
                vote = records.decode_vote(record.payload)
                log.term, log.vote = max((log.term, log.vote), (record.term, vote))
            case RecordType.TRUNCATION:
                _cut(log, record.index)
            case RecordType.MARK:
                self._mark(log, record)
            case _:
                return f"a record of the unknown type {record.type}"
        return None

    def log_end(self, record: Record) -> None:
        """What the first segment says about the segments before it."""
        self.logs.setdefault(record.group, RecoveredLog()).end = record.index

    def _replica(self, record: Record) -> None:
        if not self.voids(record):
            return
        self.logs.pop(record.group, None)
        replica = records.decode_replica(record.payload)
        if replica:
            self.logs[record.group] = RecoveredLog(replica=replica)

    @staticmethod
    def _entry(log: RecoveredLog, record: Record) -> str | None:
        index = record.index
        if index > log.end + 1:
            return f"group {record.group} has entry {index} right after entry {log.end}"
        if not record.payload:
            return f"entry {index} of group {record.group} has no kind"
        _cut(log, index)
        payload = bytes(record.payload)
        log.entries.append(LogEntry(index, record.term, payload[0], payload[1:]))
        log.end = index
        return None

    def _mark(self, log: RecoveredLog, record: Record) -> None:
        index = record.index
        if log.mark is not None and index <= log.mark.index:
            return
        log.mark = Mark(index, record.term, bytes(record.payload))
        if index > log.end or _contradicts(log, index, record.term):
            log.entries.clear()
            log.end = index
        if log.replica == self._held.get(record.group, 0):
            self._drop(log, min(index, self._applied.get(record.group, 0)))

    @staticmethod
    def _drop(log: RecoveredLog, below: int) -> None:
        if log.entries and log.entries[0].index < below:
            del log.entries[: below - log.entries[0].index]


def _cut(log: RecoveredLog, index: int) -> None:
    """Forget the entries at ``index`` and beyond."""
    if log.end < index:
        return
    if log.entries:
        del log.entries[max(0, index - log.entries[0].index) :]
    log.end = index - 1


def _contradicts(log: RecoveredLog, index: int, term: int) -> bool:
    if not log.entries or index < log.entries[0].index:
        return False
    return log.entries[index - log.entries[0].index].term != term
