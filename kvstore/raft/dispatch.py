"""Sorts messages by term and role (Raft figure 2, "Rules for Servers").

What is to be done with them stands in ``follower``, ``candidate`` and ``leader``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import candidate, election, follower, leader
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotChunk,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role

if TYPE_CHECKING:
    from kvstore.raft.messages import Message
    from kvstore.raft.state import RaftState

_FROM_LEADER = AppendRequest | Heartbeat | SnapshotChunk | TimeoutNow
_TO_LEADER = AppendResponse | HeartbeatResponse | SnapshotResponse


def dispatch(state: RaftState, message: Message) -> None:
    """Bring the term up to date, then let the role handle the message."""
    if message.term > state.term and not _enter_term_of(state, message):
        return
    if message.term < state.term:
        _answer_past_term(state, message)
    else:
        _handle(state, message)


def _enter_term_of(state: RaftState, message: Message) -> bool:
    """A higher term: follow into it, unless the message does not prove one (thesis §9.6).

    False if the message is dealt with.
    """
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
    election.wait_briefly_if_leader_is_gone(state)
    return True


def _answer_past_term(state: RaftState, message: Message) -> None:
    """Tell a sender that lives in the past; else it might wait for us for ever."""
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


def _handle(state: RaftState, message: Message) -> None:
    """A message of the current term."""
    match message:
        case AppendRequest() | Heartbeat() | SnapshotChunk() | TimeoutNow():
            _handle_from_leader(state, message)
        case AppendResponse() | HeartbeatResponse() | SnapshotResponse():
            if state.leading is not None:
                _handle_as_leader(state, message)
        case VoteRequest():
            election.answer_request(state, message)
        case VoteResponse():
            candidate.handle_vote_response(state, message)
        case ReadIndexRequest():
            if state.leading is not None:
                leader.handle_read_index_request(state, message)
            else:
                leader.refuse_read(state, message)
        case ReadIndexResponse():
            follower.handle_read_index_response(state, message)


def _handle_from_leader(state: RaftState, message: _FROM_LEADER) -> None:
    if state.role is Role.LEADER:
        return  # A term has one leader and we are it: the sender is broken.
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


def _handle_as_leader(state: RaftState, message: _TO_LEADER) -> None:
    match message:
        case AppendResponse():
            leader.handle_append_response(state, message)
        case HeartbeatResponse():
            leader.handle_heartbeat_response(state, message)
        case SnapshotResponse():
            leader.handle_snapshot_response(state, message)
