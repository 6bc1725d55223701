"""What each replica has promised to keep: the record of what its log's writer called durable.

It is kept outside of the nodes, so that a restart can be held against it: whatever was once
reported as durable must be found again, and nothing may be promised in a message before it is
in here (Raft figure 2: "updated on stable storage before responding").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.storage import records
from kvstore.storage.records import RecordType
from sim.world import Violation

if TYPE_CHECKING:
    from kvstore.storage.replay import RecoveredLog


@dataclass
class Durable:
    """One replica's log on disk. Invariant: no entry is behind ``end``."""

    term: int = 0
    vote: int = 0
    entries: dict[int, int] = field(default_factory=dict)
    """Term by index; those at or below the mark may be there or not."""
    mark: int = 0
    mark_term: int = 0
    end: int = 0

    @classmethod
    def of(cls, log: RecoveredLog | None, base: tuple[int, int]) -> Durable:
        """What a start has read, and made durable for good.

        An engine that is ahead of the whole log or contradicts it, as a snapshot makes it,
        stands for it: ``base`` is the index and term of its last entry.
        """
        found = cls()
        if log is not None:
            found.term, found.vote = log.term, log.vote
            found.entries = {entry.index: entry.term for entry in log.entries}
            if log.mark is not None:
                found.mark, found.mark_term = log.mark.index, log.mark.term
                # A snapshot's mark whose truncation was torn off: the rest is obsolete.
                found.entries = {
                    index: term
                    for index, term in found.entries.items()
                    if index <= found.mark or term >= found.mark_term
                }
        is_contradicted = found.entries.get(base[0], base[1]) != base[1]
        if is_contradicted or base[0] > max([found.mark, *found.entries]):
            found.entries.clear()
            found.mark, found.mark_term = base
        found.end = max([found.mark, *found.entries])
        return found

    # -- questions --------------------------------------------------------------------------

    def has(self, index: int, term: int) -> bool:
        return index <= self.mark or self.entries.get(index) == term

    def reaches(self, index: int) -> bool:
        return index <= max(self.mark, self.end)

    @property
    def last_term(self) -> int:
        return self.entries.get(self.end, self.mark_term)

    def lost_in(self, found: Durable) -> str:
        """What a start should have found and has not; empty if nothing is missing.

        It may find more: what a sync made durable just before the end. So a later term may
        have replaced the end of the log in a write that nobody heard of.
        """
        is_other_vote = found.term == self.term and self.vote not in (0, found.vote)
        if found.term < self.term or is_other_vote:
            return f"term {found.term} and vote {found.vote} instead of {self.term} and {self.vote}"
        if found.mark < self.mark and not found.reaches(self.mark):
            return f"a log that begins behind {found.mark} instead of {self.mark}"
        for index, term in self.entries.items():
            instead = found.entries.get(index, found.last_term)
            if not found.has(index, term) and instead <= term:
                return f"no entry {index} of term {term} in a log up to entry {found.end}"
        return ""

    # -- what is written --------------------------------------------------------------------

    def take(self, record: bytes) -> None:
        """Another record is durable.

        Raises:
            Violation: it is a second vote in a term.
        """
        kind, _, index, term = records.peek(record)
        match kind:
            case RecordType.ENTRY:
                self._cut(index)
                self.entries[index] = term
                self.end = index
            case RecordType.TRUNCATION:
                self._cut(index)
            case RecordType.MARK:
                if index > self.mark:
                    self.mark, self.mark_term = index, term
                    self.end = max(self.end, index)
            case RecordType.HARD_STATE:
                self._hard_state(term, records.decode_vote(records.payload_of(record)))
            case _:
                pass  # The segments' own.

    def _cut(self, index: int) -> None:
        for gone in range(index, self.end + 1):
            self.entries.pop(gone, None)
        self.end = min(self.end, index - 1)

    def _hard_state(self, term: int, vote: int) -> None:
        """On a full disk votes overtake what was appended before them: the highest counts."""
        if term == self.term and vote != self.vote and 0 not in (vote, self.vote):
            raise Violation(f"wrote votes for {self.vote} and for {vote} in term {term}")
        self.term, self.vote = max((self.term, self.vote), (term, vote))
