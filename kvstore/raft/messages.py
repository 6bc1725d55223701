"""What replicas of one group say to each other, and what stands in their log.

Every message carries the ids of both replicas: ids are never used again, so a message from
or to an earlier life of a node is told apart and dropped. Which group it belongs to is the
envelope's business. All are immutable.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum
from typing import TypeAlias

from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.immutable import immutable


class EntryKind(IntEnum):
    """What a log entry holds."""

    COMMAND = 0
    """Opaque bytes for the state machine."""
    CONFIG = 1
    """An encoded :class:`GroupConfig`, in force from the moment it is appended (Raft §6)."""
    NOOP = 2
    """A new leader's first entry, so that it can commit what came before (Raft §5.4.2, §8)."""


@immutable
class Entry:
    """One log entry. ``payload`` is never looked into by the core, but for CONFIG."""

    index: LogIndex
    term: Term
    kind: EntryKind
    payload: bytes


@immutable
class HardState:
    """What must be durable before a message that depends on it leaves (Raft figure 2)."""

    term: Term
    vote: ReplicaId
    """Whom this replica voted for in ``term``; ``NO_REPLICA`` if nobody."""


@immutable
class GroupConfig:
    """The members of a group (Raft §6; thesis §4.2.1 for learners, §4.3 for joint consensus).

    Each tuple is sorted. ``voters_outgoing`` is not empty while a joint configuration is in
    force: then elections and commits need a majority of both. A replica is never a voter and
    a learner at once; ``learners_next`` are outgoing voters that become learners when the
    joint configuration ends. ``epoch`` counts the plans of whoever asks for changes: it never
    goes back, so a leader can tell that it has missed one.
    """

    voters: tuple[ReplicaId, ...]
    voters_outgoing: tuple[ReplicaId, ...] = ()
    learners: tuple[ReplicaId, ...] = ()
    learners_next: tuple[ReplicaId, ...] = ()
    epoch: int = 0


@immutable
class SnapshotMeta:
    """What a snapshot stands for: the state after entry ``index``."""

    index: LogIndex
    term: Term
    config: GroupConfig


@immutable
class VoteRequest:
    """Raft §5.2; thesis §9.6 when ``pre_vote`` (then ``term`` is the one it would start)."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    last_index: LogIndex
    last_term: Term
    pre_vote: bool
    by_transfer: bool
    """The leader itself asked for this election: voters do not protect it (thesis §3.10)."""


@immutable
class VoteResponse:
    """For a granted pre-vote ``term`` is the requested one, else the voter's own."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    granted: bool
    pre_vote: bool


@immutable
class AppendRequest:
    """Raft §5.3. ``entries`` follow ``prev_index``; empty when it only probes."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    prev_index: LogIndex
    prev_term: Term
    entries: tuple[Entry, ...]
    commit_index: LogIndex
    is_catch_up: bool = field(default=False, compare=False, repr=False)
    """For the sender's driver, not on the wire: nobody waits for this, so it may be held back."""


@immutable
class AppendResponse:
    """``match_index`` when accepted: all up to it is durable here and equal to the leader's.

    When rejected: ``rejected_index`` is the ``prev_index`` that did not match, and the hint
    (``hint_index``, ``hint_term``) is this follower's last entry at or before it that may
    still match, so that the leader jumps back by a term and not by one.
    """

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    match_index: LogIndex
    rejected: bool = False
    rejected_index: LogIndex = LogIndex(0)
    hint_index: LogIndex = LogIndex(0)
    hint_term: Term = Term(0)


@immutable
class Heartbeat:
    """Keeps followers quiet, moves their commit index, confirms reads.

    ``commit_index`` never exceeds what the receiver has acknowledged, because lanes may
    reorder. ``read_round`` numbers the leader's rounds of this term; an answer confirms this
    and every earlier round. Odd ones are beats of the timer, even ones come with reads
    (:mod:`kvstore.raft.reads`).
    """

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    commit_index: LogIndex
    read_round: int


@immutable
class HeartbeatResponse:
    """Echoes the round of the heartbeat it answers."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    read_round: int


@immutable
class ReadIndexRequest:
    """A follower asks for an index at which a read is linearizable (thesis §6.4)."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    context: int


@immutable
class ReadIndexResponse:
    """``refused`` when the asked replica cannot confirm that it leads."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    context: int
    index: LogIndex
    refused: bool


@immutable
class TimeoutNow:
    """Leadership transfer: start an election at once (thesis §3.10)."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term


@immutable
class SnapshotChunk:
    """A piece of a snapshot (Raft §7). ``data`` starts at byte ``offset`` of the stream."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    meta: SnapshotMeta
    transfer: int
    """Numbers the leader's attempts; a chunk of an older attempt is dropped."""
    offset: int
    data: bytes
    is_last: bool


@immutable
class SnapshotResponse:
    """``next_offset`` is durable so far; ``installed`` once the whole state is in force."""

    sender: ReplicaId
    receiver: ReplicaId
    term: Term
    index: LogIndex
    transfer: int
    next_offset: int
    installed: bool = False
    rejected: bool = False
    """The receiver lost track of this attempt: begin again at offset 0."""


Message: TypeAlias = (
    VoteRequest
    | VoteResponse
    | AppendRequest
    | AppendResponse
    | Heartbeat
    | HeartbeatResponse
    | ReadIndexRequest
    | ReadIndexResponse
    | TimeoutNow
    | SnapshotChunk
    | SnapshotResponse
)
