"""How entries get from the leader to a quorum (Raft §5.3, §5.4.2; thesis §10.2.1).

The leader sends in parallel with its own write and counts itself only once that is durable.
Appends are pipelined: in the REPLICATE state the next one leaves before the last is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import NotLeader, Overloaded
from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import confchange, snapshots
from kvstore.raft.confchange import is_voter
from kvstore.raft.log import size_of
from kvstore.raft.messages import (
    AppendRequest,
    Entry,
    EntryKind,
    Heartbeat,
    ReadIndexResponse,
    TimeoutNow,
)
from kvstore.raft.progress import ProgressState
from kvstore.raft.ready import ReadState

if TYPE_CHECKING:
    from kvstore.ids import Term
    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import LeaderState, RaftState


def leading(state: RaftState) -> LeaderState:
    """The leader's part of the state; only to be asked for in the leader role."""
    assert state.leading is not None
    return state.leading


# -- appending ----------------------------------------------------------------------------------


def begin_term(state: RaftState) -> None:
    """A new leader appends a no-op: once committed, so is all before it (Raft §5.4.2, §8)."""
    _append(state, EntryKind.NOOP, b"")
    send_heartbeats(state)


def propose(state: RaftState, payload: bytes) -> tuple[LogIndex, Term]:
    """Append a command.

    Raises:
        NotLeader: we do not lead, or are about to hand over.
        Overloaded: too many bytes wait to be committed.
    """
    if state.leading is None:
        raise NotLeader("this replica does not lead its group")
    if state.leading.transferring_to != NO_REPLICA:
        raise NotLeader("leadership is being transferred")
    waiting = state.leading.uncommitted_bytes
    if waiting and waiting + len(payload) > state.options.uncommitted_bytes_max:
        raise Overloaded(f"{waiting} bytes of the group's log are not committed yet")
    return _append(state, EntryKind.COMMAND, payload)


def append_config(state: RaftState, config: GroupConfig) -> LogIndex:
    """Append a configuration and follow it at once (Raft §6)."""
    index, _ = _append(state, EntryKind.CONFIG, confchange.encode(config))
    leading(state).tracker.adopt(
        config, index, give_up_at=state.now + state.options.election_timeout_s_max
    )
    return index


def _append(state: RaftState, kind: EntryKind, payload: bytes) -> tuple[LogIndex, Term]:
    entry = Entry(LogIndex(state.log.last_index + 1), state.term, kind, payload)
    state.log.extend((entry,))
    leading(state).uncommitted_bytes += size_of(entry)
    return entry.index, entry.term


# -- sending --------------------------------------------------------------------------------------


def send_appends(state: RaftState) -> None:
    """Send every peer what it lacks, as far as its window allows."""
    for peer in leading(state).tracker.peers.values():
        if peer.next_index <= state.log.last_index:
            send_append(state, peer)


def send_append(state: RaftState, peer: Progress, *, even_if_empty: bool = False) -> None:
    """Fill the window of one peer; a probe sends one message and waits."""
    options = state.options
    while not peer.is_paused(options.inflight_messages_max, options.inflight_bytes_max):
        prev_index = LogIndex(peer.next_index - 1)
        prev_term = state.log.term_at(prev_index)
        if prev_term is None:
            snapshots.begin(state, peer)
            return
        entries = state.log.following(peer.next_index, options.append_bytes_max)
        if not entries and not even_if_empty:
            return
        state.out.messages.append(
            AppendRequest(
                sender=state.replica,
                receiver=peer.replica,
                term=state.term,
                prev_index=prev_index,
                prev_term=prev_term,
                entries=entries,
                commit_index=state.commit_index,
            )
        )
        if entries:
            peer.sent(entries[-1].index, sum(map(size_of, entries)))
        even_if_empty = False
        if not entries:
            return


def send_heartbeats(state: RaftState) -> None:
    """One numbered round to everybody; its answers confirm the reads that wait.

    The next one is due on a beat that all groups of a process share, so that their
    heartbeats leave in one frame.
    """
    lead = leading(state)
    lead.read_round += 1
    interval_s = state.options.heartbeat_interval_s
    lead.heartbeat_at = (state.now // interval_s + 1.0) * interval_s
    if state.options.lease_reads:
        lead.rounds_sent.append((lead.read_round, state.now))
    if state.has_committed_in_term:
        lead.reads.begin_round(lead.read_round, state.commit_index)
    for peer in lead.tracker.peers.values():
        state.out.messages.append(
            Heartbeat(
                sender=state.replica,
                receiver=peer.replica,
                term=state.term,
                commit_index=min(state.commit_index, peer.match_index),
                read_round=lead.read_round,
            )
        )
    confirm_reads(state)


# -- committing -----------------------------------------------------------------------------------


def advance_commit(state: RaftState) -> None:
    """Commit what a quorum holds, but only by counting an entry of our own term (§5.4.2)."""
    lead = leading(state)
    index = lead.tracker.quorum_index(state.log.durable_index)
    if index <= state.commit_index or state.log.term_at(index) != state.term:
        return
    previous, state.commit_index = state.commit_index, index
    committed = state.log.between(LogIndex(previous + 1), index)
    lead.uncommitted_bytes = max(0, lead.uncommitted_bytes - sum(map(size_of, committed)))
    if previous < state.log.config_index <= index:
        _config_committed(state)
    elif previous < lead.first_index <= index and state.config.voters_outgoing:
        append_config(state, confchange.leave_joint(state.config))


def _config_committed(state: RaftState) -> None:
    """A joint configuration is left at once; a leader that removed itself steps down."""
    lead = leading(state)
    if state.config.voters_outgoing:
        append_config(state, confchange.leave_joint(state.config))
        return
    for peer in lead.tracker.peers.values():
        peer.probe_sent = False
        send_append(state, peer, even_if_empty=True)
    if not is_voter(state.config, state.replica):
        _leave_to_the_best(state)


def _leave_to_the_best(state: RaftState) -> None:
    """A leader that is no member any more hands over to the voter that has most."""
    tracker = leading(state).tracker
    best = max(
        (tracker.peers[voter] for voter in state.config.voters),
        key=lambda peer: (peer.match_index, peer.recently_active),
    )
    state.out.messages.append(
        TimeoutNow(sender=state.replica, receiver=best.replica, term=state.term)
    )
    state.become_follower(state.term, NO_REPLICA)


def tell_departed(state: RaftState, peer: Progress) -> None:
    """A removed peer that holds its removal needs nothing more from us."""
    lead = leading(state)
    give_up_at = lead.tracker.departing.get(peer.replica)
    if give_up_at is None:
        return
    config_index = state.log.config_index
    knows = peer.match_index >= config_index and state.commit_index >= config_index
    if knows or state.now >= give_up_at:
        snapshots.close(state, peer)
        lead.tracker.forget(peer.replica)


# -- reads ----------------------------------------------------------------------------------------


def confirm_reads(state: RaftState) -> None:
    """Release the reads whose round a quorum has answered."""
    lead = leading(state)
    number = lead.tracker.quorum_read_round(lead.read_round)
    for request, index in lead.reads.confirm(number):
        answer_read(state, request.origin, request.context, index)


def answer_read(state: RaftState, origin: int, context: int, index: LogIndex) -> None:
    """A read is linearizable at ``index``: tell ourselves or the follower that asked."""
    if origin == state.replica:
        state.out.read_states.append(ReadState(context, index))
        return
    for peer in leading(state).tracker.peers.values():
        if peer.replica == origin:
            state.out.messages.append(
                ReadIndexResponse(
                    sender=state.replica,
                    receiver=peer.replica,
                    term=state.term,
                    context=context,
                    index=index,
                    refused=False,
                )
            )


def has_lease(state: RaftState) -> bool:
    """Whether no other leader can exist yet, by the clock (thesis §6.4.1).

    A quorum answered a heartbeat; its voters keep their leader for the minimum election
    timeout from then on, shortened here by how far two clocks may drift.
    """
    lead = leading(state)
    if not state.options.lease_reads or lead.lease_revoked or not state.has_committed_in_term:
        return False
    protected_s = state.options.election_timeout_s_min * (1.0 - state.options.clock_drift_max)
    return state.now < lead.tracker.quorum_lease_from(state.now) + protected_s


# -- transfer -------------------------------------------------------------------------------------


def send_timeout_now(state: RaftState, peer: Progress) -> None:
    """The target of a transfer has all we have: it may stand at once (thesis §3.10)."""
    lead = leading(state)
    if lead.transferring_to == peer.replica and peer.match_index == state.log.last_index:
        lead.lease_revoked = True
        state.out.messages.append(
            TimeoutNow(sender=state.replica, receiver=peer.replica, term=state.term)
        )


# -- lost messages --------------------------------------------------------------------------------


def is_stalled(peer: Progress) -> bool:
    """Whether nothing moved between two heartbeat answers although appends are under way."""
    stalled = (
        peer.state is ProgressState.REPLICATE
        and bool(peer.inflight)
        and peer.match_index == peer.stalled_at
    )
    peer.stalled_at = peer.match_index
    return stalled


def ask_whether_lost(state: RaftState, peer: Progress) -> None:
    """An empty append behind all that is under way: a peer that lost any of it will say so."""
    prev_index = LogIndex(peer.next_index - 1)
    prev_term = state.log.term_at(prev_index)
    if prev_term is None:
        peer.become_probe()
        return
    state.out.messages.append(
        AppendRequest(
            sender=state.replica,
            receiver=peer.replica,
            term=state.term,
            prev_index=prev_index,
            prev_term=prev_term,
            entries=(),
            commit_index=state.commit_index,
        )
    )
