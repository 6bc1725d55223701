"""Whom a leader asks whether it still leads, and what if they do not answer (thesis §6.4).

A beat asks everybody. A read round asks as few voters as a quorum needs (of both halves of a
joint configuration): those that are heard, not behind and quick. If it is not confirmed in
``READ_ROUND_PATIENCE_S`` everybody is asked, and whoever left it unanswered is passed over until
it answers something again. So one frozen voter costs the reads of one moment a few milliseconds.

Whom we ask decides only how soon an answer can come. Whether it is enough is always counted
anew, among all voters (:meth:`Tracker.quorum_read_round`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.raft.confchange import is_voter, keeps_vote
from kvstore.raft.messages import Heartbeat, ReadIndexResponse
from kvstore.raft.progress import ProgressState
from kvstore.raft.reads import Choice, next_beat, next_read_round
from kvstore.raft.ready import ReadState
from kvstore.raft.state import leading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvstore.ids import LogIndex, ReplicaId
    from kvstore.raft.progress import Progress
    from kvstore.raft.state import LeaderState, RaftState

READ_ROUND_PATIENCE_S: Final = 0.005
"""Many round trips in one data centre. Further apart, everybody is asked a little later."""

_SMOOTHING: Final = 0.125
"""The weight of the newest answer, as in TCP's estimate of the round trip."""
_ANSWER_S_UNIT: Final = 0.001
"""Below it all are equally quick."""


# -- rounds ---------------------------------------------------------------------------------------


def has_reads_to_confirm(state: RaftState) -> bool:
    """Whether reads wait for a round to begin. Before the term's first commit they must wait."""
    return bool(leading(state).reads.waiting) and state.has_committed_in_term


def beat(state: RaftState) -> None:
    """Ask everybody, learners too."""
    lead = leading(state)
    everybody = tuple(lead.tracker.peers.values())
    for peer in everybody:
        if 0 < peer.read_round < lead.beat_round:
            peer.answer_s = max(peer.answer_s, state.options.heartbeat_interval_s)
    lead.beat_round, lead.beat_sent_at = next_beat(lead.read_round), state.now
    _begin(state, lead.beat_round, everybody)
    lead.reads.asked_all()
    confirm_reads(state)


def begin(state: RaftState) -> None:
    """Ask as few as may do whether we still lead, for the reads that wait."""
    lead = leading(state)
    asked = _chosen(state)
    _begin(state, next_read_round(lead.read_round), asked)
    if not asked:
        confirm_reads(state)
    elif len(asked) == len(_voting_peers(state)):
        lead.reads.asked_all()


def _begin(state: RaftState, number: int, asked: tuple[Progress, ...]) -> None:
    lead = leading(state)
    lead.read_round = number
    if state.options.lease_reads:
        lead.rounds_sent.append((number, state.now))
    if state.has_committed_in_term:
        lead.reads.begin_round(number, state.commit_index, asked, state.now)
    _ask(state, asked)


def _ask(state: RaftState, peers: Iterable[Progress]) -> None:
    number = leading(state).read_round
    for peer in peers:
        commit_index = min(state.commit_index, peer.match_index)
        state.out.messages.append(
            Heartbeat(state.replica, peer.replica, state.term, commit_index, number)
        )


def due_at(lead: LeaderState) -> float | None:
    """When the oldest read round that not everybody was asked about is overdue."""
    asked_few = lead.reads.asked_few
    return asked_few[0].began_at + READ_ROUND_PATIENCE_S if asked_few else None


def widen_if_overdue(state: RaftState) -> bool:
    """Ask the others as well if a round was not confirmed in time. True if it was not."""
    lead = leading(state)
    overdue_at = due_at(lead)
    if overdue_at is None or state.now < overdue_at:
        return False
    oldest, newest = lead.reads.asked_few[0], lead.reads.asked_few[-1]
    for peer in oldest.asked:
        if peer.read_round < oldest.number:
            peer.is_silent = True
    _ask(state, [peer for peer in _voting_peers(state) if peer not in newest.asked])
    lead.reads.asked_all()
    return True


# -- whom to ask ----------------------------------------------------------------------------------


def _voting_peers(state: RaftState) -> list[Progress]:
    config = state.config
    peers = leading(state).tracker.peers
    return [peer for replica, peer in peers.items() if is_voter(config, replica)]


def _chosen(state: RaftState) -> tuple[Progress, ...]:
    """The choice of before, unless a beat has gone by or it is not as good any more."""
    lead, config = leading(state), state.config
    choice = lead.choice
    if (
        choice is None
        or choice.config is not config
        or choice.beat_round != lead.beat_round
        or not all(_is_fit(state, p) and p.state is ProgressState.REPLICATE for p in choice.asked)
    ):
        choice = lead.choice = Choice(config, lead.beat_round, _choose(state))
    return choice.asked


def _choose(state: RaftState) -> tuple[Progress, ...]:
    """The best voters that make a quorum together with us, or all if these do not suffice."""
    voters, outgoing = state.config.voters, state.config.voters_outgoing
    needed = _majority_beside(state.replica, voters)
    needed_outgoing = _majority_beside(state.replica, outgoing)
    chosen = []
    fit = [peer for peer in _voting_peers(state) if _is_fit(state, peer)]
    for peer in sorted(fit, key=lambda peer: _rank(state, peer)):
        counts, counts_outgoing = peer.replica in voters, peer.replica in outgoing
        if (counts and needed > 0) or (counts_outgoing and needed_outgoing > 0):
            chosen.append(peer)
            needed -= counts
            needed_outgoing -= counts_outgoing
    if needed > 0 or needed_outgoing > 0:
        return tuple(_voting_peers(state))
    return tuple(chosen)


def _majority_beside(own: ReplicaId, voters: tuple[ReplicaId, ...]) -> int:
    """How many of ``voters`` it takes beside ``own``; none of an empty half."""
    return len(voters) // 2 + (own not in voters) if voters else 0


def _is_fit(state: RaftState, peer: Progress) -> bool:
    """Whether an answer of ``peer`` is to be expected soon."""
    was_heard = peer.recently_active or peer.active_before
    return was_heard and not peer.is_silent and peer.replica not in state.gone


def _rank(state: RaftState, peer: Progress) -> tuple[bool, bool, int, bool, ReplicaId]:
    """The least is the best: it has the log, counts twice, answers soonest, comes next after us.

    Only to be twice as slow makes a difference, so that the choice does not sway. By the last
    two the leaders of many groups ask different nodes, and one leader of many groups the same.
    """
    return (
        peer.state is not ProgressState.REPLICATE,
        bool(state.config.voters_outgoing) and not keeps_vote(state.config, peer.replica),
        int(peer.answer_s / _ANSWER_S_UNIT).bit_length(),
        peer.replica < state.replica,
        peer.replica,
    )


# -- answers --------------------------------------------------------------------------------------


def answered(state: RaftState, peer: Progress, number: int) -> None:
    """``peer`` has seen the round ``number`` of ours, and so every earlier one is answered too."""
    peer.is_silent = False
    if number <= peer.read_round:
        return
    peer.read_round = number
    lead = leading(state)
    if number == lead.beat_round:
        took_s = state.now - lead.beat_sent_at
        peer.answer_s += (took_s - peer.answer_s) * (_SMOOTHING if peer.answer_s else 1.0)


def confirm_reads(state: RaftState) -> None:
    """Release the reads whose round a quorum has answered."""
    lead = leading(state)
    if not lead.reads.is_confirming:
        return
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
