"""What one replica must keep to when it votes, stands and leads (Raft §5.2, §5.4.1; thesis §6.2,
§9.6), judged from the messages that reach it and not from what its core remembers of them.

* A vote, and a pre-vote, goes only to a candidate whose log has all that the voter's has.
* Whoever hears its leader says no to others, unless the leader itself wants to hand over.
* Nobody begins a term without a quorum of pre-votes for it, or being told to by the leader,
  and nobody who has no vote itself.
* A leader that hears nothing from a quorum does not lead for long, nor does one whose removal
  is committed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, ReplicaId, Term
from kvstore.raft.confchange import is_voter
from kvstore.raft.messages import (
    AppendRequest,
    Heartbeat,
    SnapshotChunk,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Container

    from kvstore.raft.messages import GroupConfig, Message
    from kvstore.raft.state import RaftState

TIMEOUT_SHARE = 0.99
"""Of the minimum election timeout, within which a leader was surely heard."""

SILENCE_TIMEOUTS_MAX = 3.0
"""A leader looks once a timeout whether it hears a quorum: it may find out late, not later."""
SILENCE_SLACK_S = 0.5


@dataclass
class LeaseGiven:
    """When a replica last heard a leader, in whatever life and term: with lease reads on, that
    leader may read alone for a minimum election timeout (thesis §6.4.1).
    """

    at: float = float("-inf")


class ElectionRules:
    """Of one replica in one life of its process."""

    def __init__(
        self, name: str, state: RaftState, lease: LeaseGiven, *, time_scale: float
    ) -> None:
        self._name = name
        self._state = state
        self._lease = lease
        self._slack_s = SILENCE_SLACK_S * time_scale
        self._pre_votes: defaultdict[Term, set[ReplicaId]] = defaultdict(set)
        self._told_to_stand: Term | None = None
        self._heard_leader: tuple[Term, float] = (Term(0), float("-inf"))
        self._heard: dict[ReplicaId, float] = {}
        self._awake_since = self._seen_at = float("-inf")
        self._judged = state.term, state.vote
        self._leads_as: tuple[Term, GroupConfig] | None = None
        self._leads_so_since = 0.0

    # -- messages -----------------------------------------------------------------------------

    def before(self, message: Message, now: float) -> bool:
        """A message comes in; whether it must be answered with a no."""
        if message.receiver != self._state.replica:
            return False  # For an earlier life of this node: it is dropped.
        match message:
            case VoteResponse(granted=True, pre_vote=True):
                self._pre_votes[message.term].add(message.sender)
            case TimeoutNow():
                self._told_to_stand = message.term
            case VoteRequest():
                return self._protects(message, now) or self._has_more_than(message)
            case _:
                pass
        return False

    def after(self, message: Message, now: float, was: tuple[Term, ReplicaId], no: bool) -> None:
        """It was dealt with.

        Raises:
            Violation: it was not answered with the no that it had to be.
        """
        state = self._state
        if message.receiver != state.replica:
            return
        if message.term == state.term:
            self._heard[message.sender] = now
            if isinstance(message, AppendRequest | Heartbeat | SnapshotChunk):
                self._heard_leader = state.term, now
                self._lease.at = now
        if isinstance(message, VoteRequest) and no:
            answers = state.out.messages_when_durable[-1:]
            is_granted = any(
                isinstance(a, VoteResponse) and a.granted and a.receiver == message.sender
                for a in answers
            )
            if is_granted or (state.vote == message.sender and (state.term, state.vote) != was):
                raise Violation(
                    f"{self._name} says yes to {message}, with a log up to "
                    f"{(state.log.last_term, state.log.last_index)}, leader {state.leader}"
                )

    def _has_more_than(self, request: VoteRequest) -> bool:
        log = self._state.log
        return (request.last_term, request.last_index) < (log.last_term, log.last_index)

    def _protects(self, request: VoteRequest, now: float) -> bool:
        state = self._state
        if request.by_transfer:
            return False
        if request.term == state.term and request.sender in (state.vote, state.leader):
            return False  # It comes late, or twice: a yes changes nothing any more.
        earliest = max(now, state.now) - TIMEOUT_SHARE * state.options.election_timeout_s_min
        if state.options.lease_reads:
            return self._lease.at > earliest
        if state.role is not Role.FOLLOWER or state.leader in (NO_REPLICA, *state.gone):
            return False
        term, heard_at = self._heard_leader
        return term == state.term and heard_at > earliest

    # -- at the end of an iteration -----------------------------------------------------------

    def judge(self, now: float) -> None:
        """Look at what the replica is now.

        Raises:
            Violation: it stands or leads and must not.
        """
        state = self._state
        if now - self._seen_at > state.options.election_timeout_s_min / 2:
            self._awake_since = now  # It stood still, and may hear again whom it did not.
        self._seen_at = now
        if (state.term, state.vote) != self._judged:
            self._judged = state.term, state.vote
            if state.vote == state.replica:
                self._stood(state)
        if state.role is Role.LEADER:
            self._leads(state, now)

    def _stood(self, state: RaftState) -> None:
        pre_votes = self._pre_votes[state.term] | {state.replica}
        was_told = self._told_to_stand == state.term - 1
        if not was_told and not is_quorum(state.config, pre_votes):
            raise Violation(
                f"{self._name} begins term {state.term} with pre-votes of {sorted(pre_votes)} only"
            )
        committed = state.log.config_at(state.commit_index)
        if not is_voter(state.config, state.replica) and not is_voter(committed, state.replica):
            raise Violation(f"{self._name} begins term {state.term} without a vote of its own")

    def _leads(self, state: RaftState, now: float) -> None:
        is_removed = not is_voter(state.config, state.replica)
        if is_removed and state.log.config_index <= state.commit_index:
            raise Violation(f"{self._name} leads although its removal is committed")
        if self._leads_as != (state.term, state.config):
            self._leads_as = state.term, state.config
            self._leads_so_since = now
        bound_s = SILENCE_TIMEOUTS_MAX * state.options.election_timeout_s_min + self._slack_s
        earliest = now - bound_s
        if max(self._leads_so_since, self._awake_since) > earliest:
            return
        heard = {replica for replica, at in self._heard.items() if at >= earliest}
        if not is_quorum(state.config, heard | {state.replica}):
            raise Violation(
                f"{self._name} leads in term {state.term} and has heard no quorum for {bound_s} s"
            )


def is_quorum(config: GroupConfig, replicas: Container[ReplicaId]) -> bool:
    halves = [half for half in (config.voters, config.voters_outgoing) if half]
    return all(2 * sum(r in replicas for r in half) > len(half) for half in halves)
