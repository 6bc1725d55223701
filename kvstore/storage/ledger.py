"""What the writer knows by heart about every group, to start a segment with. Pure.

A segment opens with each group's replica, latest hard state, mark and last index, so that the
segments before it can be deleted without reading them again. A group that has left is not
mentioned any more: whoever reads the next segment first never hears of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.storage import records
from kvstore.storage.records import RecordType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvstore.storage.replay import RecoveredLog

VOIDS: Final = -1
"""In place of an entry's index: all entries of the group up to here are void."""


class Ledger:
    """Invariant: it knows every record of the batches written so far, and no other."""

    def __init__(self, logs: Mapping[int, RecoveredLog]) -> None:
        self._replicas = {group: log.replica for group, log in logs.items() if log.replica}
        self._hard_states = {group: (log.term, log.vote) for group, log in logs.items()}
        self._ends = {group: log.end for group, log in logs.items()}
        self._marks = {
            group: (log.mark.index, records.encode_mark(group, *log.mark))
            for group, log in logs.items()
            if log.mark is not None
        }

    def note(self, record: bytes) -> int:
        """Take in a record that was written.

        Returns:
            The index if it is an entry; :data:`VOIDS` if it makes void what the group wrote
            before; else 0.
        """
        kind, group, index, term = records.peek(record)
        if kind == RecordType.ENTRY:
            self._ends[group] = index
            return index
        if kind == RecordType.HARD_STATE:
            state = (term, records.decode_vote(records.payload_of(record)))
            self._hard_states[group] = max(state, self._hard_states.get(group, state))
        elif kind == RecordType.MARK:
            if index > self.mark_index(group):
                self._marks[group] = (index, record)
            self._ends[group] = max(index, self._ends.get(group, 0))
        elif kind == RecordType.TRUNCATION:
            self._ends[group] = min(index - 1, self._ends.get(group, 0))
        elif kind == RecordType.REPLICA:
            return self._replica(group, records.decode_replica(records.payload_of(record)))
        return 0

    def _replica(self, group: int, replica: int) -> int:
        if replica and replica == self._replicas.get(group):
            return 0
        for known in (self._replicas, self._hard_states, self._ends, self._marks):
            known.pop(group, None)
        if replica:
            self._replicas[group] = replica
        return VOIDS

    def mark_index(self, group: int) -> int:
        """Up to where the group's entries are marked as applied."""
        return self._marks.get(group, (0, b""))[0]

    def checkpoint(self) -> list[bytes]:
        """The records with which a segment starts.

        The replicas come first: whatever they find there of their groups they make void.
        """
        return [
            *(records.encode_replica(*of_group) for of_group in self._replicas.items()),
            *(
                records.encode_hard_state(group, term, vote)
                for group, (term, vote) in self._hard_states.items()
            ),
            *(records.encode_log_end(group, end) for group, end in self._ends.items()),
            *(record for _, record in self._marks.values()),
        ]
