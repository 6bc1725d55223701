"""A leader's view of all its peers: who is where, and what a quorum amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import LogIndex
from kvstore.phi import ArrivalWindow
from kvstore.raft import quorum
from kvstore.raft.confchange import is_voter, members
from kvstore.raft.progress import Progress

if TYPE_CHECKING:
    from kvstore.ids import ReplicaId
    from kvstore.raft.messages import GroupConfig


class Tracker:
    """Progress of every peer, in the order of their ids.

    ``departing`` are peers that the newest configuration removed. They count for nothing,
    but are still sent the log until they have the entry that removed them: a replica that
    knows it is removed falls silent.
    """

    def __init__(
        self,
        own: ReplicaId,
        config: GroupConfig,
        next_index: LogIndex,
        heartbeat_interval_s: float,
    ) -> None:
        self._own = own
        self._heartbeat_interval_s = heartbeat_interval_s
        self.config = config
        self.peers: dict[ReplicaId, Progress] = {}
        self.departing: dict[ReplicaId, float] = {}
        """Removed peers and when to give up on telling them."""
        self.adopt(config, next_index, give_up_at=0.0)

    def adopt(self, config: GroupConfig, next_index: LogIndex, *, give_up_at: float) -> None:
        """Follow ``config``: new peers begin as probes at ``next_index``."""
        self.config = config
        wanted = [replica for replica in members(config) if replica != self._own]
        for replica in self.peers:
            if replica not in wanted:
                self.departing.setdefault(replica, give_up_at)
        for replica in wanted:
            self.departing.pop(replica, None)
        order = sorted({*wanted, *self.departing})
        self.peers = {
            replica: self.peers.get(replica) or self._begin(replica, next_index)
            for replica in order
        }
        for replica in wanted:
            if is_voter(config, replica):
                # What it still lacks its group may need to commit: that waits for no move.
                self.peers[replica].catch_up.old_end = LogIndex(0)

    def _begin(self, replica: ReplicaId, next_index: LogIndex) -> Progress:
        peer = Progress(replica, next_index, ArrivalWindow(self._heartbeat_interval_s))
        if not is_voter(self.config, replica):
            peer.catch_up.old_end = LogIndex(next_index - 1)
        return peer

    def forget(self, replica: ReplicaId) -> None:
        """A departing peer knows, or we gave up on it."""
        del self.departing[replica]
        del self.peers[replica]

    def quorum_index(self, own_durable: LogIndex) -> LogIndex:
        """The highest index that is durable on a quorum."""

        def match(replica: ReplicaId) -> LogIndex:
            return own_durable if replica == self._own else self.peers[replica].match_index

        return LogIndex(quorum.quorum_value(self.config, match))

    def quorum_read_round(self, own_round: int) -> int:
        """The highest heartbeat round that a quorum has answered."""

        def answered(replica: ReplicaId) -> int:
            return own_round if replica == self._own else self.peers[replica].read_round

        return quorum.quorum_value(self.config, answered)

    def quorum_lease_from(self, now: float) -> float:
        """A quorum has answered heartbeats that were sent at this time or later."""

        def answered(replica: ReplicaId) -> float:
            return now if replica == self._own else self.peers[replica].lease_from

        return quorum.quorum_value(self.config, answered)

    def take_quorum_active(self) -> bool:
        """Whether a quorum was heard from since the last call (CheckQuorum)."""
        votes = {replica: peer.recently_active for replica, peer in self.peers.items()}
        votes[self._own] = True
        for peer in self.peers.values():
            peer.active_before, peer.recently_active = peer.recently_active, False
        return quorum.quorum_vote(self.config, votes) is quorum.VoteResult.WON
