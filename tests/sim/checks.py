"""What must hold at every step, whatever the seed does (Raft figure 3, DESIGN section 1).

Everything is checked against one record of what all nodes ever did, kept by group:

* election safety: a term has one leader, and a replica votes once in a term;
* log matching: an entry of an index and term is the same everywhere, and so is the one before;
* leader completeness: a new leader has every entry that was committed in earlier terms;
* state-machine safety: nobody applies another entry at an index, or a changed one, and equal
  applied indexes mean equal state, sessions and all;
* a leader commits by counting only entries of its own term (Raft §5.4.2);
* whoever is elected, no leader before holds a lease any more (thesis §6.4.1);
* a read's index is no lower than anything that was committed when it was asked for;
* durability: what is applied is on the disks of a majority of the voters, and neither term nor
  vote nor log goes back in a crash;
* revisions rise with the index.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.ids import GroupId, LogIndex, ReplicaId, Term, group_of_shard
from kvstore.kv import commands
from kvstore.kv.engine import shard_range
from kvstore.raft import confchange, replication
from kvstore.raft.messages import EntryKind, GroupConfig, VoteRequest, VoteResponse
from kvstore.raft.ready import Role
from kvstore.storage import records
from kvstore.storage.records import RecordType
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvstore.kv.engine import WriteBatch
    from kvstore.raft.messages import Entry, Message
    from kvstore.raft.ready import ReadState
    from kvstore.server.shard_host import ShardHost
    from kvstore.storage.replay import RecoveredLog
    from sim.node import SimNode


@dataclass
class Durable:
    """What a replica's log holds for good, as its writer was told."""

    term: int = 0
    vote: int = 0
    entries: dict[int, int] = field(default_factory=dict)
    """Term by index."""
    mark: int = 0
    end: int = 0

    def take(self, record: bytes) -> None:
        kind, _, index, term = records.peek(record)
        if kind == RecordType.ENTRY:
            self._cut(index)
            self.entries[index] = term
            self.end = index
        elif kind == RecordType.TRUNCATION:
            self._cut(index)
        elif kind == RecordType.MARK:
            self.mark = max(self.mark, index)
        elif kind == RecordType.HARD_STATE:
            self._hard_state(term, records.decode_vote(records.payload_of(record)))

    def _cut(self, index: int) -> None:
        for gone in range(index, self.end + 1):
            self.entries.pop(gone, None)
        self.end = min(self.end, index - 1)

    def _hard_state(self, term: int, vote: int) -> None:
        if term < self.term or (term == self.term and self.vote not in (0, vote)):
            raise Violation(f"wrote term {term}, vote {vote} after {self.term}, {self.vote}")
        self.term, self.vote = term, vote

    @property
    def last(self) -> tuple[int, int]:
        """Term and index of the last entry, as far as it is not behind the mark."""
        return (self.entries.get(self.end, 0), self.end) if self.end > self.mark else (0, 0)

    def found(self, log: RecoveredLog) -> None:
        """A start read this and made it durable for good."""
        self.term, self.vote = log.term, log.vote
        self.entries.update((entry.index, entry.term) for entry in log.entries)
        if log.mark is not None:
            self.mark = max(self.mark, log.mark.index)

    def has(self, index: int, term: int) -> bool:
        return index <= self.mark or self.entries.get(index) == term


@dataclass
class Seen:
    """What is known of one group."""

    leaders: dict[Term, ReplicaId] = field(default_factory=dict)
    votes: dict[tuple[Term, ReplicaId], ReplicaId] = field(default_factory=dict)
    appended: dict[tuple[LogIndex, Term], tuple[Term, bytes]] = field(default_factory=dict)
    """Term of the entry before, and payload."""
    applied: list[tuple[Term, bytes, Term]] = field(default_factory=list)
    """By index - 1: the entry's term and payload, and a term in which it was committed."""
    states: dict[LogIndex, int] = field(default_factory=dict)
    """Fingerprint of the state after an index."""
    last_revision: int = 0
    configs: list[tuple[LogIndex, GroupConfig]] = field(default_factory=list)
    """Every configuration that was ever appended, and where."""


class Checks:
    """Invariant: nothing here is ever forgotten while a seed runs."""

    def __init__(self) -> None:
        self._seen: defaultdict[GroupId, Seen] = defaultdict(Seen)
        self._durable: defaultdict[tuple[ReplicaId, int], Durable] = defaultdict(Durable)
        self._roles: dict[ShardHost, tuple[Role, Term]] = {}
        self._commits: dict[ShardHost, LogIndex] = {}
        self.elections = 0
        self.installs = 0

    def entries_applied(self) -> int:
        return sum(len(seen.applied) for seen in self._seen.values())

    # -- hooks ------------------------------------------------------------------------------

    def watch(self, node: SimNode, host: ShardHost) -> None:
        """See whatever enters the log of ``host``, is applied, or replaces its state."""
        group, engine = group_of_shard(host.shard), node.engine
        prefix = shard_range(host.shard)[0][:2]
        self._watch_reads(node, group, host)
        self._watch_votes(node, host)
        observe, apply, written, replaced = (
            host.observe,
            host.apply,
            host.written,
            host.replaced_by_snapshot,
        )

        def observe_and_check(entries: Sequence[Entry]) -> None:
            observe(entries)
            self._appended(group, host, entries)

        def apply_and_check(batch: WriteBatch) -> Entry:
            entry = apply(batch)
            self._applied(node, group, host, entry)
            return entry

        def written_and_check(index: LogIndex) -> None:
            written(index)
            self._state(node, group, index, engine.fingerprint(prefix))

        def replaced_and_check(index: LogIndex) -> None:
            replaced(index)
            self.installs += 1
            self._state(node, group, index, engine.fingerprint(prefix))

        _replace(host, "observe", observe_and_check)
        _replace(host, "apply", apply_and_check)
        _replace(host, "written", written_and_check)
        _replace(host, "replaced_by_snapshot", replaced_and_check)

    @staticmethod
    def _watch_votes(node: SimNode, host: ShardHost) -> None:
        """A vote goes to a candidate that has all that the voter has (Raft §5.4.1)."""
        step, state = host.core.step, host.core._state

        def step_and_check(message: Message, now: float) -> None:
            own = state.log.last_term, state.log.last_index
            before = state.term, state.vote
            step(message, now)
            if type(message) is not VoteRequest or (state.term, state.vote) == before:
                return
            if state.vote == message.sender and (message.last_term, message.last_index) < own:
                raise Violation(
                    f"{node.id} with a log up to term and index {own} votes for {message.sender} "
                    f"with {(message.last_term, message.last_index)}"
                )

        _replace(host.core, "step", step_and_check)

    def _watch_reads(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        """No read may be served from a state that lacks what was committed before it."""
        read_index, confirm, seen = host.core.read_index, host.confirm, self._seen[group]
        asked: dict[int, int] = {}

        def read_index_and_note(context: int, now: float) -> None:
            asked[context] = len(seen.applied)
            read_index(context, now)

        def confirm_and_check(states: Sequence[ReadState], failed: Sequence[int]) -> None:
            for state in states:
                committed = asked.pop(state.context)
                if state.index < committed:
                    raise Violation(
                        f"{node.id} would read group {group} as of entry {state.index}, "
                        f"when {committed} was committed"
                    )
            confirm(states, failed)

        _replace(host.core, "read_index", read_index_and_note)
        _replace(host, "confirm", confirm_and_check)

    def started(self, node: SimNode, logs: Mapping[GroupId, RecoveredLog]) -> None:
        """A process read its log: nothing that it was told to be durable may be missing.

        It may find more: what a sync made durable just before the end.
        """
        for group, host in node.driver.hosts.items():
            durable, log = self._durable[host.core.replica, group], logs.get(group)
            before, last = (durable.term, durable.vote), durable.last
            if log is not None:
                durable.found(log)
            state = host.core._state
            found = state.log.last_term, state.log.last_index
            # A later term may have replaced the end by less, in a write that nobody heard of.
            if (durable.term, durable.vote) < before or found < last:
                raise Violation(
                    f"{node.id} comes back to term {durable.term}, vote {durable.vote}, and a log "
                    f"up to term and index {found}; had {before} and {last}"
                )
            durable.end = state.log.last_index

    def durable(self, node: SimNode, written: Sequence[bytes]) -> None:
        """The writer says that these records are on the disk of ``node``."""
        for record in written:
            group = GroupId(records.peek(record)[1])
            replica = node.driver.hosts[group].core.replica
            self._durable[replica, group].take(record)

    def received(self, messages: Sequence[tuple[GroupId, Message]]) -> None:
        """Messages reach a node: a vote among them is the only one of its term, and durable."""
        for group, message in messages:
            if type(message) is VoteResponse and message.granted and not message.pre_vote:
                key = message.term, message.sender
                before = self._seen[group].votes.setdefault(key, message.receiver)
                durable = self._durable[message.sender, group]
                promised = message.term, message.receiver
                if before != message.receiver:
                    raise Violation(
                        f"replica {message.sender} voted for {before} and for "
                        f"{message.receiver} in term {message.term}"
                    )
                if (durable.term, durable.vote) != promised and durable.term <= message.term:
                    raise Violation(
                        f"replica {message.sender} voted for {message.receiver} in term "
                        f"{message.term} before that was durable"
                    )

    def looked_at(self, node: SimNode) -> None:
        """An iteration of ``node`` is over."""
        for group, host in node.driver.hosts.items():
            core = host.core
            now = core.role, core.term
            if self._roles.get(host) == now:
                if core.role is Role.LEADER:
                    self._commits_own(node, group, host)
                continue
            self._roles[host] = now
            if node.world.tracing:
                node.world.note(
                    node.id, f"is {core.role.name.lower()} of group {group} in term {core.term}"
                )
            if core.role is Role.LEADER:
                self._leads(node, group, host)
                self._commits[host] = core._state.commit_index

    # -- rules --------------------------------------------------------------------------------

    def _leads(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        seen, core = self._seen[group], host.core
        self.elections += 1
        self._lease_is_over(node, group, core.term)
        if seen.leaders.setdefault(core.term, core.replica) != core.replica:
            raise Violation(f"group {group}: two leaders in term {core.term}")
        log = core._state.log
        for index in range(log.base_index + 1, len(seen.applied) + 1):
            term, _, committed_in = seen.applied[index - 1]
            if committed_in < core.term and log.term_at(LogIndex(index)) != term:
                raise Violation(
                    f"{node.id} leads group {group} in term {core.term} without the entry "
                    f"{index} of term {term}, which was committed by term {committed_in}"
                )

    def _commits_own(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        state = host.core._state
        index = state.commit_index
        if index == self._commits[host]:
            return
        self._commits[host] = index
        if state.log.term_at(index) != state.term:
            raise Violation(
                f"{node.id}, leader of group {group} in term {state.term}, commits entry "
                f"{index} of term {state.log.term_at(index)} by counting"
            )

    def _lease_is_over(self, elected: SimNode, group: GroupId, term: Term) -> None:
        """Whoever led before would not answer a read by its lease any more, asked now."""
        for node in elected.network.nodes.values():
            if node is elected or not node.is_up or node.world.now < node.paused_until:
                continue
            state = node.driver.hosts[group].core._state
            if state.leading is None or state.term >= term:
                continue
            state.now = max(state.now, node.clock())
            if replication.has_lease(state):
                raise Violation(
                    f"{node.id} still holds a lease on group {group} of term {state.term}, "
                    f"when {elected.id} leads term {term}"
                )

    def _appended(self, group: GroupId, host: ShardHost, entries: Sequence[Entry]) -> None:
        seen, log = self._seen[group], host.core._state.log
        for entry in entries:
            before = log.term_at(LogIndex(entry.index - 1))
            if before is None:
                continue  # Replaced by a snapshot in this very step.
            if entry.kind is EntryKind.CONFIG and (entry.index, entry.term) not in seen.appended:
                seen.configs.append((entry.index, confchange.decode(entry.payload)))
            known = seen.appended.setdefault((entry.index, entry.term), (before, entry.payload))
            if known != (before, entry.payload):
                raise Violation(
                    f"group {group}: two different entries {entry.index} of term {entry.term}"
                )

    def _applied(self, node: SimNode, group: GroupId, host: ShardHost, entry: Entry) -> None:
        seen = self._seen[group]
        if entry.index <= len(seen.applied):
            term, payload, committed_in = seen.applied[entry.index - 1]
            if (term, payload) != (entry.term, entry.payload):
                raise Violation(
                    f"{node.id} applies entry {entry.index} of term {entry.term} in group "
                    f"{group}; elsewhere it was one of term {term}, or another payload"
                )
            if host.core.term < committed_in:
                seen.applied[entry.index - 1] = term, payload, host.core.term
            return
        if entry.index != len(seen.applied) + 1:
            raise Violation(f"{node.id} applies entry {entry.index} too early")
        seen.applied.append((entry.term, entry.payload, host.core.term))
        self._check_majority(node, group, host, entry)
        if entry.kind is EntryKind.COMMAND:
            last = commands.last_revision(entry.payload)
            if last <= seen.last_revision:
                raise Violation(f"group {group}: revision {last} after {seen.last_revision}")
            seen.last_revision = last

    def _check_majority(self, node: SimNode, group: GroupId, host: ShardHost, entry: Entry) -> None:
        """Nobody may know an entry as committed that a crash of everybody could lose.

        A leader counts by the newest configuration of its log, which may be a later one than
        that of the entry.
        """

        def has(replica: ReplicaId) -> bool:
            return self._durable[replica, group].has(entry.index, entry.term)

        later = [config for at, config in self._seen[group].configs if at > entry.index]
        configs = [host.core._state.log.config_at(entry.index), *later]
        for config in configs:
            halves = [half for half in (config.voters, config.voters_outgoing) if half]
            if all(2 * sum(map(has, half)) > len(half) for half in halves):
                return
        holders = sorted(
            {replica for config in configs for replica in config.voters if has(replica)}
        )
        raise Violation(
            f"{node.id} applies entry {entry.index} of group {group}, durable only on {holders}"
        )

    def _state(self, node: SimNode, group: GroupId, index: LogIndex, fingerprint: int) -> None:
        if self._seen[group].states.setdefault(index, fingerprint) != fingerprint:
            raise Violation(
                f"{node.id} has another state than others after entry {index} of group {group}"
            )


def _replace(owner: object, name: str, function: Callable[..., object]) -> None:
    """Call ``function`` wherever this one object's method ``name`` would be."""
    setattr(owner, name, function)
