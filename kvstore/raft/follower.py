"""What a follower does with each message of its leader (Raft §5.2, §5.3).

The core has already brought the term up to date: these messages are of the current term.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex, Term
from kvstore.raft import election, snapshots
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
)
from kvstore.raft.reads import is_beat
from kvstore.raft.ready import ReadState, Role

if TYPE_CHECKING:
    from kvstore.ids import ReplicaId
    from kvstore.raft.messages import ReadIndexResponse, SnapshotChunk, TimeoutNow
    from kvstore.raft.state import RaftState


def follow(state: RaftState, leader: ReplicaId) -> None:
    """Somebody leads the current term: whoever we were, we follow."""
    assert state.role is not Role.LEADER
    if state.role is not Role.FOLLOWER or state.leader != leader:
        state.become_follower(state.term, leader)
        election.wait_briefly_if_leader_is_gone(state)
    state.heard_from_leader()


def handle_append(state: RaftState, request: AppendRequest) -> None:
    """Take over the leader's entries, or say where the logs part (Raft §5.3)."""
    if state.is_installing:
        return  # The log is about to be replaced; the leader will try again.
    log = state.log
    if request.prev_index < log.base_index:
        # An old message about entries that are committed here, and so the same everywhere.
        _respond(state, request, match_index=state.commit_index)
        return
    if log.term_at(request.prev_index) != request.prev_term:
        _reject(state, request)
        return
    conflict = log.conflict(request.entries)
    if conflict is not None and conflict <= state.commit_index:
        return  # No leader can say so: what is committed never changes (Raft figure 3).
    log.merge(request.entries)
    last_new = LogIndex(request.prev_index + len(request.entries))
    _commit_to(state, min(request.commit_index, last_new))
    _respond(state, request, match_index=last_new)


def _commit_to(state: RaftState, index: LogIndex) -> None:
    index = min(index, state.log.last_index)
    if index > state.commit_index:
        state.commit_index = index


def _respond(state: RaftState, request: AppendRequest, *, match_index: LogIndex) -> None:
    state.out.messages_when_durable.append(
        AppendResponse(state.replica, request.sender, state.term, match_index)
    )


def _reject(state: RaftState, request: AppendRequest) -> None:
    """Name the last entry that may still match: no newer than the term asked about.

    It promises nothing, so it need not wait for the disk.
    """
    hint_index = state.log.last_of_term(request.prev_index, request.prev_term)
    state.out.messages.append(
        AppendResponse(
            sender=state.replica,
            receiver=request.sender,
            term=state.term,
            match_index=LogIndex(0),
            rejected=True,
            rejected_index=request.prev_index,
            hint_index=hint_index,
            hint_term=state.log.term_at(hint_index) or Term(0),
        )
    )


def handle_heartbeat(state: RaftState, heartbeat: Heartbeat) -> None:
    """Stay quiet, learn what is committed, confirm the leader's round."""
    if is_beat(heartbeat.read_round):
        state.arrivals.arrived(state.now)
    if not state.is_installing:
        _commit_to(state, heartbeat.commit_index)
    state.out.messages.append(
        HeartbeatResponse(state.replica, heartbeat.sender, state.term, heartbeat.read_round)
    )


def handle_snapshot_chunk(state: RaftState, chunk: SnapshotChunk) -> None:
    """Our log ends before the leader's begins."""
    snapshots.handle_chunk(state, chunk)


def handle_timeout_now(state: RaftState, message: TimeoutNow) -> None:
    """The leader hands over to us: stand at once, and tell voters that it agrees."""
    if state.is_promotable and state.leader in (message.sender, NO_REPLICA):
        election.stand_for_term(state, by_transfer=True)


def forward_read(state: RaftState, context: int) -> None:
    """Ask the leader; with none known the read fails at once."""
    if state.leader == NO_REPLICA:
        state.out.reads_failed.append(context)
        return
    deadline = state.now + state.options.election_timeout_s_max
    state.out.messages.append(
        ReadIndexRequest(
            sender=state.replica,
            receiver=state.leader,
            term=state.term,
            context=state.forwarded_reads.add(context, deadline),
        )
    )


def handle_read_index_response(state: RaftState, response: ReadIndexResponse) -> None:
    """The leader confirmed a read that we forwarded, or cannot."""
    context = state.forwarded_reads.take(response.context)
    if context is None:
        return
    if response.refused:
        state.out.reads_failed.append(context)
    else:
        state.out.read_states.append(ReadState(context, response.index))
