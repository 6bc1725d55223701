"""A replica's log in memory: what followers may still need, and what is not yet applied.

The log begins behind ``base``: all up to it is in the state machine. Indexes are positions:
entry ``i`` stands at ``i - base.index - 1``. Configurations inside the log are in force from
the moment they are appended and fall away when their entry is truncated (Raft §6), so they
are kept as a stack.

Writes are asynchronous, so the log may change while one is under way. Each is remembered with
how much of it still counts: what is truncated meanwhile is not durable when the write ends,
not even if equal entries have come back, for the disk will yet see the truncation.

Invariants: ``base.index <= durable_index <= last_index``; terms never fall.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.ids import LogIndex, Term
from kvstore.raft import confchange
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_OVERHEAD_BYTES = 64
"""Charged for an entry on top of its payload."""


def size_of(entry: Entry) -> int:
    """What an entry counts for in windows and bounds, in bytes."""
    return len(entry.payload) + ENTRY_OVERHEAD_BYTES


@dataclass(slots=True)
class _Write:
    """Entries handed out for writing; ``valid_to`` falls when they are truncated meanwhile."""

    last_index: LogIndex
    last_term: Term
    valid_to: LogIndex


class RaftLog:
    """Entries behind ``base``, all of them durable at the start.

    ``last_index`` and ``last_term`` are those of the last entry, or of the base.
    """

    def __init__(self, base: SnapshotMeta, entries: Sequence[Entry]) -> None:
        self._entries: list[Entry] = []
        self._configs: list[tuple[LogIndex, GroupConfig]] = [(base.index, base.config)]
        self.base_index = self.last_index = base.index
        self.base_term = self.last_term = base.term
        self.bytes = 0
        self.extend(entries)
        self.durable_index = self.last_index
        self.unwritten_from = LogIndex(self.last_index + 1)
        """Entries from here on have not been handed out for writing yet."""
        self._writes: deque[_Write] = deque()

    # -- questions --------------------------------------------------------------------------

    @property
    def config(self) -> GroupConfig:
        """The newest configuration, committed or not: the one in force."""
        return self._configs[-1][1]

    @property
    def config_index(self) -> LogIndex:
        """Where :attr:`config` stands."""
        return self._configs[-1][0]

    def config_at(self, index: LogIndex) -> GroupConfig:
        """The configuration in force once ``index`` was appended."""
        return next(config for at, config in reversed(self._configs) if at <= index)

    def term_at(self, index: LogIndex) -> Term | None:
        """Term of entry ``index``; None where the log does not reach."""
        position = index - self.base_index - 1
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return self.base_term if position == -1 else None

    def is_up_to_date(self, last_index: LogIndex, last_term: Term) -> bool:
        """Whether a candidate with such a last entry has all we have (Raft §5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def between(self, first: LogIndex, last: LogIndex) -> tuple[Entry, ...]:
        """Entries ``first`` to ``last``, both included; both must be there."""
        start = first - self.base_index - 1
        assert start >= 0
        return tuple(self._entries[start : last - self.base_index])

    def after(self, index: LogIndex) -> tuple[Entry, ...]:
        """All entries behind ``index``, which the log reaches."""
        return self.between(LogIndex(index + 1), self.last_index)

    def following(self, first: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from ``first`` on, up to ``bytes_max`` but at least one if there is one."""
        start = first - self.base_index - 1
        end, size = start, 0
        while end < len(self._entries):
            size += size_of(self._entries[end])
            if size > bytes_max and end > start:
                break
            end += 1
        return tuple(self._entries[start:end])

    def last_of_term(self, index: LogIndex, term: Term) -> LogIndex:
        """The last index up to ``index`` whose term is at most ``term``.

        Both sides of a rejected append use it to jump over whole terms (Raft §5.3). It may
        stop at the base, which is committed and so matches.
        """
        index = min(index, self.last_index)
        while index > self.base_index:
            at = self.term_at(index)
            if at is not None and at <= term:
                break
            index = LogIndex(index - 1)
        return index

    # -- changes ----------------------------------------------------------------------------

    def extend(self, entries: Sequence[Entry]) -> None:
        """Append entries that continue the log."""
        for entry in entries:
            assert entry.index == self.last_index + 1
            assert entry.term >= self.last_term
            self._entries.append(entry)
            self.last_index, self.last_term = entry.index, entry.term
            self.bytes += size_of(entry)
            if entry.kind is EntryKind.CONFIG:
                self._configs.append((entry.index, confchange.decode(entry.payload)))

    def conflict(self, entries: Sequence[Entry]) -> LogIndex | None:
        """Where a leader's entries part from ours, if they contradict what we have."""
        for entry in entries:
            if entry.index > self.last_index:
                return None
            if self.term_at(entry.index) != entry.term:
                return entry.index
        return None

    def merge(self, entries: Sequence[Entry]) -> None:
        """Append a leader's entries, replacing what conflicts with them (Raft §5.3)."""
        for position, entry in enumerate(entries):
            if self.term_at(entry.index) != entry.term:
                if entry.index <= self.last_index:
                    self._truncate(entry.index)
                self.extend(entries[position:])
                return

    def _truncate(self, first: LogIndex) -> None:
        """Drop entries from ``first`` on, and the configurations among them."""
        start = first - self.base_index - 1
        assert start >= 0
        self.bytes -= sum(size_of(entry) for entry in self._entries[start:])
        del self._entries[start:]
        self.last_index = LogIndex(first - 1)
        self.last_term = self._entries[-1].term if self._entries else self.base_term
        while self._configs[-1][0] >= first:
            self._configs.pop()
        self.durable_index = min(self.durable_index, LogIndex(first - 1))
        self.unwritten_from = min(self.unwritten_from, first)
        for write in self._writes:
            write.valid_to = min(write.valid_to, LogIndex(first - 1))

    def take_unwritten(self) -> tuple[Entry, ...]:
        """Entries that have not been handed out for writing yet."""
        last_index = self.last_index
        if self.unwritten_from > last_index:
            return ()
        entries = self.between(self.unwritten_from, last_index)
        self.unwritten_from = LogIndex(last_index + 1)
        self._writes.append(_Write(last_index, self.last_term, last_index))
        return entries

    def wrote(self, index: LogIndex, term: Term) -> bool:
        """The write that ended with this entry is durable, and all before it.

        Only what has not been replaced since counts. True if more is durable than before.
        """
        for count, write in enumerate(self._writes, start=1):
            if write.last_index == index and write.last_term == term:
                return self._end_writes(count)
        return False

    def _end_writes(self, count: int) -> bool:
        before = self.durable_index
        for _ in range(count):
            self.durable_index = max(self.durable_index, self._writes.popleft().valid_to)
        return self.durable_index > before

    def compact(self, index: LogIndex) -> None:
        """Forget entries up to ``index``, which are applied."""
        term = self.term_at(index)
        assert term is not None
        count = index - self.base_index
        config = self.config_at(index)
        self.bytes -= sum(size_of(entry) for entry in self._entries[:count])
        del self._entries[:count]
        self._configs = [(index, config), *(row for row in self._configs if row[0] > index)]
        self.base_index, self.base_term = index, term

    def compactable(self, applied: LogIndex, keep_bytes: int) -> LogIndex:
        """How far up to ``applied`` to compact so that about ``keep_bytes`` stay."""
        index, excess = self.base_index, self.bytes - keep_bytes
        while excess > 0 and index < applied:
            excess -= size_of(self._entries[index - self.base_index])
            index = LogIndex(index + 1)
        return index

    def restore(self, meta: SnapshotMeta) -> None:
        """A snapshot replaces everything."""
        self._entries.clear()
        self._configs = [(meta.index, meta.config)]
        self.base_index = self.last_index = meta.index
        self.base_term = self.last_term = meta.term
        self.bytes = 0
        self.durable_index = meta.index
        self.unwritten_from = LogIndex(meta.index + 1)
        for write in self._writes:
            write.valid_to = LogIndex(0)
