"""What a leader knows of one peer, and how much it may send it (thesis §10.2.1).

The states are those of etcd's raft:

``PROBE``      the peer's log is not known to match at ``next_index - 1``: one message at a
               time, then wait for the answer (or a heartbeat's);
``REPLICATE``  it matches: send on without waiting, as far as the window allows;
``SNAPSHOT``   what it needs is compacted away, or longer than the state: it gets a snapshot, and
               no entries meanwhile.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from kvstore.ids import LogIndex, ReplicaId
from kvstore.phi import ArrivalWindow
from kvstore.raft.messages import SnapshotMeta


class ProgressState(IntEnum):
    """How entries travel to a peer."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


@dataclass(slots=True)
class SnapshotTransfer:
    """One attempt to send a snapshot. At most one piece is being read at a time."""

    number: int
    active_at: float
    """When the last sign of progress was seen."""
    meta: SnapshotMeta | None = None
    next_offset: int = 0
    """Read and sent so far."""
    acked_offset: int = 0
    unacked: deque[int] = field(default_factory=deque)
    """End offsets of the chunks that are under way."""
    reading: bool = True
    sent_last: bool = False


@dataclass(slots=True)
class CatchUp:
    """Rounds of replication (thesis §4.2.1): each brings what the log held when it began.

    They get shorter as a newcomer comes nearer. Once one is short the peer keeps up, however fast
    the log grows.
    """

    old_end: LogIndex = LogIndex(0)
    """Of a learner: the last entry that was there before it, all of which it may lack."""
    round_end: LogIndex = LogIndex(0)
    round_began_at: float = 0.0
    round_s: float = math.inf
    """How long the last whole round took."""
    rounds: int = 0

    def acknowledged(self, match_index: LogIndex, last_index: LogIndex, now: float) -> None:
        """The peer has all up to ``match_index`` of a log that ends at ``last_index``."""
        if match_index < max(self.old_end, self.round_end):
            return
        if self.rounds:
            self.round_s = now - self.round_began_at
        self.rounds += 1
        self.round_end, self.round_began_at = last_index, now

    def keeps_up(self, now: float, within_s: float) -> bool:
        """Whether rounds take no longer than ``within_s``, and the present one has not yet."""
        return max(self.round_s, now - self.round_began_at) <= within_s


@dataclass(slots=True)
class Progress:
    """Invariant: ``0 <= match_index < next_index``."""

    replica: ReplicaId
    next_index: LogIndex
    arrivals: ArrivalWindow
    match_index: LogIndex = LogIndex(0)
    state: ProgressState = ProgressState.PROBE
    probe_sent: bool = False
    """In PROBE: an append is under way."""
    recently_active: bool = False
    """Heard from since the last check of the quorum."""
    active_before: bool = False
    """Heard from between the two checks before."""
    read_round: int = 0
    """The highest heartbeat round it has answered."""
    is_silent: bool = False
    """It left a read round unanswered for too long, and has answered none since."""
    answer_s: float = 0.0
    """How long it takes to answer a beat, smoothed; 0 before the first answer."""
    lease_from: float = float("-inf")
    """When the heartbeat was sent that it answered last."""
    stalled_at: LogIndex = LogIndex(0)
    """``match_index`` at the last heartbeat answer: no progress since means a lost append."""
    farewell_round: int = 0
    """Of a removed peer: an answer to this heartbeat round means that it knows."""
    catch_up: CatchUp = field(default_factory=CatchUp)
    transfer: SnapshotTransfer | None = None
    inflight: deque[tuple[LogIndex, int]] = field(default_factory=deque)
    """In REPLICATE: last index and size of each append not yet acknowledged."""
    inflight_bytes: int = 0

    # -- transitions ----------------------------------------------------------------------

    def become_probe(self) -> None:
        """Find out again where the logs match; after a snapshot, just behind it."""
        behind = self.match_index
        if self.transfer is not None and self.transfer.meta is not None:
            behind = max(behind, self.transfer.meta.index)
        self._reset(ProgressState.PROBE)
        self.next_index = LogIndex(behind + 1)

    def become_replicate(self) -> None:
        """The logs match at ``match_index``."""
        self._reset(ProgressState.REPLICATE)
        self.next_index = LogIndex(self.match_index + 1)

    def become_snapshot(self, transfer: SnapshotTransfer) -> None:
        """Send the state itself."""
        self._reset(ProgressState.SNAPSHOT)
        self.transfer = transfer

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.transfer = None
        self.inflight.clear()
        self.inflight_bytes = 0

    # -- sending ----------------------------------------------------------------------------

    @property
    def is_catching_up(self) -> bool:
        """Whether it gets what is old. That goes piece by piece: nobody waits for it."""
        return self.match_index < self.catch_up.old_end

    def is_paused(self, messages_max: int, bytes_max: int) -> bool:
        """Whether no append may be sent now."""
        if self.state is ProgressState.REPLICATE:
            if self.match_index < self.catch_up.old_end:
                return bool(self.inflight)
            return len(self.inflight) >= messages_max or self.inflight_bytes >= bytes_max
        return self.state is ProgressState.SNAPSHOT or self.probe_sent

    def sent(self, last_index: LogIndex, size: int) -> None:
        """An append with entries up to ``last_index`` left."""
        if self.state is ProgressState.REPLICATE:
            self.next_index = LogIndex(last_index + 1)
            self.inflight.append((last_index, size))
            self.inflight_bytes += size
        else:
            self.probe_sent = True

    # -- answers ----------------------------------------------------------------------------

    def acknowledged(self, index: LogIndex) -> bool:
        """All up to ``index`` is durable there. False if that was known before."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        if index >= self.next_index:
            self.next_index = LogIndex(index + 1)
        if index <= self.match_index:
            return False
        self.match_index = index
        self.probe_sent = False
        return True

    def rejected(self, rejected_index: LogIndex, probe_index: LogIndex) -> bool:
        """The peer's log does not match at ``rejected_index``; it may at ``probe_index``.

        False if the answer is old: it does not belong to what is under way now.
        """
        if rejected_index == 0:
            return False  # Before entry 1 all logs match: it says no to a message of a past term.
        if self.state is ProgressState.REPLICATE:
            if rejected_index <= self.match_index:
                return False
            self.become_probe()
        elif self.state is ProgressState.SNAPSHOT or self.next_index - 1 != rejected_index:
            return False
        elif rejected_index <= self.match_index:
            # Its disk lost what it had acknowledged. To count less is always safe, and what it
            # lacks is sent again.
            self.match_index = min(probe_index, LogIndex(rejected_index - 1))
        # Not back to the match index: between the two lies what the peer has, but not durably.
        lower = min(rejected_index, probe_index + 1)
        self.next_index = LogIndex(max(lower, self.match_index + 1))
        self.probe_sent = False
        return True
