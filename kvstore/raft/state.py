"""The state of one replica, and the named transitions that change its role.

Everything that the rules read or write stands here once. The modules above hold the rules as
functions of this state: ``election`` and ``replication`` are shared, ``follower``,
``candidate`` and ``leader`` hold one small handler a message type. Nothing here sends: what
leaves is collected in :class:`Outbox` and handed over by ``core.ready()``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.phi import ArrivalWindow
from kvstore.raft.confchange import is_voter, members
from kvstore.raft.immutable import immutable
from kvstore.raft.log import RaftLog, size_of
from kvstore.raft.messages import Entry, GroupConfig, HardState, Message, SnapshotMeta
from kvstore.raft.reads import Choice, ForwardedReads, LeaderReads
from kvstore.raft.ready import ReadState, Role, SnapshotRead, SnapshotWrite
from kvstore.raft.tracker import Tracker

if TYPE_CHECKING:
    import random

    from kvstore.config import RaftConfig


LAST_WORDS_S = 0.1
"""What a peer sent before it died may come on another connection, so much after the news of
its death; it does not bring it back. Whoever is heard later lives."""


@immutable
class RecoveredGroup:
    """What storage brings back: all of it durable, ``entries`` directly behind ``base``."""

    hard_state: HardState
    base: SnapshotMeta
    entries: tuple[Entry, ...]
    applied_index: LogIndex
    """At least ``base.index``; the state machine holds everything up to it."""


@dataclass(slots=True)
class Outbox:
    """What the next ``Ready`` will carry."""

    messages: list[Message] = field(default_factory=list)
    messages_when_durable: list[Message] = field(default_factory=list)
    read_states: list[ReadState] = field(default_factory=list)
    reads_failed: list[int] = field(default_factory=list)
    snapshot_reads: list[SnapshotRead] = field(default_factory=list)
    snapshot_writes: list[SnapshotWrite] = field(default_factory=list)
    snapshots_closed: list[int] = field(default_factory=list)
    compacted: tuple[LogIndex, Term, GroupConfig] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to hand over yet."""
        return not (
            self.messages
            or self.messages_when_durable
            or self.read_states
            or self.reads_failed
            or self.snapshot_reads
            or self.snapshot_writes
            or self.snapshots_closed
            or self.compacted
        )


@dataclass(slots=True)
class LeaderState:
    """What only a leader has; born and dropped with its term."""

    tracker: Tracker
    heartbeat_at: float
    """When the next round of heartbeats is due."""
    quorum_check_at: float
    """When a quorum must have been heard from (CheckQuorum)."""
    first_index: LogIndex
    """The no-op of this term; once it is committed, so is all before it."""
    reads: LeaderReads = field(default_factory=LeaderReads)
    read_round: int = 0
    """The number of the last round."""
    beat_round: int = 0
    """The number of the last one that went to everybody by the timer."""
    beat_sent_at: float = 0.0
    choice: Choice | None = None
    rounds_sent: deque[tuple[int, float]] = field(default_factory=deque)
    """Number and time of rounds not yet answered by a quorum, for the leader lease."""
    uncommitted_bytes: int = 0
    transferring_to: ReplicaId = NO_REPLICA
    transfer_deadline: float = 0.0
    lease_revoked: bool = False
    """A transfer was tried: its target may be elected at any time, lease or not."""


@dataclass(slots=True)
class Receiving:
    """A follower's side of a snapshot transfer."""

    sender: ReplicaId
    transfer: int
    meta: SnapshotMeta
    next_offset: int = 0
    is_complete: bool = False
    """All bytes came; the driver is installing them."""


class RaftState:
    """One replica's part in the group.

    Invariants: ``applied_index <= handed_index <= min(commit_index, log.durable_index)``;
    ``leading is not None`` exactly in the leader role.
    """

    def __init__(
        self,
        replica: ReplicaId,
        options: RaftConfig,
        recovered: RecoveredGroup,
        rng: random.Random,
        now: float,
    ) -> None:
        self.replica = replica
        self.options = options
        self.rng = rng
        self.now = now
        self.log = RaftLog(recovered.base, recovered.entries)
        self.term = recovered.hard_state.term
        self.vote = recovered.hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = NO_REPLICA
        self.commit_index = recovered.applied_index
        self.handed_index = recovered.applied_index
        self.applied_index = recovered.applied_index
        self.votes: dict[ReplicaId, bool] = {}
        self.leading: LeaderState | None = None
        self.receiving: Receiving | None = None
        self.forwarded_reads = ForwardedReads(rng.getrandbits(62))
        self.arrivals = ArrivalWindow(options.heartbeat_interval_s)
        self.gone: dict[ReplicaId, float] = {}
        """Peers whose process is known to be dead, and since when."""
        self.heard_from_leader_at = now if options.lease_reads else float("-inf")
        self._election_at: float | None = None
        self._timer_began_at = now
        self._timeouts = 1.0
        self.transfers_begun = 0
        self.out = Outbox()
        self.reset_election_timer()

    # -- questions ----------------------------------------------------------------------------

    @property
    def config(self) -> GroupConfig:
        """The configuration in force: the newest in the log."""
        return self.log.config

    @property
    def is_promotable(self) -> bool:
        """Whether this replica may stand for election: a voter whose state is whole.

        A voter whose removal is in its log but not committed may still stand: nobody else
        might have an entry that the rest needs (thesis §4.2.2).
        """
        if self.is_installing:
            return False
        committed = self.log.config_at(self.commit_index)
        return is_voter(self.config, self.replica) or is_voter(committed, self.replica)

    @property
    def is_installing(self) -> bool:
        """Whether the driver is putting a received snapshot in force."""
        return self.receiving is not None and self.receiving.is_complete

    @property
    def peers(self) -> list[ReplicaId]:
        """Every other member, in the order of their ids."""
        return [replica for replica in members(self.config) if replica != self.replica]

    @property
    def has_committed_in_term(self) -> bool:
        """Whether this leader knows what is committed (Raft §8): only then may it serve reads."""
        return self.leading is not None and self.commit_index >= self.leading.first_index

    # -- timers -------------------------------------------------------------------------------

    def election_timeout_s(self) -> float:
        """The silence that means a lost leader: by phi, within the configured bounds."""
        silence = self.arrivals.silence_at(self.options.phi_threshold)
        low, high = self.options.election_timeout_s_min, self.options.election_timeout_s_max
        return min(max(silence, low), high)

    def reset_election_timer(self) -> None:
        """Wait a whole timeout again, randomised so that replicas rarely collide (Raft §5.2).

        When it ends is worked out when it is asked for: each append begins it anew.
        """
        self._timer_began_at = self.now
        self._timeouts = 1.0 + self.rng.random()
        self._election_at = None

    @property
    def election_at(self) -> float:
        """When to stand for election, unless the leader is heard before."""
        if self._election_at is None:
            self._election_at = self._timer_began_at + self._timeouts * self.election_timeout_s()
        return self._election_at

    @election_at.setter
    def election_at(self, at: float) -> None:
        self._election_at = at

    def heard_from_leader(self) -> None:
        """The leader of the current term is there."""
        self.heard_from_leader_at = self.now
        gone_at = self.gone.get(self.leader)
        if gone_at is not None:
            if self.now - gone_at < LAST_WORDS_S:
                return
            del self.gone[self.leader]
        self.reset_election_timer()

    # -- transitions --------------------------------------------------------------------------

    def become_follower(self, term: Term, leader: ReplicaId) -> None:
        """Follow ``leader`` (or nobody yet) in ``term``, giving up whatever we were."""
        assert term >= self.term
        self._leave_role(leader)
        if term > self.term:
            self.term, self.vote = term, NO_REPLICA
        self.role, self.leader = Role.FOLLOWER, leader
        self.reset_election_timer()

    def become_pre_candidate(self) -> None:
        """Ask whether an election could be won, without disturbing anybody (thesis §9.6)."""
        assert self.role is not Role.LEADER
        self.role = Role.PRE_CANDIDATE
        self.votes = {}
        self.reset_election_timer()

    def become_candidate(self) -> None:
        """Begin a new term and vote for ourselves in it (Raft §5.2)."""
        assert self.role is not Role.LEADER
        self._leave_role(NO_REPLICA)
        self.term, self.vote = Term(self.term + 1), self.replica
        self.role, self.leader = Role.CANDIDATE, NO_REPLICA
        self.votes = {}
        self.reset_election_timer()

    def become_leader(self) -> None:
        """Won: every peer begins as a probe behind our last entry (Raft §5.3)."""
        assert self.role is Role.CANDIDATE
        self.role, self.leader = Role.LEADER, self.replica
        next_index = LogIndex(self.log.last_index + 1)
        self.leading = LeaderState(
            tracker=Tracker(
                self.replica, self.config, next_index, self.options.heartbeat_interval_s
            ),
            heartbeat_at=self.now,
            quorum_check_at=self.now + self.options.election_timeout_s_min,
            first_index=next_index,
            uncommitted_bytes=sum(map(size_of, self.log.after(self.commit_index))),
        )

    def _leave_role(self, next_leader: ReplicaId) -> None:
        """Whoever waited on the old role or the old leader is told."""
        if self.leading is not None:
            for request in self.leading.reads.take_all():
                if request.origin == self.replica:
                    self.out.reads_failed.append(request.context)
            self.out.snapshots_closed += [
                peer.transfer.number
                for peer in self.leading.tracker.peers.values()
                if peer.transfer is not None
            ]
            self.leading = None
        if not self.is_installing:
            self.receiving = None
        if next_leader != self.leader:
            self.out.reads_failed += self.forwarded_reads.take_all()
            self.arrivals.restart()
        self.votes = {}


def leading(state: RaftState) -> LeaderState:
    """The leader's part of the state; only to be asked for in the leader role."""
    assert state.leading is not None
    return state.leading
