"""Elections: standing, voting, winning (Raft §5.2, §5.4.1; thesis §3.10, §9.6).

Two additions keep a working leader in place. **PreVote**: nobody raises its term before a
quorum says that it would vote for it. **Stickiness** (the voters' half of CheckQuorum): a
voter that heard from its leader within the minimum election timeout says no, so a replica
that is cut off from the leader alone, or was removed, cannot disturb the rest.

The **fast path**: when a leader's process dies, the kernel closes its connections and refuses
new ones. A voter that saw both need not wait for a timeout; it stands after a short delay,
and says yes to others who do. One that still hears the leader says no as ever, so a loss
that only some see is harmless. With lease reads on, the fast path waits for the lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, ReplicaId, Term
from kvstore.raft import replication
from kvstore.raft.messages import VoteRequest, VoteResponse
from kvstore.raft.quorum import VoteResult, quorum_vote
from kvstore.raft.ready import Role

if TYPE_CHECKING:
    from kvstore.raft.state import RaftState


def stand(state: RaftState) -> None:
    """The timer ran out: ask for pre-votes, if we may stand at all."""
    if not state.is_promotable:
        state.reset_election_timer()
        return
    if state.options.lease_reads and _heard_recently(state):
        # Our own vote is bound by the lease as any other; asked to stand early, we wait.
        _respect_lease(state)
        return
    state.become_pre_candidate()
    wait_briefly_if_leader_is_gone(state)
    _ask_for_votes(state, pre_vote=True, by_transfer=False)


def stand_for_term(state: RaftState, *, by_transfer: bool) -> None:
    """Begin a real election: after a won pre-vote, or because the leader asked us to."""
    state.become_candidate()
    wait_briefly_if_leader_is_gone(state)
    _ask_for_votes(state, pre_vote=False, by_transfer=by_transfer)


def _ask_for_votes(state: RaftState, *, pre_vote: bool, by_transfer: bool) -> None:
    """Requests to all other voters, and our own vote.

    A real vote must be durable before it counts or is asked for, our own included: it comes
    back to us as a message that the driver delivers once the write is done.
    """
    term = Term(state.term + 1) if pre_vote else state.term
    own = VoteResponse(state.replica, state.replica, term, granted=True, pre_vote=pre_vote)
    requests = [
        VoteRequest(
            sender=state.replica,
            receiver=peer,
            term=term,
            last_index=state.log.last_index,
            last_term=state.log.last_term,
            pre_vote=pre_vote,
            by_transfer=by_transfer,
        )
        for peer in sorted({*state.config.voters, *state.config.voters_outgoing})
        if peer != state.replica
    ]
    if pre_vote:
        state.out.messages += requests
        count_vote(state, own)
    else:
        state.out.messages_when_durable += [*requests, own]


def count_vote(state: RaftState, response: VoteResponse) -> None:
    """Take a vote of the current (pre-)election and act once it is decided."""
    state.votes.setdefault(response.sender, response.granted)
    result = quorum_vote(state.config, state.votes)
    if result is VoteResult.PENDING:
        return
    if result is VoteResult.LOST:
        state.become_follower(state.term, state.leader)
        wait_briefly_if_leader_is_gone(state)
    elif state.role is Role.PRE_CANDIDATE:
        stand_for_term(state, by_transfer=False)
    else:
        state.become_leader()
        replication.begin_term(state)


def answer_request(state: RaftState, request: VoteRequest) -> None:
    """Grant or refuse a (pre-)vote. The term of a real request is ours by now, or lower."""
    granted = _may_grant(state, request)
    if granted and not request.pre_vote:
        state.vote = request.sender
        state.reset_election_timer()
    state.out.messages_when_durable.append(
        VoteResponse(
            sender=state.replica,
            receiver=request.sender,
            term=request.term if granted else state.term,
            granted=granted,
            pre_vote=request.pre_vote,
        )
    )


def _may_grant(state: RaftState, request: VoteRequest) -> bool:
    if not state.log.is_up_to_date(request.last_index, request.last_term):
        return False
    if request.pre_vote:
        return request.term > state.term
    if _is_bound_by_lease(state, request):
        return False  # Somebody else than the candidate brought us into its term.
    if request.term != state.term:
        return False
    # Once the term has a leader no other candidate of it can win: nothing to promise (as in etcd).
    is_open = state.vote == NO_REPLICA and state.leader == NO_REPLICA
    return is_open or state.vote == request.sender


def refuse(state: RaftState, request: VoteRequest) -> None:
    """Say no without taking over the request's term."""
    state.out.messages_when_durable.append(
        VoteResponse(
            sender=state.replica,
            receiver=request.sender,
            term=state.term,
            granted=False,
            pre_vote=request.pre_vote,
        )
    )


def protects_leader(state: RaftState, request: VoteRequest) -> bool:
    """Stickiness: whether this voter knows a working leader and ignores the request."""
    if request.by_transfer:
        return False
    if state.role is Role.LEADER:
        return True
    if state.options.lease_reads:
        return _is_bound_by_lease(state, request)
    if state.leader == NO_REPLICA:
        return False
    return _heard_recently(state) and state.leader not in state.gone


def _is_bound_by_lease(state: RaftState, request: VoteRequest) -> bool:
    """Whether the leader that we heard last may read alone for a while yet (thesis §6.4.1)."""
    return state.options.lease_reads and not request.by_transfer and _heard_recently(state)


def _heard_recently(state: RaftState) -> bool:
    return state.now - state.heard_from_leader_at < state.options.election_timeout_s_min


def peer_gone(state: RaftState, peer: ReplicaId) -> None:
    """The fast path: ``peer``'s process is dead."""
    state.gone[peer] = state.now
    if peer == state.leader and state.role is not Role.LEADER and state.is_promotable:
        state.election_at = min(state.election_at, state.now + _turn_delay(state))
        _respect_lease(state)


def wait_briefly_if_leader_is_gone(state: RaftState) -> None:
    """A try after a death is repeated soon: others learn of it only now, or stood as well."""
    no_leader = state.leader == NO_REPLICA
    if state.leader in state.gone or (no_leader and any(p in state.gone for p in state.peers)):
        state.election_at = state.now + _short_delay(state)
        _respect_lease(state)


def _respect_lease(state: RaftState) -> None:
    if state.options.lease_reads:
        lease_end = state.heard_from_leader_at + state.options.election_timeout_s_min
        state.election_at = max(state.election_at, lease_end)


def _turn_delay(state: RaftState) -> float:
    """Survivors take turns, so that they seldom split the vote.

    The turn comes from the position among the voters, rotated by the term so that the groups
    of one node do not all fall to the same survivor.
    """
    alive = [voter for voter in state.config.voters if voter not in state.gone]
    if state.replica not in alive:
        return _short_delay(state)
    turn = (alive.index(state.replica) + state.term) % len(alive)
    return state.options.fast_election_delay_s_max * (turn + state.rng.random()) / 2


def _short_delay(state: RaftState) -> float:
    """Two to six of the fast path's delays: time for an answer and a write, then again."""
    return state.options.fast_election_delay_s_max * (2.0 + 4.0 * state.rng.random())
