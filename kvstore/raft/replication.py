"""How entries get from the leader to a quorum (Raft §5.3, §5.4.2; thesis §10.2.1).

The leader sends in parallel with its own write and counts itself only once that is durable.
Appends are pipelined: in the REPLICATE state the next one leaves before the last is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.errors import NotLeader, Overloaded
from kvstore.ids import NO_REPLICA, LogIndex
from kvstore.raft import read_rounds, snapshots
from kvstore.raft.log import size_of
from kvstore.raft.messages import (
    AppendRequest,
    Entry,
    EntryKind,
    TimeoutNow,
)
from kvstore.raft.progress import ProgressState
from kvstore.raft.state import leading

if TYPE_CHECKING:
    from kvstore.ids import Term
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import RaftState

CATCH_UP_BYTES: Final = 64 * 1024
"""Of old log in one append to a learner."""


# -- appending ----------------------------------------------------------------------------------


def begin_term(state: RaftState) -> None:
    """A new leader appends a no-op: once committed, so is all before it (Raft §5.4.2, §8)."""
    append(state, EntryKind.NOOP, b"")
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
    return append(state, EntryKind.COMMAND, payload)


def append(state: RaftState, kind: EntryKind, payload: bytes) -> tuple[LogIndex, Term]:
    """Add an entry of our term to our log; ``ready()`` sends and writes it."""
    entry = Entry(LogIndex(state.log.last_index + 1), state.term, kind, payload)
    state.log.extend((entry,))
    leading(state).uncommitted_bytes += size_of(entry)
    return entry.index, entry.term


# -- sending --------------------------------------------------------------------------------------


def send_appends(state: RaftState) -> None:
    """Send every peer what it lacks, as far as its window allows."""
    last_index = state.log.last_index
    for peer in leading(state).tracker.peers.values():
        if peer.next_index <= last_index:
            send_append(state, peer)


def has_more_to_send(state: RaftState) -> bool:
    """Whether a peer could be sent what it lacks, or a round would confirm reads."""
    last_index, options = state.log.last_index, state.options
    for peer in leading(state).tracker.peers.values():
        if peer.next_index <= last_index and not peer.is_paused(
            options.inflight_messages_max, options.inflight_bytes_max
        ):
            return True
    return read_rounds.has_reads_to_confirm(state)


def send_append(state: RaftState, peer: Progress, *, even_if_empty: bool = False) -> None:
    """Fill the window of one peer; a probe sends one message and waits."""
    options = state.options
    while not peer.is_paused(options.inflight_messages_max, options.inflight_bytes_max):
        prev_index = LogIndex(peer.next_index - 1)
        prev_term = state.log.term_at(prev_index)
        if prev_term is None or snapshots.is_better(state, peer):
            snapshots.begin(state, peer)
            return
        entries = state.log.following(peer.next_index, _bytes_max(state, peer))
        if not entries and not even_if_empty:
            return
        _send(state, peer, prev_index, prev_term, entries)
        if entries:
            peer.sent(entries[-1].index, sum(map(size_of, entries)))
        if not entries or peer.next_index > state.log.last_index:
            return
        even_if_empty = False


def _send(
    state: RaftState,
    peer: Progress,
    prev_index: LogIndex,
    prev_term: Term,
    entries: tuple[Entry, ...],
) -> None:
    """One append, behind the entry (``prev_index``, ``prev_term``)."""
    state.out.messages.append(
        AppendRequest(
            state.replica,
            peer.replica,
            state.term,
            prev_index,
            prev_term,
            entries,
            state.commit_index,
            peer.is_catching_up,
        )
    )


def _bytes_max(state: RaftState, peer: Progress) -> int:
    """Of one append: small pieces of what is old, so that no loop is held up by them."""
    whole = state.options.append_bytes_max
    return min(whole, CATCH_UP_BYTES) if peer.is_catching_up else whole


def send_heartbeats(state: RaftState) -> None:
    """A beat to everybody; its answers confirm the reads that wait, too.

    The next one is due on a beat that all groups of a process share, so that their
    heartbeats leave in one frame.
    """
    lead = leading(state)
    interval_s = state.options.heartbeat_interval_s
    lead.heartbeat_at = (state.now // interval_s + 1.0) * interval_s
    read_rounds.beat(state)


# -- lease ----------------------------------------------------------------------------------------


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
    _send(state, peer, prev_index, prev_term, ())
