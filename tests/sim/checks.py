"""What must hold at every step, whatever the seed does (Raft figure 3, DESIGN section 1).

Hooks in the nodes' hosts lead here. What spans the nodes of a group is held against one record
of all that they ever did (:mod:`sim.group_record`), what a disk keeps against another
(:mod:`sim.durable`), and how a replica votes and leads against the messages that it got
(:mod:`sim.elections`):

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
from typing import TYPE_CHECKING

from kvstore.ids import GroupId, LogIndex, ReplicaId, Term, group_of_shard, number_of
from kvstore.kv.engine import shard_range
from kvstore.raft.messages import (
    AppendResponse,
    GroupConfig,
    SnapshotResponse,
    VoteResponse,
)
from kvstore.raft.ready import Role
from kvstore.storage import records
from sim import leading
from sim.durable import Durable
from sim.elections import ElectionRules, LeaseGiven
from sim.group_record import GroupRecord
from sim.held import HeldRecord
from sim.leading import LeaderRules
from sim.maps import MapRecord
from sim.reshaped import check_step
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kvstore.ids import ShardId
    from kvstore.kv.state_machine import Loaded
    from kvstore.raft.messages import Entry, Message, SnapshotMeta
    from kvstore.raft.ready import ReadState
    from kvstore.raft.state import RaftState
    from kvstore.server.shard_host import ShardHost
    from kvstore.sharding.shard_map import ShardMap
    from kvstore.storage.replay import RecoveredLog
    from kvstore.storage.snapshots import SnapshotStorage
    from sim.node import SimNode


class Checks:
    """Sees whatever the nodes do, through hooks in their hosts."""

    def __init__(self) -> None:
        self._groups: dict[GroupId, GroupRecord] = {}
        self._durable: defaultdict[tuple[ReplicaId, GroupId], Durable] = defaultdict(Durable)
        self._leases: defaultdict[tuple[ReplicaId, GroupId], LeaseGiven] = defaultdict(LeaseGiven)
        self._rules: dict[ShardHost, ElectionRules] = {}
        self._leading: dict[ShardHost, LeaderRules] = {}
        self._roles: dict[ShardHost, tuple[Role, Term]] = {}
        self._latest: dict[ShardHost, tuple[Term, ReplicaId, LogIndex, LogIndex]] = {}
        self.maps = MapRecord()
        self.held = HeldRecord(self.committed_config)
        self.elections = 0
        self.installs = 0

    def entries_committed(self) -> int:
        return sum(len(record.committed) for record in self._groups.values())

    def committed_config(self, group: GroupId) -> GroupConfig | None:
        """The newest one that a leader has committed; None while that is the first."""
        configs = self._record(group).configs
        return configs[-1][1] if configs else None

    def founded(self, founding: ShardMap) -> None:
        """What the cluster begins with."""
        self.maps.known(founding)
        for group in founding.groups():
            voters = tuple(sorted(replica.id for replica in founding.members(group)))
            self.held.founded(group, GroupConfig(voters))

    def _record(self, group: GroupId) -> GroupRecord:
        return self._groups.setdefault(group, GroupRecord(group))

    # -- hooks ------------------------------------------------------------------------------

    def watch(self, node: SimNode, host: ShardHost, *, on_install: Callable[[], None]) -> None:
        """See whatever enters the log of ``host``, is applied, or replaces its state."""
        group, engine = group_of_shard(host.shard), node.engine
        prefix, record = shard_range(host.shard)[0][:2], self._record(group)
        self._watch_core(node, group, host)
        self._watch_reads(node, group, host)
        self.held.runs(node, host)
        record.state(node.id, host.core.applied_index, engine.fingerprint(prefix))
        observe, apply, written = host.observe, host.apply, host.written
        begin_install, replaced = host.begin_install, host.replaced_by_snapshot

        def observe_and_check(entries: Sequence[Entry]) -> None:
            observe(entries)
            record.append(host.core._state.log, entries)

        def apply_and_check() -> Entry:
            entry = apply()
            record.apply(node.id, entry)
            if not self._durable[host.core.replica, group].has(entry.index, entry.term):
                raise Violation(f"{node.id} applies {entry} before its own disk has it")
            return entry

        def written_and_check(index: LogIndex) -> None:
            written(index)
            record.state(node.id, index, engine.fingerprint(prefix))
            _check_counts(node, host)

        def begin_install_and_tell() -> None:
            begin_install()
            on_install()

        def replaced_and_check(index: LogIndex, loaded: Loaded) -> None:
            replaced(index, loaded)
            self.installs += 1
            if host.clock.last < host.machine.last_revision:
                raise Violation(f"{node.id} could give revisions again that a snapshot brought")
            record.state(node.id, index, engine.fingerprint(prefix))
            _check_counts(node, host)

        _replace(host, "observe", observe_and_check)
        _replace(host, "apply", apply_and_check)
        _replace(host, "written", written_and_check)
        _replace(host, "begin_install", begin_install_and_tell)
        _replace(host, "replaced_by_snapshot", replaced_and_check)

    def _watch_core(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        """Votes are given to whom they may be, and commits are counted as they may be."""
        core, state = host.core, host.core._state
        step, persisted, installed = core.step, core.persisted, core.snapshot_installed
        propose_config = core.propose_config
        lease = self._leases[core.replica, group]
        rules = ElectionRules(node.id, state, lease, time_scale=node.swarm.time_scale)
        self._rules[host] = rules
        self._leading[host] = LeaderRules(node.id, state, time_scale=node.swarm.time_scale)

        def counting(change: Callable[[], None]) -> None:
            was_leading, term, commit = state.leading is not None, state.term, state.commit_index
            config = state.config
            change()
            if was_leading and term == state.term and commit != state.commit_index:
                self._counted(node, group, state, config)

        def step_and_check(message: Message, now: float) -> None:
            was, must_refuse = (state.term, state.vote), rules.before(message, now)
            match_index, receiving = leading.match_of(state, message), state.receiving
            counting(lambda: step(message, now))
            rules.after(message, now, was, must_refuse)
            leading.check_answer(node.id, state, message, match_index)
            leading.check_acknowledgement(node.id, state, message)
            leading.check_chunk(node.id, state, message, receiving)
            leading.check_config(node.id, state)

        def propose_config_and_check(
            voters: Iterable[ReplicaId],
            learners: Iterable[ReplicaId],
            now: float,
            *,
            epoch: int | None = None,
        ) -> LogIndex:
            pending, before = state.log.config_index, state.config
            index = propose_config(voters, learners, now, epoch=epoch)
            leading.check_proposal(node.id, state, pending)
            if epoch is not None:
                check_step(node.id, group, state, before, self.maps.of(epoch))
            return index

        def persisted_and_check(index: LogIndex, term: Term, now: float) -> None:
            counting(lambda: persisted(index, term, now))

        def installed_and_check(meta: SnapshotMeta, now: float) -> None:
            if state.log.term_at(meta.index) == meta.term:
                raise Violation(f"{node.id} drops a log that has entry {meta.index} already")
            installed(meta, now)
            self._record(group).installed(node.id, meta, core.config)

        _replace(core, "step", step_and_check)
        _replace(core, "propose_config", propose_config_and_check)
        _replace(core, "persisted", persisted_and_check)
        _replace(core, "snapshot_installed", installed_and_check)

    @staticmethod
    def watch_installs(node: SimNode, storage: SnapshotStorage) -> None:
        """A snapshot is put in force only when the engine has all that was applied before it."""
        installation = storage.installation

        def check_and_begin(group: GroupId, shard: ShardId) -> Iterator[int]:
            if node.driver._applier._unwritten is not None:
                raise Violation(f"{node.id} installs a snapshot with an older write to come")
            return installation(group, shard)

        _replace(storage, "installation", check_and_begin)

    def _watch_reads(self, node: SimNode, group: GroupId, host: ShardHost) -> None:
        """No read may be served from a state that lacks what was committed before it."""
        read_index, confirm, record = host.core.read_index, host.confirm, self._record(group)
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

    def lost_data(self, node: SimNode) -> None:
        """All data of ``node`` are gone, and it begins another life with new ones."""
        self.held.forget(node)
        self.maps.forget(node.id)

    # -- disks --------------------------------------------------------------------------------

    def started(self, node: SimNode, logs: Mapping[GroupId, RecoveredLog]) -> None:
        """A process has read its disk: it has what it must, and goes on from just that."""
        self.held.started(node)
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
            if core.applied_index > core.last_index:
                raise Violation(f"{node.id} goes on from a log that ends before its state")
            self._record(group).append(state.log, entries)

    def durable(self, node: SimNode, written: Sequence[bytes]) -> None:
        """The writer says that these records are on the disk of ``node``."""
        for record in written:
            group = GroupId(records.peek(record)[1])
            if not self.held.durable(node, record):
                self._durable[self.held.replica_of(node, group), group].take(record)

    def sent(self, node: SimNode, messages: Sequence[tuple[GroupId, Message]]) -> None:
        """Messages leave a node: what they promise is on its disk."""
        for group, message in messages:
            durable = self._durable[message.sender, group]
            self.held.sent(group, message)
            match message:
                case VoteResponse(granted=True, pre_vote=False):
                    self._vote(group, message, durable)
                case AppendResponse(rejected=False):
                    self._acknowledgement(node, group, message, durable)
                case SnapshotResponse(installed=True):
                    if not durable.reaches(message.index):
                        raise Violation(f"{message} leaves with a disk up to {durable.end}")
                case _:
                    pass  # Nothing rests on its sender's disk.

    def _vote(self, group: GroupId, message: VoteResponse, durable: Durable) -> None:
        self._record(group).vote(message)
        promised = message.term, message.receiver
        if (durable.term, durable.vote) != promised and durable.term <= message.term:
            raise Violation(f"{message} leaves before that vote is durable")

    def _acknowledgement(
        self, node: SimNode, group: GroupId, message: AppendResponse, durable: Durable
    ) -> None:
        """All up to the index is durable here, and equal to what the leader of the term has."""
        index = message.match_index
        if durable.term < message.term or not durable.reaches(index):
            raise Violation(f"{message} leaves with a disk up to {durable.end}")
        own = durable.entries.get(index) if index > durable.mark else None
        for other in node.network.nodes.values():
            for host in other.known_hosts():
                state = host.core._state
                if state.leading is None or (state.term, state.replica) != (
                    message.term,
                    message.receiver,
                ):
                    continue
                if group_of_shard(host.shard) == group and own is not None:
                    theirs = state.log.term_at(index)
                    if theirs is not None and theirs != own:
                        raise Violation(f"{message} is about an entry of term {own}, not {theirs}")

    # -- at the end of an iteration ---------------------------------------------------------

    def after_iteration(self, node: SimNode) -> None:
        """An iteration of the event loop of ``node`` is over."""
        for group, host in node.driver.hosts.items():
            core, state = host.core, host.core._state
            latest = state.term, state.vote, state.commit_index, state.applied_index
            self._rules[host].judge(node.clock())
            if state.leading is not None:
                self._leading[host].judge(node.clock(), self._promise_holder(node, group))
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
                self.elections += 1
                leading.check_leases_over(node, group, core.term)
                self._record(group).lead(node.id, core, state.log)

    def _promise_holder(self, node: SimNode, group: GroupId) -> Callable[[ReplicaId], bool]:
        """Tells whether a replica's node would refuse to vote, by its own clock."""
        timeout_s = node.config.raft.election_timeout_s_min

        def holds_promise(replica: ReplicaId) -> bool:
            voter = node.network.nodes[self.maps.node_of(number_of(replica))]
            return voter.clock() - self._leases[replica, group].at < timeout_s

        return holds_promise

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
        self._record(group).check_known(node.id, after[2])

    # -- commits -----------------------------------------------------------------------------

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
        self._record(group).commit(state.log, index, state.term)
        if state.config.voters_outgoing and state.log.config_index <= index:
            raise Violation(f"{node.id} stays in a joint configuration that it has committed")

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


def _check_counts(node: SimNode, host: ShardHost) -> None:
    told = host.machine.keys, host.machine.size_bytes
    counted = node.engine.counts(shard_range(host.shard)[0][:2])
    if told != counted:
        raise Violation(f"{node.id} says {told} of shard {host.shard}, and holds {counted}")


def _replace(owner: object, name: str, function: Callable[..., object]) -> None:
    """Call ``function`` wherever this one object's method ``name`` would be."""
    setattr(owner, name, function)
