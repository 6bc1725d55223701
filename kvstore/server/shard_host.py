"""One shard on this node: its Raft core, its state machine, and the requests that wait on them.

A host decides nothing about consensus and does no I/O. The driver calls :meth:`collect`,
asks the core for its ``Ready``, has it written and sent, and comes back with
:meth:`apply` and, once the engine has the result, :meth:`written`. What a client asked for
waits in one of five places, each bounded by admission control, and leaves it with exactly
one answer:

``_writes``     arrived in this tick, not yet proposed;
``_proposed``   in the log, waiting to be committed and applied;
``_applied``    run, waiting for the engine's write;
``_reads``      arrived in this tick, no read index asked for yet;
``_confirming`` waiting for a read index or for the state to reach it.

While an entry is under way, what arrives gathers for the next one, at most ``GATHER_S``: a busy
shard's log has few large entries, and what an entry costs on three nodes is shared by many.

A leader that hands over proposes nothing, and one that has lost its role soon hears who has it:
until then, at most ``HOLD_S``, requests wait here, so that a client that is sent on knows where to.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.errors import Internal, KVError, NotLeader, Unavailable, copy_of
from kvstore.ids import META_SHARD, LogIndex
from kvstore.kv import commands
from kvstore.raft.messages import Entry, EntryKind
from kvstore.raft.ready import Role
from kvstore.server.checkpoints import Checkpoints
from kvstore.server.pending import Confirming, Proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.hlc import HybridClock
    from kvstore.ids import NodeId, ReplicaId, ShardId
    from kvstore.kv.limits import ApplyLimits
    from kvstore.kv.state_machine import Loaded, StateMachine
    from kvstore.raft.core import RaftCore
    from kvstore.raft.ready import ReadState
    from kvstore.server.pending import Read, Write


GATHER_S: Final = 0.002
"""Where the way to the other replicas takes longer, entries follow each other at this distance."""

HOLD_S: Final = 0.1
"""An election in which nobody is missing takes a tenth of that."""


class Replicas(Protocol):
    """Tells the node of each replica; see :class:`kvstore.server.replicas.ReplicaNodes`."""

    def get(self, replica: ReplicaId, /) -> NodeId | None:
        """The node of ``replica``, if it is known."""
        ...

    def __getitem__(self, replica: ReplicaId, /) -> NodeId: ...

    def __contains__(self, replica: ReplicaId, /) -> bool: ...


class ShardHost:
    """Invariant: a proposal is answered when its result is written, lost or overdue, once."""

    def __init__(
        self,
        shard: ShardId,
        core: RaftCore,
        machine: StateMachine,
        clock: HybridClock,
        replicas: Replicas,
        *,
        apply_limits: ApplyLimits,
        entry_bytes_max: int,
        request_timeout_s: float,
    ) -> None:
        self.shard = shard
        self.core = core
        self.machine = machine
        self.clock = clock
        self.replicas = replicas
        self.has_left = False
        """This node does not hold the shard any more: whatever is still under way is void."""
        self.on_written: Callable[[], None] = lambda: None
        """Told whenever the engine holds more of the state than before."""
        self.installing = False
        """The state is being replaced by a snapshot: nothing may be served from it."""
        self.installs = 0
        """How often that has begun; what was read while it changed is worth nothing."""
        self.checkpoints = Checkpoints()
        """Applied indexes at which somebody wants to see the state."""
        self._apply_limits = apply_limits
        self._entry_bytes_max = entry_bytes_max
        self._request_timeout_s = request_timeout_s
        self._writes: deque[Write] = deque()
        self._writes_bytes = 0
        self._gather_until = 0.0
        self._proposed: deque[Proposal] = deque()
        self._applied: list[Proposal] = []
        self._reads: list[Read] = []
        self._confirming: dict[int, Confirming] = {}
        self._next_context = 1
        self._hold_until: float | None = None
        """While set, who led until now waits to hear who leads."""
        self.to_apply: deque[Entry] = deque()
        self.to_apply_bytes = 0
        """Payload bytes in ``to_apply``."""

    @property
    def is_meta(self) -> bool:
        """Whether this is the meta group, which no client asks for anything."""
        return self.shard == META_SHARD

    @property
    def name(self) -> str:
        """What to call it where people read."""
        return "the meta group" if self.is_meta else f"shard {self.shard}"

    @property
    def is_leader(self) -> bool:
        """Whether this replica believes that it leads the shard."""
        return self.core.role is Role.LEADER

    @property
    def leader_node(self) -> NodeId | None:
        """The node that leads the shard as far as this replica knows."""
        return self.replicas.get(self.core.leader)

    # -- requests come in ---------------------------------------------------------------

    def check_is_asked(self) -> None:
        """See whether requests are for this replica.

        Raises:
            NotLeader: they are for another.
        """
        if not (self.is_leader or self.is_holding):
            raise self._not_leader()

    def write(self, write: Write) -> None:
        """Queue a batch for this tick's entry, or answer that we do not lead."""
        if self.is_leader or self.is_holding:
            self._writes.append(write)
            self._writes_bytes += len(write.batch_bytes)
        else:
            write.answer.fail(self._not_leader())

    def read(self, read: Read) -> None:
        """Queue a linearizable read for this tick's read index."""
        if (self.is_leader or self.is_holding) and not self.installing:
            self._reads.append(read)
        else:
            read.answer.fail(self._not_leader())

    def collect(self, now: float, wall_ms: int) -> None:
        """Propose everything that arrived in this tick; ask one read index for its reads."""
        if not (self._writes or self._reads) or not self.is_leader:
            return
        while self._writes and not self.core.is_handing_over:
            if self._is_gathering(now):
                break
            self._propose(self._next_entry(), now, wall_ms)
        if self._reads:
            self._ask_for_index(now)

    def _ask_for_index(self, now: float) -> None:
        """Ask for all reads of this tick; as long as no round may begin, by the same question."""
        reads, self._reads = self._reads, []
        newest = self._next_context - 1
        asked = self._confirming.get(newest)
        if asked is not None and self.core.awaits_round(newest):
            asked.reads += reads
            return
        context, self._next_context = self._next_context, self._next_context + 1
        self._confirming[context] = Confirming(now + self._request_timeout_s, reads)
        self.core.read_index(context, now)

    def _is_gathering(self, now: float) -> bool:
        """Whether what arrived should wait for more to share its entry."""
        return (
            bool(self._proposed)
            and now < self._gather_until
            and self._writes_bytes < self._entry_bytes_max
        )

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits to be proposed or applied."""
        return bool(self._writes or self.to_apply)

    @property
    def may_propose(self) -> bool:
        """Whether nothing is under way any more that gathering writes have waited for."""
        return bool(self._writes) and not self._proposed and self._takes_proposals

    @property
    def is_gathering(self) -> bool:
        """Whether writes wait for more to share their entry; :meth:`collect` ends that in time."""
        return bool(self._writes) and bool(self._proposed) and self._takes_proposals

    @property
    def _takes_proposals(self) -> bool:
        return self.is_leader and not self.core.is_handing_over

    def _next_entry(self) -> list[Write]:
        """As many queued batches as fit one entry, at least one."""
        writes = [self._writes.popleft()]
        size = len(writes[0].batch_bytes)
        while self._writes:
            following = len(self._writes[0].batch_bytes)
            if size + following > self._entry_bytes_max:
                break
            size += following
            writes.append(self._writes.popleft())
        self._writes_bytes -= size
        return writes

    def _propose(self, writes: list[Write], now: float, wall_ms: int) -> None:
        first = self.clock.reserve(sum(write.count for write in writes), wall_ms)
        payload = commands.encode_entry(
            first, [(w.count, w.batch_bytes) for w in writes], self._apply_limits
        )
        try:
            index, term = self.core.propose(payload, now)
        except KVError as error:
            if isinstance(error, NotLeader):
                error = self._not_leader()
            for write in writes:
                write.answer.fail(error)
            return
        self._gather_until = now + GATHER_S
        deadline = now + self._request_timeout_s
        self._proposed.append(Proposal(index, term, deadline, writes))

    # -- the core's decisions come back ---------------------------------------------------

    def observe(self, entries: Sequence[Entry]) -> None:
        """Entries enter our log: should we lead, our revisions must lie above theirs."""
        for entry in entries:
            if entry.kind is EntryKind.COMMAND:
                self.clock.observe(commands.last_revision(entry.payload))

    def commit(self, entries: Sequence[Entry]) -> None:
        """Entries are committed and durable here: queue them for :meth:`apply`."""
        self.to_apply.extend(entries)
        self.to_apply_bytes += sum(len(entry.payload) for entry in entries)

    def apply(self) -> Entry:
        """Run the oldest committed entry; answers leave once what it did is :meth:`written`."""
        entry, machine = self.to_apply.popleft(), self.machine
        self.to_apply_bytes -= len(entry.payload)
        replies: list[bytes] = []
        match entry.kind:
            case EntryKind.COMMAND:
                replies = machine.apply(entry.index, entry.term, entry.payload)
            case EntryKind.CONFIG:
                machine.apply_config(entry.index, entry.term, entry.payload)
            case EntryKind.NOOP:
                machine.apply_noop(entry.index, entry.term)
        proposal = self._take_proposal(entry)
        if proposal is not None and proposal.writes:
            proposal.replies = replies
            self._applied.append(proposal)
        return entry

    def written(self, index: LogIndex) -> None:
        """The engine holds everything run so far, up to ``index``: answer for it."""
        self.machine.written()
        self.core.applied(index)
        applied, self._applied = self._applied, []
        for proposal in applied:
            if proposal.writes:  # else it became overdue meanwhile
                for write, reply in zip(proposal.writes, proposal.replies, strict=True):
                    write.answer.reply(reply)
        self.checkpoints.reached(index)
        self.on_written()

    def _take_proposal(self, entry: Entry) -> Proposal | None:
        """What was proposed here as ``entry``, if anything.

        Another leader's entry at the index of one of ours proves that ours is gone for good;
        an entry beyond it proves nothing.
        """
        while self._proposed and self._proposed[0].index <= entry.index:
            proposal = self._proposed.popleft()
            if proposal.index == entry.index and proposal.term == entry.term:
                return proposal
            is_unknown = proposal.index < entry.index
            self._fail_writes(proposal, self._not_leader(may_have_applied=is_unknown))
        return None

    def confirm(self, states: Sequence[ReadState], failed: Sequence[int]) -> None:
        """The core named a read index, or says that it cannot."""
        for state in states:
            confirming = self._confirming.get(state.context)
            if confirming is not None:
                confirming.index = state.index
        for context in failed:
            confirming = self._confirming.pop(context, None)
            if confirming is not None:
                self._reads += confirming.reads  # for the next leader

    def serve_reads(self) -> None:
        """Serve every read whose index the applied state has reached, oldest first."""
        if not self._confirming or self.installing:
            return
        applied = self.core.applied_index
        done = [
            context
            for context, confirming in self._confirming.items()
            if confirming.index is not None and confirming.index <= applied
        ]
        for context in done:
            for read in self._confirming.pop(context).reads:
                read.serve()

    # -- somebody else leads ------------------------------------------------------------------

    @property
    def is_holding(self) -> bool:
        """Whether requests wait here until it is known who leads."""
        return self._hold_until is not None

    def lost_leadership(self, now: float) -> None:
        """Send what waits to the next leader, as soon as that is known."""
        self._hold_until = now + HOLD_S
        self.leader_changed()

    def leader_changed(self) -> None:
        """See whether what is held can go on."""
        if self.is_leader:
            self._hold_until = None
        elif self.is_holding and self.leader_node is not None:
            self._send_on()

    def _send_on(self) -> None:
        """Answer what waits: entries in the log may still commit under the next leader."""
        self._hold_until = None
        for proposal in self._proposed:
            self._fail_writes(proposal, self._not_leader(may_have_applied=True))
        self._proposed.clear()
        while self._writes:
            self._writes.popleft().answer.fail(self._not_leader())
        self._writes_bytes = 0
        for read in self._reads:
            read.answer.fail(self._not_leader())
        self._reads = []

    def expire(self, now: float) -> None:
        """Give up on requests that waited longer than the node's own bound."""
        if self._hold_until is None:
            # It may have led and been deposed within one tick: nobody saw either.
            is_over = bool(self._writes or self._reads) and not self.is_leader
        else:
            is_over = now >= self._hold_until
        if is_over:
            self._send_on()
        for proposal in chain(self._applied, self._proposed):
            if proposal.deadline > now:
                break
            error = f"{self.name}: the write was not confirmed and applied in time"
            self._fail_writes(proposal, Unavailable(error, may_have_applied=True))
        overdue = [c for c, confirming in self._confirming.items() if confirming.deadline <= now]
        for context in overdue:
            self._fail_reads(
                self._confirming.pop(context),
                Unavailable(f"{self.name}: no majority confirmed the read in time"),
            )
        self.checkpoints.expire(now, LogIndex(self.machine.applied_index))

    def leave(self) -> None:
        """This node holds the shard no more: whoever waits here is sent to those who do."""
        self.has_left = True
        self.fail_all(self._not_leader())

    def fail_all(self, error: KVError) -> None:
        """Nothing waits here any longer, for the node stops or the shard leaves it."""
        self._send_on()
        unknown = copy_of(error)
        unknown.may_have_applied = True
        for proposal in self._applied:
            self._fail_writes(proposal, unknown)
        self._applied.clear()
        for confirming in self._confirming.values():
            self._fail_reads(confirming, error)
        self._confirming.clear()
        self.checkpoints.fail_all(error)

    def begin_install(self) -> None:
        """From now on the state is being replaced: nothing is applied to it or served from it."""
        self.installing = True
        self.installs += 1
        self.checkpoints.fail_all(self.being_replaced())

    def being_replaced(self) -> Unavailable:
        """Why nothing can be said of the state while a snapshot is installed."""
        return Unavailable(f"{self.name}: a snapshot is replacing the replica's state")

    def replaced_by_snapshot(self, index: LogIndex, loaded: Loaded) -> None:
        """The engine holds the state after ``index``, sent by a leader: that is ``loaded``."""
        self.machine.reload(loaded)
        if self.machine.applied_index != index:
            raise Internal(
                f"{self.name}: a snapshot at {index} holds the state "
                f"after {self.machine.applied_index}"
            )
        self.clock.observe(self.machine.last_revision)
        waiting = [entry for entry in self.to_apply if entry.index > index]
        self.to_apply.clear()
        self.to_apply_bytes = 0
        self.commit(waiting)
        self.installing = False
        self.on_written()

    @property
    def is_busy(self) -> bool:
        """Whether a client still waits for an answer of this shard."""
        return bool(
            self._writes or self._proposed or self._applied or self._reads or self._confirming
        )

    @staticmethod
    def _fail_writes(proposal: Proposal, error: KVError) -> None:
        for write in proposal.writes:
            write.answer.fail(error)
        proposal.writes = []

    @staticmethod
    def _fail_reads(confirming: Confirming, error: KVError) -> None:
        for read in confirming.reads:
            read.answer.fail(error)
        confirming.reads = []

    def _not_leader(self, *, may_have_applied: bool = False) -> NotLeader:
        leader = self.leader_node
        here = leader is not None and self.is_leader
        said = f"is led by {leader}" if leader else "has no leader"
        return NotLeader(
            f"{self.name} {'has left this node' if self.has_left else said}",
            leader=None if here else leader,
            may_have_applied=may_have_applied,
        )
