"""What all nodes ever did in one group, and the rules that span them (Raft figure 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.ids import GroupId, LogIndex, ReplicaId, Term
from kvstore.kv import commands
from kvstore.raft import confchange
from kvstore.raft.messages import Entry, EntryKind, GroupConfig, SnapshotMeta, VoteResponse
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.raft.core import RaftCore
    from kvstore.raft.log import RaftLog


@dataclass
class GroupRecord:
    """Invariant: nothing is forgotten while a seed runs."""

    group: GroupId
    leaders: dict[Term, ReplicaId] = field(default_factory=dict)
    votes: dict[tuple[Term, ReplicaId], ReplicaId] = field(default_factory=dict)
    appended: dict[tuple[LogIndex, Term], tuple[Term, bytes]] = field(default_factory=dict)
    """Term of the entry before, and payload."""
    committed: list[tuple[Term, Term]] = field(default_factory=list)
    """By index - 1: the entry's term, and the term in which a leader first counted it."""
    configs: list[tuple[LogIndex, GroupConfig]] = field(default_factory=list)
    """Those that were committed, and where."""
    states: dict[LogIndex, int] = field(default_factory=dict)
    """Fingerprint of the state after an index."""
    last_revision: int = 0

    def vote(self, message: VoteResponse) -> None:
        """Election safety, the voters' half: one vote in a term."""
        key = message.term, message.sender
        before = self.votes.setdefault(key, message.receiver)
        if before != message.receiver:
            raise Violation(
                f"replica {message.sender} voted for {before} and for {message.receiver} in "
                f"term {message.term}"
            )

    def lead(self, who: str, core: RaftCore, log: RaftLog) -> None:
        """Election safety and leader completeness: one leader a term, and it has everything."""
        if self.leaders.setdefault(core.term, core.replica) != core.replica:
            raise Violation(f"group {self.group}: two leaders in term {core.term}")
        for index in range(log.base_index + 1, len(self.committed) + 1):
            term, committed_in = self.committed[index - 1]
            if committed_in < core.term and log.term_at(LogIndex(index)) != term:
                raise Violation(
                    f"{who} leads group {self.group} in term {core.term} without the entry "
                    f"{index} of term {term}, which was committed by term {committed_in}"
                )

    def append(self, log: RaftLog, entries: Iterable[Entry]) -> None:
        """Log matching: an entry of an index and term is one, and so is the one before it."""
        for entry in entries:
            before = log.term_at(LogIndex(entry.index - 1))
            if before is None:
                continue  # Replaced by a snapshot in this very step.
            known = self.appended.setdefault((entry.index, entry.term), (before, entry.payload))
            if known != (before, entry.payload):
                raise Violation(
                    f"group {self.group}: two different entries {entry.index} of term {entry.term}"
                )

    def commit(self, log: RaftLog, index: LogIndex, term: Term) -> None:
        """The leader of ``term`` has counted all up to ``index``."""
        if index <= len(self.committed) and self.committed[index - 1][0] != term:
            raise Violation(f"group {self.group}: two committed entries {index}")
        for entry in log.between(LogIndex(len(self.committed) + 1), index):
            self.committed.append((entry.term, term))
            if entry.kind is EntryKind.CONFIG:
                self.configs.append((entry.index, confchange.decode(entry.payload)))
            if entry.kind is EntryKind.COMMAND:
                self._revise(commands.last_revision(entry.payload))

    def _revise(self, last: int) -> None:
        if last <= self.last_revision:
            raise Violation(f"group {self.group}: revision {last} after {self.last_revision}")
        self.last_revision = last

    def check_known(self, who: str, index: LogIndex) -> None:
        """Nobody takes for committed what no leader has counted."""
        if index > len(self.committed):
            raise Violation(
                f"{who} takes entry {index} of group {self.group} for committed, which no leader "
                f"has counted"
            )

    def apply(self, who: str, entry: Entry) -> None:
        """State-machine safety: what is applied is what was committed."""
        self.check_known(who, entry.index)
        term = self.committed[entry.index - 1][0]
        _, payload = self.appended.get((entry.index, term), (None, None))
        if (term, payload) != (entry.term, entry.payload):
            raise Violation(
                f"{who} applies entry {entry.index} of term {entry.term} in group {self.group}; "
                f"committed was one of term {term}, or another payload"
            )

    def state(self, who: str, index: LogIndex, fingerprint: int) -> None:
        """Equal applied indexes, equal state."""
        if self.states.setdefault(index, fingerprint) != fingerprint:
            raise Violation(
                f"{who} has another state than others after entry {index} of group {self.group}"
            )

    def installed(self, who: str, meta: SnapshotMeta, config: GroupConfig) -> None:
        """A snapshot took the place of a log: it brings the members of its index along."""
        at_index = [known for at, known in self.configs if at <= meta.index]
        if at_index and config != at_index[-1]:
            raise Violation(f"{who} has {config} after a snapshot at {meta.index}: {at_index[-1]}")
