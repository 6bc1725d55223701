"""What a core hands to its driver: one value object, and nothing else leaves the core.

The driver's duties, in order (DESIGN section 4):

1. write ``hard_state`` and ``entries`` to the log, in that order;
2. send ``messages`` at once, without waiting for the write;
3. when that write *and every earlier one of this group* is durable, call
   ``core.persisted(last_index, last_term)`` if there were entries, and send
   ``messages_when_durable``;
4. apply ``committed`` in order and call ``core.applied(index)``;
5. answer the reads: a ``ReadState`` may be served once ``applied_index >= index``;
   a failed read gets an error.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from kvstore.raft.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.ids import LogIndex, ReplicaId, Term
    from kvstore.raft.messages import Entry, GroupConfig, HardState, Message, SnapshotMeta


class Role(IntEnum):
    """What a replica is doing (Raft §5.1; thesis §9.6 for the pre-candidate)."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


@immutable
class ReadState:
    """The read called ``context`` is linearizable at any state from ``index`` on."""

    context: int
    index: LogIndex


@immutable
class SnapshotRead:
    """Read the next piece of this group's state for ``peer``.

    ``offset`` 0 opens a new snapshot of the applied state for this ``transfer`` (an older
    one for ``peer`` is closed). Answer with ``core.snapshot_read(...)``.
    """

    peer: ReplicaId
    transfer: int
    offset: int
    bytes_max: int


@immutable
class SnapshotWrite:
    """Append ``data`` at ``offset`` of the staged snapshot ``meta``; offset 0 starts afresh.

    Answer with ``core.snapshot_written(transfer, next_offset)`` once it is written, and when
    ``is_last`` install it (durable, all or nothing) and call ``core.snapshot_installed(meta)``.
    """

    meta: SnapshotMeta
    transfer: int
    offset: int
    data: bytes
    is_last: bool


@immutable
class Ready:
    """Everything to persist, send, apply and answer since the last one."""

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    """To append; the first one's index may lie within the log: what follows it is replaced."""
    messages: Sequence[Message]
    messages_when_durable: Sequence[Message]
    committed: tuple[Entry, ...]
    """Committed, durable here and not handed out before."""
    read_states: Sequence[ReadState]
    reads_failed: Sequence[int]
    """Contexts of reads that cannot be confirmed here any more."""
    snapshot_reads: Sequence[SnapshotRead]
    snapshot_writes: Sequence[SnapshotWrite]
    snapshots_closed: Sequence[int]
    """Transfers that ended, maybe in this very ``Ready``: what they opened can be released."""
    compacted: tuple[LogIndex, Term, GroupConfig] | None
    """Write a compaction mark: entries up to it are applied and left the core's log."""


@immutable
class Status:
    """A view for operators, the router and the controller; never used by the rules."""

    replica: ReplicaId
    role: Role
    term: Term
    leader: ReplicaId
    commit_index: LogIndex
    applied_index: LogIndex
    last_index: LogIndex
    first_index: LogIndex
    config: GroupConfig
    transferring_to: ReplicaId
    progress: tuple[PeerProgress, ...]
    """Only on a leader, sorted by replica."""


@immutable
class PeerProgress:
    """How far a leader believes a peer to be."""

    replica: ReplicaId
    state: str
    match_index: LogIndex
    next_index: LogIndex
    recently_active: bool
    """Heard from since the last check of the quorum or in the time before it: true of a peer that
    is there at whatever moment one looks, also in step with the checks."""
    phi: float
    snapshot_bytes: int = 0
    """Of the snapshot that it is being sent: how much it has stored."""
    keeps_up: bool = False
    """What is added to the log is there within an election timeout (thesis §4.2.1)."""
