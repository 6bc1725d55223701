"""When an entry is committed, and what follows when it is (Raft §5.3, §5.4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import LogIndex
from kvstore.raft import membership
from kvstore.raft.log import size_of
from kvstore.raft.state import leading

if TYPE_CHECKING:
    from kvstore.raft.state import RaftState


def advance_commit(state: RaftState) -> None:
    """Commit what a quorum holds, but only by counting an entry of our own term (§5.4.2)."""
    if state.commit_index == state.log.last_index:
        return
    lead = leading(state)
    index = lead.tracker.quorum_index(state.log.durable_index)
    if index <= state.commit_index or state.log.term_at(index) != state.term:
        return
    previous, state.commit_index = state.commit_index, index
    committed = state.log.between(LogIndex(previous + 1), index)
    lead.uncommitted_bytes = max(0, lead.uncommitted_bytes - sum(map(size_of, committed)))
    if previous < state.log.config_index <= index:
        membership.config_committed(state)
    elif previous < lead.first_index <= index:
        membership.settle(state)
