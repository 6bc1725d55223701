"""The façade of one replica: input in, decisions out (the shape of etcd's raft and of h11).

``step``, ``tick``, ``propose`` and the reports of the driver change the state; ``ready()``
hands over everything that follows from it. Nothing here is asynchronous, reads a clock or
draws from a global random generator.

This module holds no rule of Raft: it passes each input to the module that does, and gathers
what they decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import (
    commit,
    compaction,
    dispatch,
    election,
    follower,
    leader,
    membership,
    read_rounds,
    replication,
    snapshots,
)
from kvstore.raft.handover import Handover
from kvstore.raft.messages import SnapshotMeta
from kvstore.raft.progress import ProgressState
from kvstore.raft.reads import ReadRequest
from kvstore.raft.ready import Role
from kvstore.raft.state import RaftState, RecoveredGroup
from kvstore.raft.status import status_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from kvstore.config import RaftConfig
    from kvstore.ids import ReplicaId, Term
    from kvstore.raft.messages import GroupConfig, Message
    from kvstore.raft.ready import Ready, Status

__all__ = ["RaftCore", "RecoveredGroup"]


class RaftCore:
    """One replica of one group. ``now`` is in seconds and never runs backwards."""

    def __init__(
        self,
        *,
        replica: ReplicaId,
        config: RaftConfig,
        recovered: RecoveredGroup,
        rng: random.Random,
        now: float,
    ) -> None:
        self._state = RaftState(replica, config, recovered, rng, now)
        self._handover = Handover(recovered.hard_state)
        self._ticked_at = now
        self._changed = True

    # -- questions ----------------------------------------------------------------------------

    @property
    def replica(self) -> ReplicaId:
        """Our own id."""
        return self._state.replica

    @property
    def role(self) -> Role:
        """What this replica is doing."""
        return self._state.role

    @property
    def term(self) -> Term:
        """The current term."""
        return self._state.term

    @property
    def leader(self) -> ReplicaId:
        """Who leads the term as far as we know, or ``NO_REPLICA``."""
        return self._state.leader

    @property
    def standing(self) -> tuple[Role, Term, ReplicaId]:
        """Role, term and leader."""
        state = self._state
        return state.role, state.term, state.leader

    @property
    def is_settled(self) -> bool:
        """Whether no election is near: a leader lives as far as we know, or we may not stand."""
        state = self._state
        has_leader = state.leader != NO_REPLICA and state.leader not in state.gone
        return has_leader or not state.is_promotable

    @property
    def reads_due_at(self) -> float | None:
        """When reads that are not confirmed by then want a :meth:`tick`, or None."""
        leading = self._state.leading
        return None if leading is None else read_rounds.due_at(leading)

    def awaits_round(self, context: int) -> bool:
        """Whether the read index of ``context`` will be one of a round that is yet to begin."""
        leading = self._state.leading
        return leading is not None and ReadRequest(context, self.replica) in leading.reads.waiting

    @property
    def is_installing(self) -> bool:
        """Whether a received snapshot is whole and not yet reported as installed or aborted."""
        return self._state.is_installing

    @property
    def is_handing_over(self) -> bool:
        """Whether this leader takes no proposals, for another is about to lead."""
        leading = self._state.leading
        return leading is not None and leading.transferring_to != NO_REPLICA

    @property
    def applied_index(self) -> LogIndex:
        """What the driver has reported as applied."""
        return self._state.applied_index

    @property
    def last_index(self) -> LogIndex:
        """The end of the log, durable or not."""
        return self._state.log.last_index

    @property
    def config(self) -> GroupConfig:
        """The members of the group: the newest configuration in the log."""
        return self._state.config

    @property
    def committed_config(self) -> GroupConfig:
        """The newest configuration that is known to be committed: no loss can undo it."""
        return self._state.log.config_at(self._state.commit_index)

    def snapshot_meta(self, index: LogIndex) -> SnapshotMeta:
        """What a snapshot of the state at the applied ``index`` stands for."""
        log = self._state.log
        term = log.term_at(index)
        assert term is not None
        return SnapshotMeta(index, term, log.config_at(index))

    def status(self, now: float) -> Status:
        """A view for operators and the controller."""
        return status_of(self._state, now)

    # -- time and messages --------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look at the timers. After a standstill of this process nobody is judged by it."""
        state = self._state
        stood_still = now - self._ticked_at > state.options.election_timeout_s_min / 2
        self._ticked_at = now
        self._advance(now)
        if stood_still:
            state.arrivals.restart()
            if state.leading is not None:
                leader.woke_up(state)
            else:
                state.reset_election_timer()
        overdue = state.forwarded_reads.take_overdue(now)
        if overdue:
            state.out.reads_failed += overdue
            self._changed = True
        if state.leading is not None:
            self._changed |= leader.tick(state)
        elif now >= state.election_at:
            election.stand(state)
            self._changed = True

    def step(self, message: Message, now: float) -> None:
        """Take one message. What is not for this replica, unknown or of the past is dropped.

        Of what comes from the network only what is plausible (see :mod:`kvstore.raft.validation`).
        """
        state = self._state
        if message.receiver != state.replica:
            return
        self._advance(now)
        dispatch.dispatch(state, message)
        self._changed = self._changed or self._handover.has_more(state)

    def _advance(self, now: float) -> None:
        if now > self._state.now:
            self._state.now = now

    # -- requests of the driver -----------------------------------------------------------------

    def propose(self, payload: bytes, now: float) -> tuple[LogIndex, Term]:
        """Append a command; it is committed when ``ready()`` hands it back with this term.

        Raises:
            NotLeader: we do not lead, or are handing over.
            Overloaded: ``uncommitted_bytes_max`` is reached.
        """
        self._advance(now)
        at = replication.propose(self._state, payload)
        self._changed = True
        return at

    def propose_config(
        self,
        voters: Iterable[ReplicaId],
        learners: Iterable[ReplicaId],
        now: float,
        *,
        epoch: int | None = None,
    ) -> LogIndex:
        """Begin a change to these members, through a joint configuration where needed.

        A later ``epoch`` is a change by itself; None leaves it as it is.

        Raises:
            NotLeader: we do not lead, or are handing over.
            Overloaded: another change, or the term's first entry, is not committed yet
                (the latter closes the hole found in 2015 in single-server changes).
            InvalidArgument: not a change, or none that is allowed.
        """
        self._advance(now)
        index = membership.propose(self._state, voters, learners, epoch)
        self._changed = True
        return index

    def transfer_leadership(self, to: ReplicaId, now: float) -> None:
        """Let ``to`` take over once it has our whole log (thesis §3.10).

        Proposals are refused meanwhile, at most for one election timeout.

        Raises:
            NotLeader: we do not lead.
            InvalidArgument: ``to`` is no other voter.
        """
        self._advance(now)
        leader.transfer(self._state, to)
        self._changed = True

    def read_index(self, context: int, now: float) -> None:
        """Ask for an index at which a read is linearizable.

        Answered by exactly one of ``Ready.read_states`` and ``Ready.reads_failed``.
        """
        self._advance(now)
        state = self._state
        self._changed = True
        if state.leading is not None:
            leader.request_read(state, ReadRequest(context, state.replica))
        else:
            follower.forward_read(state, context)

    def campaign(self, now: float) -> None:
        """Stand now instead of waiting for the timer; a pre-vote, so it cannot disturb."""
        self._advance(now)
        if self._state.role is not Role.LEADER:
            election.stand(self._state)
            self._changed = True

    # -- connections ----------------------------------------------------------------------------

    def peer_gone(self, peer: ReplicaId, now: float) -> None:
        """The connection to ``peer`` dropped and a new one was refused: its process is dead."""
        self._advance(now)
        election.peer_gone(self._state, peer)
        if self._state.leading is not None:
            leader.peer_gone(self._state, peer)
        self.peer_unreachable(peer, now)

    def peer_connected(self, peer: ReplicaId, now: float) -> None:
        """A connection to ``peer`` stands again; what was under way on the old one is lost."""
        state = self._state
        state.gone.pop(peer, None)
        self.peer_unreachable(peer, now)
        if state.leading is not None and peer in state.leading.tracker.peers:
            state.leading.tracker.peers[peer].probe_sent = False

    def peer_unreachable(self, peer: ReplicaId, now: float) -> None:
        """Messages to ``peer`` were lost: find out how far it is once it is heard again."""
        self._advance(now)
        state = self._state
        if state.leading is None:
            return
        progress = state.leading.tracker.peers.get(peer)
        if progress is None:
            return
        if progress.state is ProgressState.SNAPSHOT:
            snapshots.abort(state, progress)
        else:
            progress.become_probe()
            progress.probe_sent = True
        self._changed = True

    # -- reports of the driver --------------------------------------------------------------------

    def persisted(self, index: LogIndex, term: Term, now: float) -> None:
        """The write whose last entry was (``index``, ``term``) is durable, and all before it."""
        self._advance(now)
        state = self._state
        if state.log.wrote(index, term):
            if state.leading is not None:
                commit.advance_commit(state)
            self._changed = self._changed or self._handover.has_more(state)

    def applied(self, index: LogIndex) -> None:
        """The state machine holds everything up to ``index``; the log may be compacted."""
        state = self._state
        if index <= state.applied_index:
            return
        assert index <= state.handed_index
        state.applied_index = index
        self._changed |= compaction.maybe_compact(state)

    def snapshot_read(
        self,
        peer: ReplicaId,
        transfer: int,
        meta: SnapshotMeta | None,
        data: bytes,
        *,
        is_last: bool,
        now: float,
    ) -> None:
        """The answer to a ``SnapshotRead``; ``meta`` comes with the piece at offset 0."""
        self._advance(now)
        current = snapshots.current_transfer(self._state, peer, transfer)
        if current is not None:
            snapshots.chunk_read(self._state, *current, meta, data, is_last=is_last)
            self._changed = True

    def snapshot_failed(self, peer: ReplicaId, transfer: int, now: float) -> None:
        """A ``SnapshotRead`` could not be carried out: the attempt ends."""
        self._advance(now)
        current = snapshots.current_transfer(self._state, peer, transfer)
        if current is not None:
            snapshots.abort(self._state, current[0])
            self._changed = True

    def snapshot_written(self, transfer: int, next_offset: int, now: float) -> None:
        """A ``SnapshotWrite`` is done; the stream is stored up to ``next_offset``."""
        self._advance(now)
        snapshots.written(self._state, transfer, next_offset)
        self._changed = True

    def snapshot_aborted(self, transfer: int, now: float) -> None:
        """A ``SnapshotWrite`` failed; nothing of the attempt is kept."""
        self._advance(now)
        snapshots.aborted(self._state, transfer)
        self._changed = True

    def snapshot_installed(self, meta: SnapshotMeta, now: float) -> None:
        """The received state is in force, durable, and the log on disk begins behind it."""
        self._advance(now)
        snapshots.installed(self._state, meta)
        self._changed = True

    # -- decisions ------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether :meth:`ready` may have something to say."""
        return self._changed

    def ready(self, now: float) -> Ready:
        """Everything to persist, send, apply and answer since the last call."""
        self._advance(now)
        self._changed = False
        return self._handover.take(self._state)
