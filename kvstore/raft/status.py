"""A replica's state as others may see it; never used by the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft.ready import PeerProgress, Status

if TYPE_CHECKING:
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import RaftState


def status_of(state: RaftState, now: float) -> Status:
    """What operators, the router and the controller are shown."""
    lead = state.leading
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
        transferring_to=NO_REPLICA if lead is None else lead.transferring_to,
        progress=()
        if lead is None
        else tuple(_progress_of(state, peer, now) for peer in lead.tracker.peers.values()),
    )


def _progress_of(state: RaftState, peer: Progress, now: float) -> PeerProgress:
    return PeerProgress(
        replica=peer.replica,
        state=peer.state.name.lower(),
        match_index=peer.match_index,
        next_index=peer.next_index,
        recently_active=peer.recently_active or peer.active_before,
        phi=peer.arrivals.phi(now),
        snapshot_bytes=0 if peer.transfer is None else peer.transfer.acked_offset,
        keeps_up=peer.catch_up.keeps_up(now, state.options.election_timeout_s_min),
    )
