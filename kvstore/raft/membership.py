"""What a leader does to change the group's members (Raft §6; thesis §4).

Which steps are allowed stands in ``confchange``; here is their life: appended, in force at
once, committed, and what the leader owes to those whom it removed, itself included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument, NotLeader, Overloaded
from kvstore.ids import NO_REPLICA
from kvstore.raft import confchange, replication, snapshots
from kvstore.raft.confchange import is_voter
from kvstore.raft.messages import EntryKind, TimeoutNow
from kvstore.raft.state import leading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.ids import LogIndex, ReplicaId
    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import RaftState


def propose(
    state: RaftState,
    voters: Iterable[ReplicaId],
    learners: Iterable[ReplicaId],
    epoch: int | None = None,
) -> LogIndex:
    """Append the configuration that leads to these members.

    Raises:
        NotLeader: we do not lead, or are handing over.
        Overloaded: another change, or the term's first entry, is not committed yet (the
            latter closes the hole found in 2015 in single-server changes).
        InvalidArgument: see :func:`confchange.change`.
    """
    if state.leading is None or state.leading.transferring_to != NO_REPLICA:
        raise NotLeader("this replica does not lead its group")
    if state.log.config_index > state.commit_index or not state.has_committed_in_term:
        raise Overloaded("an earlier membership change or term start is not committed yet")
    config = confchange.change(state.config, voters, learners, epoch)
    if config == state.config:
        raise InvalidArgument("the group has these members and this epoch already")
    return _append_config(state, config)


def _append_config(state: RaftState, config: GroupConfig) -> LogIndex:
    """Append a configuration and follow it at once (Raft §6)."""
    index, _ = replication.append(state, EntryKind.CONFIG, confchange.encode(config))
    leading(state).tracker.adopt(
        config, index, give_up_at=state.now + state.options.election_timeout_s_max
    )
    return index


def config_committed(state: RaftState) -> None:
    """Everybody is told at once, the removed too, before a leader that is one of them goes."""
    if not state.config.voters_outgoing:
        for peer in leading(state).tracker.peers.values():
            peer.probe_sent = False
            replication.send_append(state, peer, even_if_empty=True)
    settle(state)


def settle(state: RaftState) -> None:
    """A committed joint configuration is left; a leader that is no voter any more steps down.

    A new leader does the same for what its predecessor left half done, once it knows by its
    own first entry that it is committed.
    """
    if state.config.voters_outgoing:
        _append_config(state, confchange.leave_joint(state.config))
    elif not is_voter(state.config, state.replica):
        _leave_to_the_best(state)


def _leave_to_the_best(state: RaftState) -> None:
    """A leader that is no member any more hands over to the voter that has most."""
    tracker = leading(state).tracker
    best = max(
        (tracker.peers[voter] for voter in state.config.voters),
        key=lambda peer: (
            peer.replica not in state.gone,
            peer.match_index,
            peer.recently_active,
        ),
    )
    state.out.messages.append(
        TimeoutNow(sender=state.replica, receiver=best.replica, term=state.term)
    )
    state.become_follower(state.term, NO_REPLICA)


def tell_departed(state: RaftState, peer: Progress) -> None:
    """A removed peer that knows that its removal is committed needs nothing more from us.

    It knows once it has answered a heartbeat that was sent after it held the entry and that
    told it the commit index. Until then it might stand for election (thesis §4.2.2).
    """
    lead = leading(state)
    give_up_at = lead.tracker.departing.get(peer.replica)
    if give_up_at is None:
        return
    config_index = state.log.config_index
    if peer.farewell_round == 0 and peer.match_index >= config_index <= state.commit_index:
        peer.farewell_round = lead.read_round + 1
    knows = 0 < peer.farewell_round <= peer.read_round
    if knows or state.now >= give_up_at:
        snapshots.close(state, peer)
        lead.tracker.forget(peer.replica)
