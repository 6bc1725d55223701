"""What a leader does with each answer, and when its timers run out (Raft §5.3; CheckQuorum)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument, NotLeader
from kvstore.ids import NO_REPLICA
from kvstore.raft import commit, membership, read_rounds, replication, snapshots
from kvstore.raft.messages import ReadIndexResponse
from kvstore.raft.progress import ProgressState
from kvstore.raft.reads import ReadRequest, is_beat
from kvstore.raft.state import leading

if TYPE_CHECKING:
    from kvstore.ids import ReplicaId
    from kvstore.raft.messages import (
        AppendResponse,
        HeartbeatResponse,
        ReadIndexRequest,
        SnapshotResponse,
    )
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import LeaderState, RaftState


def handle_append_response(state: RaftState, response: AppendResponse) -> None:
    """A peer has more on its disk, or its log does not match ours."""
    peer = _heard(state, response)
    if peer is None:
        return
    if response.rejected:
        snapshots.abort_if_lost(state, peer, response.rejected_index)
        probe_index = state.log.last_of_term(response.hint_index, response.hint_term)
        if peer.rejected(response.rejected_index, probe_index):
            replication.send_append(state, peer)
        return
    if response.match_index > state.log.last_index:
        return  # Not an answer to anything of ours.
    answers_probe = response.match_index >= peer.next_index - 1
    moved = peer.acknowledged(response.match_index)
    if peer.state is ProgressState.PROBE and answers_probe:
        peer.become_replicate()
    elif peer.state is ProgressState.SNAPSHOT:
        _maybe_enough(state, peer)
    if moved:
        peer.catch_up.acknowledged(peer.match_index, state.log.last_index, state.now)
        commit.advance_commit(state)
    if state.leading is not None:
        replication.send_timeout_now(state, peer)
        membership.tell_departed(state, peer)


def _maybe_enough(state: RaftState, peer: Progress) -> None:
    """A peer that needs a snapshot has it by now, or has enough for entries after all."""
    if snapshots.is_installed(peer, peer.match_index):
        snapshots.finish(state, peer)
    elif state.log.term_at(peer.match_index) is not None:
        snapshots.abort(state, peer)


def handle_heartbeat_response(state: RaftState, response: HeartbeatResponse) -> None:
    """The peer is there and follows us in this term: that confirms reads and the lease.

    The rest is for answers to beats. They come one interval after the other, so that nothing
    seems to stand still only because reads are many.
    """
    peer = _heard(state, response)
    if peer is None:
        return
    lead = leading(state)
    if response.read_round <= lead.read_round:
        read_rounds.answered(state, peer, response.read_round)
        if lead.rounds_sent:
            _note_lease(state, lead, peer)
        read_rounds.confirm_reads(state)
    if is_beat(response.read_round):
        _answered_beat(state, peer)


def _answered_beat(state: RaftState, peer: Progress) -> None:
    """Go on with whatever waited to hear of the peer again."""
    peer.arrivals.arrived(state.now)
    peer.probe_sent = False
    snapshots.check_progress(state, peer)
    if replication.is_stalled(peer):
        replication.ask_whether_lost(state, peer)
    elif peer.state is ProgressState.PROBE:
        # Asked even if it seems to have everything: its disk may have lost some of it.
        replication.send_append(state, peer, even_if_empty=True)
    elif peer.match_index < state.log.last_index:
        replication.send_append(state, peer)
    replication.send_timeout_now(state, peer)
    membership.tell_departed(state, peer)


def _note_lease(state: RaftState, lead: LeaderState, peer: Progress) -> None:
    """Remember when the answered heartbeat was sent; forget rounds that nobody needs."""
    for number, sent_at in lead.rounds_sent:
        if number > peer.read_round:
            break
        peer.lease_from = max(peer.lease_from, sent_at)
    oldest_needed_at = state.now - state.options.election_timeout_s_min
    while lead.rounds_sent and lead.rounds_sent[0][1] < oldest_needed_at:
        lead.rounds_sent.popleft()


def handle_snapshot_response(state: RaftState, response: SnapshotResponse) -> None:
    """A receiver stored a chunk or has the whole state."""
    peer = _heard(state, response)
    if peer is None:
        return
    snapshots.handle_response(state, peer, response)
    commit.advance_commit(state)


def handle_read_index_request(state: RaftState, request: ReadIndexRequest) -> None:
    """A follower serves a read and needs an index for it."""
    request_read(state, ReadRequest(request.context, request.sender))


def request_read(state: RaftState, request: ReadRequest) -> None:
    """Answer by the lease if there is one, else with the next round."""
    if replication.has_lease(state):
        read_rounds.answer_read(state, request.origin, request.context, state.commit_index)
    else:
        leading(state).reads.waiting.append(request)


def refuse_read(state: RaftState, request: ReadIndexRequest) -> None:
    """We do not lead: the follower asked in vain."""
    state.out.messages.append(
        ReadIndexResponse(
            sender=state.replica,
            receiver=request.sender,
            term=state.term,
            context=request.context,
            index=state.commit_index,
            refused=True,
        )
    )


def transfer(state: RaftState, to: ReplicaId) -> None:
    """Hand over to ``to`` once it has our whole log; a later call replaces an earlier one.

    Raises:
        NotLeader: we do not lead.
        InvalidArgument: ``to`` is no other voter.
    """
    if state.leading is None:
        raise NotLeader("this replica does not lead its group")
    peer = state.leading.tracker.peers.get(to)
    if peer is None or to not in state.config.voters:
        raise InvalidArgument(f"replica {to} is not another voter of the group")
    state.leading.transferring_to = to
    state.leading.transfer_deadline = state.now + state.options.election_timeout_s_min
    replication.send_append(state, peer)
    replication.send_timeout_now(state, peer)


def peer_gone(state: RaftState, peer: ReplicaId) -> None:
    """Nobody takes over whose process is dead: go on leading."""
    lead = leading(state)
    if lead.transferring_to == peer:
        lead.transferring_to = NO_REPLICA


def _heard(
    state: RaftState,
    response: AppendResponse | HeartbeatResponse | SnapshotResponse,
) -> Progress | None:
    peer = leading(state).tracker.peers.get(response.sender)
    if peer is not None:
        peer.recently_active = True
    return peer


def tick(state: RaftState) -> bool:
    """Heartbeats, late reads, CheckQuorum, vain transfers. True if something happened."""
    lead = leading(state)
    happened = read_rounds.widen_if_overdue(state)
    if lead.transferring_to != NO_REPLICA and state.now >= lead.transfer_deadline:
        lead.transferring_to = NO_REPLICA
        happened = True
    if state.now >= lead.quorum_check_at:
        if not lead.tracker.take_quorum_active():
            state.become_follower(state.term, NO_REPLICA)
            return True
        lead.quorum_check_at = state.now + state.options.election_timeout_s_min
    if state.now >= lead.heartbeat_at:
        for peer in list(lead.tracker.peers.values()):
            membership.tell_departed(state, peer)
        replication.send_heartbeats(state)
        happened = True
    return happened


def woke_up(state: RaftState) -> None:
    """This process stood still: give the quorum one whole chance to be heard again."""
    lead = leading(state)
    lead.quorum_check_at = state.now + state.options.election_timeout_s_min
    lead.heartbeat_at = state.now
