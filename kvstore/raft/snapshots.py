"""Sending and receiving a snapshot in chunks (Raft §7), with flow control.

The leader reads a chunk, sends it, and goes on while at most a few are unacknowledged. A
chunk is acknowledged once the receiver's driver has it on disk. Whatever goes wrong on the
way ends the attempt; the next one has a new number and begins at offset 0, so that pieces of
two attempts are never mixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft.messages import AppendRequest, SnapshotChunk, SnapshotMeta, SnapshotResponse
from kvstore.raft.progress import SnapshotTransfer
from kvstore.raft.ready import SnapshotRead, SnapshotWrite
from kvstore.raft.state import Receiving

if TYPE_CHECKING:
    from kvstore.ids import LogIndex, ReplicaId
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import RaftState

INSTALL_TIMEOUT_S = 60.0
"""How long a receiver may take to install what it has completely received."""

CHUNK_TIMEOUT_S = 3.0
"""How long a chunk may stay unacknowledged."""


NEWCOMER_SHARE = 32
"""A newcomer that has nothing gets the state rather than a log of over 1/32 of what is kept:
to run a command costs it several times what it costs to store a row."""


# -- the leader's side --------------------------------------------------------------------------


def is_better(state: RaftState, peer: Progress) -> bool:
    """Whether ``peer`` should get a snapshot although the log reaches back far enough."""
    if peer.next_index > 1 or not peer.is_catching_up:
        return False  # It has something, or what it lacks is new.
    is_long = state.log.bytes > state.options.log_bytes_max // NEWCOMER_SHARE
    return is_long and state.applied_index > 0


def begin(state: RaftState, peer: Progress) -> None:
    """Send the state; the entries behind it follow once ``peer`` has that."""
    if not peer.recently_active:
        return
    state.transfers_begun += 1
    transfer = SnapshotTransfer(number=_transfer_number(state), active_at=state.now)
    peer.become_snapshot(transfer)
    _read_on(state, peer, transfer)


def _transfer_number(state: RaftState) -> int:
    """Unique among all leaders: the term belongs to one of them."""
    return (state.term << 24) + state.transfers_begun


def _read_on(state: RaftState, peer: Progress, transfer: SnapshotTransfer) -> None:
    transfer.reading = True
    state.out.snapshot_reads.append(
        SnapshotRead(
            peer=peer.replica,
            transfer=transfer.number,
            offset=transfer.next_offset,
            bytes_max=state.options.snapshot_chunk_bytes,
        )
    )


def current_transfer(
    state: RaftState, replica: ReplicaId, number: int
) -> tuple[Progress, SnapshotTransfer] | None:
    """The transfer called ``number``, unless it ended in the meantime."""
    if state.leading is None:
        return None
    peer = state.leading.tracker.peers.get(replica)
    if peer is None or peer.transfer is None or peer.transfer.number != number:
        return None
    return peer, peer.transfer


def chunk_read(
    state: RaftState,
    peer: Progress,
    transfer: SnapshotTransfer,
    meta: SnapshotMeta | None,
    data: bytes,
    *,
    is_last: bool,
) -> None:
    """The driver read the next piece: send it, and read on if the window allows."""
    if meta is not None:
        transfer.meta = meta
    assert transfer.meta is not None
    state.out.messages.append(
        SnapshotChunk(
            sender=state.replica,
            receiver=peer.replica,
            term=state.term,
            meta=transfer.meta,
            transfer=transfer.number,
            offset=transfer.next_offset,
            data=data,
            is_last=is_last,
        )
    )
    transfer.next_offset += len(data)
    transfer.unacked.append(transfer.next_offset)
    transfer.active_at = state.now
    transfer.reading = False
    transfer.sent_last = is_last
    _fill_window(state, peer, transfer)


def _fill_window(state: RaftState, peer: Progress, transfer: SnapshotTransfer) -> None:
    room = len(transfer.unacked) < state.options.snapshot_chunks_inflight_max
    if room and not transfer.reading and not transfer.sent_last:
        _read_on(state, peer, transfer)


def handle_response(state: RaftState, peer: Progress, response: SnapshotResponse) -> None:
    """The receiver stored a chunk, has the whole state in force, or wants a new attempt."""
    if response.installed:
        if response.index <= state.log.last_index:
            peer.acknowledged(response.index)
            if is_installed(peer, response.index):
                finish(state, peer)
        return
    transfer = peer.transfer
    if transfer is None or transfer.number != response.transfer:
        return
    if response.rejected:
        abort(state, peer)
        return
    transfer.active_at = state.now
    transfer.acked_offset = max(transfer.acked_offset, response.next_offset)
    while transfer.unacked and transfer.unacked[0] <= transfer.acked_offset:
        transfer.unacked.popleft()
    _fill_window(state, peer, transfer)


def is_installed(peer: Progress, index: LogIndex) -> bool:
    """Whether a peer that has everything up to ``index`` has what we are sending it."""
    meta = None if peer.transfer is None else peer.transfer.meta
    return meta is not None and meta.index <= index


def finish(state: RaftState, peer: Progress) -> None:
    """The receiver has the state: the entries behind it follow, or another snapshot."""
    close(state, peer)
    peer.become_probe()


def abort(state: RaftState, peer: Progress) -> None:
    """End the attempt. A probe behind it finds out what the peer has; maybe it is enough.

    The probe waits until the peer is heard again, so that one that is not there does not
    make us begin again and again.
    """
    close(state, peer)
    peer.become_probe()
    peer.probe_sent = True


def abort_if_lost(state: RaftState, peer: Progress, rejected_index: LogIndex) -> None:
    """A no to the question whether all is installed, from a peer that had stored every chunk.

    While it installs it says nothing. So it does not: it was restarted before it came to that,
    and without this word we would wait for the whole of ``INSTALL_TIMEOUT_S``.
    """
    transfer = peer.transfer
    if transfer is None or transfer.meta is None or not transfer.sent_last:
        return
    if not transfer.unacked and transfer.meta.index == rejected_index:
        abort(state, peer)


def close(state: RaftState, peer: Progress) -> None:
    """Let the driver release what it opened for the transfer to ``peer``, if there is one."""
    if peer.transfer is not None:
        state.out.snapshots_closed.append(peer.transfer.number)


def check_progress(state: RaftState, peer: Progress) -> None:
    """The receiver answered a heartbeat: is the attempt still going on?

    The word that it is installed may have been lost, so a receiver of everything is asked by
    an empty append right behind the snapshot. Of an attempt that stands still we give up.
    """
    transfer = peer.transfer
    if transfer is None or transfer.reading:
        return
    patience_s = CHUNK_TIMEOUT_S if transfer.unacked else INSTALL_TIMEOUT_S
    if state.now - transfer.active_at > patience_s:
        abort(state, peer)
    elif transfer.sent_last and transfer.meta is not None:
        state.out.messages.append(
            AppendRequest(
                sender=state.replica,
                receiver=peer.replica,
                term=state.term,
                prev_index=transfer.meta.index,
                prev_term=transfer.meta.term,
                entries=(),
                commit_index=transfer.meta.index,
            )
        )


def retention_index(state: RaftState) -> LogIndex | None:
    """Entries behind this are needed by a receiver as soon as it has its snapshot.

    And by a newcomer that has it, until it is one of the voters: otherwise what was written
    meanwhile would be cut off as soon as it needs it, and it would get one snapshot after another.
    """
    if state.leading is None:
        return None
    indexes: list[LogIndex] = []
    for peer in state.leading.tracker.peers.values():
        if peer.transfer is not None:
            meta = peer.transfer.meta
            indexes.append(state.applied_index if meta is None else meta.index)
        elif peer.replica in state.config.learners and peer.recently_active and peer.match_index:
            indexes.append(peer.match_index)
    return min(indexes, default=None)


# -- the follower's side --------------------------------------------------------------------------


def handle_chunk(state: RaftState, chunk: SnapshotChunk) -> None:
    """Take the next piece, or say that it is not needed or does not fit."""
    receiving = state.receiving
    if receiving is not None and receiving.is_complete:
        return  # Nothing can be undone while the driver installs; the answer follows.
    if receiving is not None and chunk.transfer < receiving.transfer:
        return  # Late, of an attempt that was given up: it must not undo the present one.
    if _has_state(state, chunk.meta):
        state.receiving = None
        state.commit_index = max(state.commit_index, chunk.meta.index)
        _respond(state, chunk.sender, chunk.meta, chunk.transfer, installed=True)
        return
    if chunk.offset == 0 and (receiving is None or receiving.transfer != chunk.transfer):
        receiving = Receiving(chunk.sender, chunk.transfer, chunk.meta)
        state.receiving = receiving
    if receiving is None or receiving.transfer != chunk.transfer:
        _respond(state, chunk.sender, chunk.meta, chunk.transfer, rejected=True)
        return
    if chunk.offset < receiving.next_offset:
        return  # A duplicate; its first copy is acknowledged once it is written.
    if chunk.offset > receiving.next_offset:
        state.receiving = None
        _respond(state, chunk.sender, chunk.meta, chunk.transfer, rejected=True)
        return
    receiving.next_offset += len(chunk.data)
    receiving.is_complete = chunk.is_last
    state.out.snapshot_writes.append(
        SnapshotWrite(chunk.meta, chunk.transfer, chunk.offset, chunk.data, chunk.is_last)
    )


def _has_state(state: RaftState, meta: SnapshotMeta) -> bool:
    """Whether our own log already holds all that the snapshot stands for."""
    if meta.index <= state.commit_index:
        return True
    return state.log.term_at(meta.index) == meta.term


def written(state: RaftState, transfer: int, next_offset: int) -> None:
    """The driver has stored everything up to ``next_offset``."""
    receiving = state.receiving
    if receiving is not None and receiving.transfer == transfer:
        _respond(state, receiving.sender, receiving.meta, transfer, next_offset=next_offset)


def aborted(state: RaftState, transfer: int) -> None:
    """The driver could not store a piece: the sender must begin again."""
    receiving = state.receiving
    if receiving is not None and receiving.transfer == transfer:
        state.receiving = None
        _respond(state, receiving.sender, receiving.meta, transfer, rejected=True)


def installed(state: RaftState, meta: SnapshotMeta) -> None:
    """The state after ``meta.index`` is in force and durable; the log begins behind it."""
    receiving = state.receiving
    assert receiving is not None
    assert meta.index > state.commit_index
    state.log.restore(meta)
    state.commit_index = state.handed_index = state.applied_index = meta.index
    state.receiving = None
    _respond(state, receiving.sender, meta, receiving.transfer, installed=True)


def _respond(
    state: RaftState,
    receiver: ReplicaId,
    meta: SnapshotMeta,
    transfer: int,
    *,
    next_offset: int = 0,
    installed: bool = False,
    rejected: bool = False,
) -> None:
    state.out.messages_when_durable.append(
        SnapshotResponse(
            sender=state.replica,
            receiver=receiver,
            term=state.term,
            index=meta.index,
            transfer=transfer,
            next_offset=next_offset,
            installed=installed,
            rejected=rejected,
        )
    )
