"""What must hold at every step, whatever the seed does (Raft figure 3, DESIGN section 1).

Everything is checked against one record of what all nodes ever did, kept by group:

* election safety: a term has one leader, and a replica votes once in a term;
* log matching: an entry of an index and term is the same everywhere, and so is the one before;
* leader completeness: a new leader has every entry that was committed in earlier terms;
* state-machine safety: nobody applies what no leader has committed, or another entry at its
  index, and equal applied indexes mean equal state, sessions and all;
* a leader commits by counting only entries of its own term (Raft §5.4.2), once they are on
  the disks of a majority of the voters;
* whoever is elected, no leader before holds a lease any more (thesis §6.4.1);
* a read's index is no lower than anything that was committed when it was asked for;
* promises: no message leaves before what it tells of is on the sender's disk;
* durability: what a disk was to keep is there after a crash; within one life of a process
  neither term nor commit nor applied index falls, and no vote changes in its term;
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
from kvstore.raft.messages import (
    AppendResponse,
    EntryKind,
    GroupConfig,
    SnapshotResponse,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role
from kvstore.storage import records
from sim.durable import Durable
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvstore.kv.engine import WriteBatch
    from kvstore.raft.messages import Entry, Message
    from kvstore.raft.ready import ReadState
    from kvstore.raft.state import RaftState
    from kvstore.server.shard_host import ShardHost
    from kvstore.storage.replay import RecoveredLog
    from sim.node import SimNode


@dataclass
class GroupRecord:
    """What is known of one group. Nothing in it is ever forgotten while a seed runs."""

    leaders: dict[Term, ReplicaId] = field(default_factory=dict)
    votes: dict[tuple[Term, ReplicaId], ReplicaId] = field(default_factory=dict)
    appended: dict[tuple[LogIndex, Term], tuple[Term, bytes]] = field(default_factory=dict)
    """Term of the entry before, and payload."""
    committed: list[tuple[Term, Term]] = field(default_factory=list)
    """By index - 1: the entry's term, and the term in which a leader first counted it."""
    states: dict[LogIndex, int] = field(default_factory=dict)
    """Fingerprint of the state after an index."""
    last_revision: int = 0
    config: GroupConfig | None = None
    """The newest one that a leader has committed."""

    def payload(self, index: LogIndex, term: Term) -> bytes | None:
        return self.appended.get((index, term), (None, None))[1]


class Checks:
    """Sees whatever the nodes do, through hooks in their hosts."""

    def __init__(self) -> None:
        self._groups: defaultdict[GroupId, GroupRecord] = defaultdict(GroupRecord)
        self._durable: defaultdict[tuple[ReplicaId, GroupId], Durable] = defaultdict(Durable)
        self._roles: dict[ShardHost, tuple[Role, Term]] = {}
        self._latest: dict[ShardHost, tuple[Term, ReplicaId, LogIndex, LogIndex]] = {}
        self.elections = 0
        self.installs = 0

    def entries_committed(self) -> int:
        return sum(len(record.committed) for record in self._groups.values())

    def committed_config(self, group: GroupId) -> GroupConfig | None:
        """The newest one that a leader has committed; None while that is the first."""
        return self._groups[group].config

    # -- hooks ------------------------------------------------------------------------------

    def watch(self, node: SimNode, host: ShardHost) -> None:
        """See whatever enters the log of ``host``, is applied, or replaces its state."""
        group, engine = group_of_shard(host.shard), node.engine
        prefix = shard_range(host.shard)[0][:2]
        self._watch_core(node, group, host)
        self._watch_reads(node, group, host)
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

    def _watch_core(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        """Votes are given to whom they may be, and commits are counted as they may be."""
        core, state = host.core, host.core._state
        step, persisted = core.step, core.persisted

        def counting(change: Callable[[], None]) -> None:
            was_leading, term, commit = state.leading is not None, state.term, state.commit_index
            config = state.config
            change()
            if was_leading and term == state.term and commit != state.commit_index:
                self._counted(node, group, state, config)

        def step_and_check(message: Message, now: float) -> None:
            own = state.log.last_term, state.log.last_index
            before = state.term, state.vote
            counting(lambda: step(message, now))
            if type(message) is not VoteRequest or (state.term, state.vote) == before:
                return
            if state.vote == message.sender and (message.last_term, message.last_index) < own:
                raise Violation(
                    f"{node.id} with a log up to term and index {own} votes for {message.sender} "
                    f"with {(message.last_term, message.last_index)}"
                )

        def persisted_and_check(index: LogIndex, term: Term, now: float) -> None:
            counting(lambda: persisted(index, term, now))

        _replace(core, "step", step_and_check)
        _replace(core, "persisted", persisted_and_check)

    def _watch_reads(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        """No read may be served from a state that lacks what was committed before it."""
        read_index, confirm, record = host.core.read_index, host.confirm, self._groups[group]
        asked: dict[int, int] = {}

        def read_index_and_note(context: int, now: float) -> None:
            asked[context] = len(record.committed)
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

    # -- disks --------------------------------------------------------------------------------

    def started(self, node: SimNode, logs: Mapping[GroupId, RecoveredLog]) -> None:
        """A process has read its disk: it has what it must, and goes on from just that."""
        for group, host in node.driver.hosts.items():
            core, state = host.core, host.core._state
            found = Durable.of(logs.get(group), (state.log.base_index, state.log.base_term))
            lost = self._durable[core.replica, group].lost_in(found)
            if lost:
                raise Violation(f"{node.id} comes back to group {group} with {lost}")
            self._durable[core.replica, group] = found
            entries = state.log.after(state.log.base_index)
            behind = {i: t for i, t in found.entries.items() if i > state.log.base_index}
            if behind != {entry.index: entry.term for entry in entries}:
                raise Violation(f"{node.id} does not go on from the log that it has read")
            if (state.term, state.vote) != (found.term, found.vote):
                raise Violation(f"{node.id} does not go on from the term and vote it has read")
            self._appended(group, host, entries)
            prefix = shard_range(host.shard)[0][:2]
            self._state(node, group, core.applied_index, node.engine.fingerprint(prefix))

    def durable(self, node: SimNode, written: Sequence[bytes]) -> None:
        """The writer says that these records are on the disk of ``node``."""
        for record in written:
            group = GroupId(records.peek(record)[1])
            replica = node.driver.hosts[group].core.replica
            self._durable[replica, group].take(record)

    def sent(self, messages: Sequence[tuple[GroupId, Message]]) -> None:
        """Messages leave a node: what they promise is on its disk."""
        for group, message in messages:
            durable = self._durable[message.sender, group]
            match message:
                case VoteResponse(granted=True, pre_vote=False):
                    self._vote(group, message, durable)
                case AppendResponse(rejected=False):
                    if durable.term < message.term or not durable.reaches(message.match_index):
                        raise Violation(f"{message} leaves with a disk up to {durable.end}")
                case SnapshotResponse(installed=True):
                    if not durable.reaches(message.index):
                        raise Violation(f"{message} leaves with a disk up to {durable.end}")
                case _:
                    pass  # Nothing rests on its sender's disk.

    def _vote(self, group: GroupId, message: VoteResponse, durable: Durable) -> None:
        key = message.term, message.sender
        before = self._groups[group].votes.setdefault(key, message.receiver)
        if before != message.receiver:
            raise Violation(
                f"replica {message.sender} voted for {before} and for {message.receiver} in "
                f"term {message.term}"
            )
        promised = message.term, message.receiver
        if (durable.term, durable.vote) != promised and durable.term <= message.term:
            raise Violation(
                f"replica {message.sender} voted for {message.receiver} in term {message.term} "
                f"before that was durable"
            )

    # -- at the end of an iteration ---------------------------------------------------------

    def after_iteration(self, node: SimNode) -> None:
        """An iteration of the event loop of ``node`` is over."""
        for group, host in node.driver.hosts.items():
            core, state = host.core, host.core._state
            latest = state.term, state.vote, state.commit_index, state.applied_index
            if latest != self._latest.get(host):
                self._moved(node, group, self._latest.get(host, latest), latest)
                self._latest[host] = latest
            now = core.role, core.term
            if self._roles.get(host) == now:
                continue
            self._roles[host] = now
            if node.world.tracing:
                node.world.note(
                    node.id, f"is {core.role.name.lower()} of group {group} in term {core.term}"
                )
            if core.role is Role.LEADER:
                self._leads(node, group, host)

    def _moved(
        self,
        node: SimNode,
        group: GroupId,
        before: tuple[Term, ReplicaId, LogIndex, LogIndex],
        after: tuple[Term, ReplicaId, LogIndex, LogIndex],
    ) -> None:
        term, vote, commit, applied = before
        if (
            after[0] < term
            or (after[0] == term and vote not in (0, after[1]))
            or after[2] < commit
            or after[3] < applied
        ):
            raise Violation(
                f"{node.id} goes back in group {group}: term, vote, commit and applied index "
                f"were {before} and are {after}"
            )
        if after[2] > len(self._groups[group].committed):
            raise Violation(
                f"{node.id} takes entry {after[2]} of group {group} for committed, which no "
                f"leader has counted"
            )

    def _leads(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        record, core = self._groups[group], host.core
        self.elections += 1
        self._lease_is_over(node, group, core.term)
        if record.leaders.setdefault(core.term, core.replica) != core.replica:
            raise Violation(f"group {group}: two leaders in term {core.term}")
        log = core._state.log
        for index in range(log.base_index + 1, len(record.committed) + 1):
            term, committed_in = record.committed[index - 1]
            if committed_in < core.term and log.term_at(LogIndex(index)) != term:
                raise Violation(
                    f"{node.id} leads group {group} in term {core.term} without the entry "
                    f"{index} of term {term}, which was committed by term {committed_in}"
                )

    def _lease_is_over(self, elected: SimNode, group: GroupId, term: Term) -> None:
        """Whoever led before would not answer a read by its lease any more, asked now."""
        for node in elected.network.nodes.values():
            if node is elected or not node.is_up or node.world.now < node.paused_until:
                continue
            state = node.driver.hosts[group].core._state
            if state.leading is None or state.term >= term:
                continue
            known, state.now = state.now, max(state.now, node.clock())
            has_lease = replication.has_lease(state)
            state.now = known
            if has_lease:
                raise Violation(
                    f"{node.id} still holds a lease on group {group} of term {state.term}, "
                    f"when {elected.id} leads term {term}"
                )

    # -- append, commit, apply --------------------------------------------------------------

    def _appended(self, group: GroupId, host: ShardHost, entries: Sequence[Entry]) -> None:
        record, log = self._groups[group], host.core._state.log
        for entry in entries:
            before = log.term_at(LogIndex(entry.index - 1))
            if before is None:
                continue  # Replaced by a snapshot in this very step.
            known = record.appended.setdefault((entry.index, entry.term), (before, entry.payload))
            if known != (before, entry.payload):
                raise Violation(
                    f"group {group}: two different entries {entry.index} of term {entry.term}"
                )

    def _counted(
        self, node: SimNode, group: GroupId, state: RaftState, config: GroupConfig
    ) -> None:
        """A leader has moved its commit index, by the configuration that was in force."""
        index = state.commit_index
        last_term = state.log.term_at(index)
        if last_term != state.term:
            raise Violation(
                f"{node.id}, leader of group {group} in term {state.term}, commits entry "
                f"{index} of term {last_term} by counting"
            )
        self._check_majority(node, group, config, index, state.term)
        record = self._groups[group]
        if index <= len(record.committed) and record.committed[index - 1][0] != state.term:
            raise Violation(f"group {group}: two committed entries {index}")
        for entry in state.log.between(LogIndex(len(record.committed) + 1), index):
            self._committed(group, record, entry, state.term)

    def _check_majority(
        self, node: SimNode, group: GroupId, config: GroupConfig, index: LogIndex, term: Term
    ) -> None:
        """Nobody may count an entry as committed that a crash of everybody could lose."""

        def has(replica: ReplicaId) -> bool:
            return self._durable[replica, group].has(index, term)

        for half in (config.voters, config.voters_outgoing):
            if half and 2 * sum(map(has, half)) <= len(half):
                raise Violation(
                    f"{node.id} commits entry {index} of group {group}, durable only on "
                    f"{list(filter(has, half))} of {list(half)}"
                )

    @staticmethod
    def _committed(group: GroupId, record: GroupRecord, entry: Entry, term: Term) -> None:
        record.committed.append((entry.term, term))
        if entry.kind is EntryKind.CONFIG:
            record.config = confchange.decode(entry.payload)
        if entry.kind is EntryKind.COMMAND:
            last = commands.last_revision(entry.payload)
            if last <= record.last_revision:
                raise Violation(f"group {group}: revision {last} after {record.last_revision}")
            record.last_revision = last

    def _applied(self, node: SimNode, group: GroupId, host: ShardHost, entry: Entry) -> None:
        record = self._groups[group]
        if entry.index > len(record.committed):
            raise Violation(
                f"{node.id} applies entry {entry.index} of group {group}, which no leader has "
                f"committed"
            )
        term = record.committed[entry.index - 1][0]
        if term != entry.term or record.payload(entry.index, term) != entry.payload:
            raise Violation(
                f"{node.id} applies entry {entry.index} of term {entry.term} in group "
                f"{group}; committed was one of term {term}, or another payload"
            )
        if not self._durable[host.core.replica, group].has(entry.index, entry.term):
            raise Violation(
                f"{node.id} applies entry {entry.index} of group {group} before its own disk has it"
            )

    def _state(self, node: SimNode, group: GroupId, index: LogIndex, fingerprint: int) -> None:
        if self._groups[group].states.setdefault(index, fingerprint) != fingerprint:
            raise Violation(
                f"{node.id} has another state than others after entry {index} of group {group}"
            )


def _replace(owner: object, name: str, function: Callable[..., object]) -> None:
    """Call ``function`` wherever this one object's method ``name`` would be."""
    setattr(owner, name, function)
