"""What the driver is given, and whether there is anything to give.

Each input asks :meth:`Handover.has_more` and most of a busy group's have nothing to hand over:
the second follower's answer about an entry that is committed already, a follower's own write of
one that is not committed yet. So it is told from the state itself, all that :meth:`Handover.take`
looks at, and no rule has to remember to say that it changed something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import read_rounds, replication
from kvstore.raft.messages import HardState
from kvstore.raft.ready import Ready, Role
from kvstore.raft.state import Outbox

if TYPE_CHECKING:
    from kvstore.raft.messages import Entry
    from kvstore.raft.state import RaftState


class Handover:
    """Remembers what the driver knows, and gives it the rest once."""

    def __init__(self, saved: HardState) -> None:
        """``saved`` is durable."""
        self._saved = saved
        self._role = Role.FOLLOWER
        self._leader = NO_REPLICA

    def has_more(self, state: RaftState) -> bool:
        """Whether :meth:`take` has anything to give, or role, term or leader are news."""
        log, saved = state.log, self._saved
        return (
            state.handed_index < min(state.commit_index, log.durable_index)
            or log.unwritten_from <= log.last_index
            or not state.out.is_empty
            or state.term != saved.term
            or state.vote != saved.vote
            or state.role is not self._role
            or state.leader != self._leader
            or (state.leading is not None and replication.has_more_to_send(state))
        )

    def take(self, state: RaftState) -> Ready:
        """Everything to persist, send, apply and answer since the last call."""
        self._role, self._leader = state.role, state.leader
        if state.leading is not None:
            if read_rounds.has_reads_to_confirm(state):
                read_rounds.begin(state)
            replication.send_appends(state)
        out, state.out = state.out, Outbox()
        hard_state = self._take_hard_state(state)
        messages, when_durable = out.messages, out.messages_when_durable
        if hard_state is not None:
            messages, when_durable = [], messages + when_durable
        return Ready(
            hard_state,
            state.log.take_unwritten(),
            messages,
            when_durable,
            _take_committed(state),
            out.read_states,
            out.reads_failed,
            out.snapshot_reads,
            out.snapshot_writes,
            out.snapshots_closed,
            out.compacted,
        )

    def _take_hard_state(self, state: RaftState) -> HardState | None:
        """Term and vote if they changed: then nothing may leave before they are durable."""
        saved = self._saved
        if state.term == saved.term and state.vote == saved.vote:
            return None
        self._saved = HardState(state.term, state.vote)
        return self._saved


def _take_committed(state: RaftState) -> tuple[Entry, ...]:
    """What is committed and durable here, once: only that is applied."""
    last = min(state.commit_index, state.log.durable_index)
    if last <= state.handed_index:
        return ()
    entries = state.log.between(LogIndex(state.handed_index + 1), last)
    state.handed_index = last
    return entries
