"""What a candidate or pre-candidate does with an answer (Raft §5.2; thesis §9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft import election
from kvstore.raft.confchange import is_voter
from kvstore.raft.ready import Role

if TYPE_CHECKING:
    from kvstore.raft.messages import VoteResponse
    from kvstore.raft.state import RaftState


def handle_vote_response(state: RaftState, response: VoteResponse) -> None:
    """Count it if it belongs to the election under way."""
    if not is_voter(state.config, response.sender):
        return
    if response.pre_vote:
        expected = state.term + 1 if response.granted else state.term
        if state.role is Role.PRE_CANDIDATE and response.term == expected:
            election.count_vote(state, response)
    elif state.role is Role.CANDIDATE and response.term == state.term:
        election.count_vote(state, response)
