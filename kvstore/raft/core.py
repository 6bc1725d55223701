"""The façade of one replica: input in, decisions out (the shape of etcd's raft and of h11).

``step``, ``tick``, ``propose`` and the reports of the driver change the state; ``ready()``
hands over everything that follows from it. Nothing here is asynchronous, reads a clock or
draws from a global random generator.

This module sorts messages by term and role (Raft figure 2, "Rules for Servers"); what is to
be done with them stands in ``follower``, ``candidate`` and ``leader``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument, NotLeader, Overloaded
from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import (
    candidate,
    confchange,
    election,
    follower,
    leader,
    replication,
    snapshots,
)
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.messages import HardState as HardState
from kvstore.raft.progress import ProgressState
from kvstore.raft.reads import ReadRequest
from kvstore.raft.ready import PeerProgress, Ready, Role, Status
from kvstore.raft.state import Outbox, RaftState, RecoveredGroup

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from kvstore.config import RaftConfig
    from kvstore.ids import ReplicaId, Term
    from kvstore.raft.messages import Entry, Message

__all__ = ["RaftCore", "RecoveredGroup"]

_FROM_LEADER = AppendRequest | Heartbeat | SnapshotChunk | TimeoutNow
_TO_LEADER = AppendResponse | HeartbeatResponse | SnapshotResponse


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
        self._saved = recovered.hard_state
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
    def is_settled(self) -> bool:
        """Whether a leader is known and not known to be dead: no election is near."""
        return self._state.leader != NO_REPLICA and self._state.leader not in self._state.gone

    @property
    def applied_index(self) -> LogIndex:
        """What the driver has reported as applied."""
        return self._state.applied_index

    @property
    def last_index(self) -> LogIndex:
        """The end of the log, durable or not."""
        return self._state.log.last_index

    def snapshot_meta(self, index: LogIndex) -> SnapshotMeta:
        """What a snapshot of the state at the applied ``index`` stands for."""
        log = self._state.log
        term = log.term_at(index)
        assert term is not None
        return SnapshotMeta(index, term, log.config_at(index))

    def status(self, now: float) -> Status:
        """A view for operators and the controller."""
        state = self._state
        progress: tuple[PeerProgress, ...] = ()
        transferring_to = NO_REPLICA
        if state.leading is not None:
            transferring_to = state.leading.transferring_to
            progress = tuple(
                PeerProgress(
                    replica=peer.replica,
                    state=peer.state.name.lower(),
                    match_index=peer.match_index,
                    next_index=peer.next_index,
                    recently_active=peer.recently_active,
                    phi=peer.arrivals.phi(now),
                )
                for peer in state.leading.tracker.peers.values()
            )
        return Status(
            replica=state.replica,
            role=state.role,
            term=state.term,
            leader=state.leader,
            commit_index=state.commit_index,
            applied_index=state.applied_index,
            last_index=state.log.last_index,
            first_index=LogIndex(state.log.base_index + 1),
            config=state.config,
            transferring_to=transferring_to,
            progress=progress,
        )

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
        """Take one message. What is not for this replica, unknown or of the past is dropped."""
        state = self._state
        if message.receiver != state.replica:
            return
        self._advance(now)
        if message.term == state.term and isinstance(message, HeartbeatResponse):
            # By far the most frequent one in an idle group, and mostly nothing follows.
            if state.leading is not None:
                leader.handle_heartbeat_response(state, message)
            self._changed |= not state.out.is_empty
            return
        self._changed = True
        if message.term > state.term and not self._enter_term_of(message):
            return
        if message.term < state.term:
            self._answer_past_term(message)
        else:
            self._handle(message)

    def _advance(self, now: float) -> None:
        state = self._state
        state.now = max(state.now, now)

    def _enter_term_of(self, message: Message) -> bool:
        """A higher term: follow into it, unless the message does not prove one (thesis §9.6).

        False if the message is dealt with.
        """
        state = self._state
        if isinstance(message, VoteRequest):
            if election.protects_leader(state, message):
                election.refuse(state, message)
                return False
            if message.pre_vote:
                election.answer_request(state, message)
                return False
        elif isinstance(message, VoteResponse) and message.pre_vote and message.granted:
            candidate.handle_vote_response(state, message)
            return False
        from_leader = isinstance(message, AppendRequest | Heartbeat | SnapshotChunk)
        state.become_follower(message.term, message.sender if from_leader else NO_REPLICA)
        return True

    def _answer_past_term(self, message: Message) -> None:
        """Tell a sender that lives in the past; else it might wait for us for ever."""
        state = self._state
        if isinstance(message, VoteRequest):
            election.refuse(state, message)
        elif isinstance(message, AppendRequest | Heartbeat | SnapshotChunk):
            state.out.messages_when_durable.append(
                AppendResponse(
                    sender=state.replica,
                    receiver=message.sender,
                    term=state.term,
                    match_index=LogIndex(0),
                    rejected=True,
                )
            )
        elif isinstance(message, ReadIndexRequest):
            leader.refuse_read(state, message)

    def _handle(self, message: Message) -> None:
        """A message of the current term."""
        state = self._state
        match message:
            case VoteRequest():
                election.answer_request(state, message)
            case VoteResponse():
                candidate.handle_vote_response(state, message)
            case AppendRequest() | Heartbeat() | SnapshotChunk() | TimeoutNow():
                self._handle_from_leader(message)
            case AppendResponse() | HeartbeatResponse() | SnapshotResponse():
                if state.leading is not None:
                    self._handle_as_leader(message)
            case ReadIndexRequest():
                if state.leading is not None:
                    leader.handle_read_index_request(state, message)
                else:
                    leader.refuse_read(state, message)
            case ReadIndexResponse():
                follower.handle_read_index_response(state, message)

    def _handle_from_leader(self, message: _FROM_LEADER) -> None:
        state = self._state
        assert state.role is not Role.LEADER, "two leaders in one term"
        follower.follow(state, message.sender)
        match message:
            case AppendRequest():
                follower.handle_append(state, message)
            case Heartbeat():
                follower.handle_heartbeat(state, message)
            case SnapshotChunk():
                follower.handle_snapshot_chunk(state, message)
            case TimeoutNow():
                follower.handle_timeout_now(state, message)

    def _handle_as_leader(self, message: _TO_LEADER) -> None:
        match message:
            case AppendResponse():
                leader.handle_append_response(self._state, message)
            case HeartbeatResponse():
                leader.handle_heartbeat_response(self._state, message)
            case SnapshotResponse():
                leader.handle_snapshot_response(self._state, message)

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
        self, voters: Iterable[ReplicaId], learners: Iterable[ReplicaId], now: float
    ) -> LogIndex:
        """Begin a change to these members, through a joint configuration where needed.

        Raises:
            NotLeader: we do not lead, or are handing over.
            Overloaded: another change, or the term's first entry, is not committed yet
                (the latter closes the hole found in 2015 in single-server changes).
            InvalidArgument: see :func:`confchange.change`.
        """
        self._advance(now)
        state = self._state
        if state.leading is None or state.leading.transferring_to != NO_REPLICA:
            raise NotLeader("this replica does not lead its group")
        if state.log.config_index > state.commit_index or not state.has_committed_in_term:
            raise Overloaded("an earlier membership change or term start is not committed yet")
        config = confchange.change(state.config, voters, learners)
        if config == state.config:
            raise InvalidArgument("the group has these members already")
        self._changed = True
        return replication.append_config(state, config)

    def transfer_leadership(self, to: ReplicaId, now: float) -> None:
        """Let ``to`` take over once it has our whole log (thesis §3.10).

        Proposals are refused meanwhile, at most for one election timeout.

        Raises:
            NotLeader: we do not lead.
            InvalidArgument: ``to`` is no other voter.
        """
        self._advance(now)
        state = self._state
        if state.leading is None:
            raise NotLeader("this replica does not lead its group")
        peer = state.leading.tracker.peers.get(to)
        if peer is None or to not in state.config.voters:
            raise InvalidArgument(f"replica {to} is not another voter of the group")
        state.leading.transferring_to = to
        state.leading.transfer_deadline = now + state.options.election_timeout_s_min
        replication.send_append(state, peer)
        replication.send_timeout_now(state, peer)
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
        elif state.leader == NO_REPLICA:
            state.out.reads_failed.append(context)
        else:
            state.forwarded_reads.add(context, now + state.options.election_timeout_s_max)
            state.out.messages.append(
                ReadIndexRequest(
                    sender=state.replica,
                    receiver=state.leader,
                    term=state.term,
                    context=context,
                )
            )

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
        self.peer_unreachable(peer, now)

    def peer_connected(self, peer: ReplicaId, now: float) -> None:
        """A connection to ``peer`` stands again; what was under way on the old one is lost."""
        state = self._state
        state.gone.discard(peer)
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
            self._changed = True
            if state.leading is not None:
                replication.advance_commit(state)

    def applied(self, index: LogIndex) -> None:
        """The state machine holds everything up to ``index``; the log may be compacted."""
        state = self._state
        if index <= state.applied_index:
            return
        assert index <= state.handed_index
        state.applied_index = index
        if state.log.bytes > state.options.log_bytes_max:
            self._compact()

    def _compact(self) -> None:
        """Halve the log, but keep what live peers need while that is not far too much."""
        state = self._state
        log, bytes_max = state.log, state.options.log_bytes_max
        index = log.compactable(state.applied_index, bytes_max // 2)
        if state.leading is not None and log.bytes <= 2 * bytes_max:
            for peer in state.leading.tracker.peers.values():
                if peer.recently_active and peer.state is not ProgressState.SNAPSHOT:
                    index = min(index, peer.match_index)
        needed = snapshots.retention_index(state)
        if needed is not None and log.bytes <= SNAPSHOT_RETENTION_FACTOR * bytes_max:
            index = min(index, needed)
        if index > log.base_index:
            log.compact(index)
            state.out.compacted = (index, log.base_term, log.config_at(index))
            self._changed = True

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
        state = self._state
        if state.leading is not None:
            if state.leading.reads.waiting and state.has_committed_in_term:
                replication.send_heartbeats(state)
            replication.send_appends(state)
        out, state.out = state.out, Outbox()
        self._changed = False
        hard_state = self._take_hard_state()
        messages, when_durable = out.messages, out.messages_when_durable
        if hard_state is not None:
            messages, when_durable = [], messages + when_durable
        return Ready(
            hard_state=hard_state,
            entries=state.log.take_unwritten(),
            messages=tuple(messages),
            messages_when_durable=tuple(when_durable),
            committed=self._take_committed(),
            read_states=tuple(out.read_states),
            reads_failed=tuple(out.reads_failed),
            snapshot_reads=tuple(out.snapshot_reads),
            snapshot_writes=tuple(out.snapshot_writes),
            snapshots_closed=tuple(out.snapshots_closed),
            compacted=out.compacted,
        )

    def _take_hard_state(self) -> HardState | None:
        """Term and vote if they changed: then nothing may leave before they are durable."""
        state = self._state
        if (state.term, state.vote) == (self._saved.term, self._saved.vote):
            return None
        self._saved = HardState(state.term, state.vote)
        return self._saved

    def _take_committed(self) -> tuple[Entry, ...]:
        state = self._state
        last = min(state.commit_index, state.log.durable_index)
        if last <= state.handed_index:
            return ()
        entries = state.log.between(LogIndex(state.handed_index + 1), last)
        state.handed_index = last
        return entries


SNAPSHOT_RETENTION_FACTOR = 8
"""While a snapshot is under way the log may grow to so many times its usual bound, so that
its receiver does not need another one at once."""
