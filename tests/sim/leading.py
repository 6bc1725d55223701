"""What a leader may count and promise, what a follower may say to it, and what a configuration
must be (Raft §5.3, §6; thesis §6.4.1), looked at as each message is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.raft import replication
from kvstore.raft.messages import AppendRequest, AppendResponse, EntryKind
from sim.elections import SILENCE_SLACK_S, is_quorum
from sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.ids import GroupId
    from kvstore.raft.messages import Message
    from kvstore.raft.state import RaftState, Receiving
    from sim.node import SimNode

TRANSFER_TIMEOUTS_MAX = 2.0
"""A transfer ends after one minimum election timeout, noticed by the next tick."""


def match_of(state: RaftState, message: Message) -> LogIndex | None:
    """What the leader knows to match at the sender of an answer to an append."""
    if state.leading is None or not isinstance(message, AppendResponse):
        return None
    peer = state.leading.tracker.peers.get(message.sender)
    return None if peer is None else peer.match_index


def check_answer(who: str, state: RaftState, message: Message, known: LogIndex | None) -> None:
    """An answer of an earlier term says nothing in this one.

    Raises:
        Violation: it was counted.
    """
    if known is None or message.term >= state.term:
        return
    if match_of(state, message) not in (None, known):
        raise Violation(f"{who}, leader of term {state.term}, counts {message}")


def check_acknowledgement(who: str, state: RaftState, message: Message) -> None:
    """A follower says yes to what an append reaches, or to what is committed, and no further.

    Raises:
        Violation: its answer goes beyond that.
    """
    if not isinstance(message, AppendRequest) or message.term != state.term:
        return
    if message.receiver != state.replica:
        return  # It is for an earlier life of the node, and was dropped.
    surely = max(message.prev_index + len(message.entries), state.commit_index)
    for answer in state.out.messages_when_durable[-1:]:
        if isinstance(answer, AppendResponse) and answer.match_index > surely:
            raise Violation(f"{who} answers {answer} to an append that reaches {surely}")


def check_chunk(who: str, state: RaftState, message: Message, was: Receiving | None) -> None:
    """What is being put in force stays that, and nothing older than the log is taken (Raft §7).

    Args:
        who: Its node.
        state: Of a follower that has just taken ``message``.
        message: Maybe a piece of a snapshot.
        was: What it was receiving before.

    Raises:
        Violation: it takes another snapshot, or one of what it has.
    """
    if was is not None and was.is_complete and state.receiving is not was:
        raise Violation(f"{who} takes {message} while it puts a snapshot in force")
    for write in state.out.snapshot_writes[-1:]:
        if write.meta.index <= state.commit_index:
            raise Violation(f"{who} stores a snapshot at {write.meta.index} that it is beyond")


def check_config(who: str, state: RaftState) -> None:
    """The configuration in force is one that stands in the log, and falls away with its entry.

    Raises:
        Violation: it does not.
    """
    log = state.log
    index = log.config_index
    if index <= log.base_index:
        return
    if index > log.last_index or log.between(index, index)[0].kind is not EntryKind.CONFIG:
        raise Violation(f"{who} keeps the configuration of {index}, which is not in its log")


def check_proposal(who: str, state: RaftState, pending: LogIndex) -> None:
    """One change at a time, and none before an entry of the term is committed (Ongaro 2015).

    Args:
        who: Its node.
        state: Of a leader that has just taken a change.
        pending: Where its configuration stood before that.

    Raises:
        Violation: it had to refuse.
    """
    if pending > state.commit_index:
        raise Violation(f"{who} changes members while the change at {pending} is not committed")
    if state.log.term_at(state.commit_index) != state.term:
        raise Violation(f"{who} changes members before it has committed in term {state.term}")


def check_leases_over(elected: SimNode, group: GroupId, term: Term) -> None:
    """Whoever led before would not answer a read by its lease any more, asked now.

    Args:
        elected: Has just been elected, for ``term``.
        group: Its group.
        term: The new one.

    Raises:
        Violation: another still holds a lease.
    """
    for node in elected.network.nodes.values():
        if node is elected or not node.is_up or node.world.now < node.paused_until:
            continue
        host = node.driver.hosts.get(group)
        state = None if host is None else host.core._state
        if state is None or state.leading is None or state.term >= term:
            continue
        known, state.now = state.now, max(state.now, node.clock())
        has_lease = replication.has_lease(state)
        state.now = known
        if has_lease:
            raise Violation(
                f"{node.id} still holds a lease on group {group} of term {state.term}, "
                f"when {elected.id} leads term {term}"
            )


class LeaderRules:
    """What only shows over time: transfers end, and a lease rests on promises that hold."""

    def __init__(self, who: str, state: RaftState, *, time_scale: float) -> None:
        self._who = who
        self._state = state
        self._slack_s = SILENCE_SLACK_S * time_scale
        self._handing_over: tuple[Term, ReplicaId, float] | None = None
        self._since = self._seen_at = float("-inf")

    def judge(self, now: float, holds_promise: Callable[[ReplicaId], bool]) -> None:
        """Look at the leader at the end of an iteration.

        Args:
            now: By its steady clock.
            holds_promise: Whether a replica still keeps to the leader that it heard last.

        Raises:
            Violation: it goes on with what it should have given up.
        """
        state, lead = self._state, self._state.leading
        if lead is None:
            return
        self._transfers(now)
        if not state.options.lease_reads:
            return
        known, state.now = state.now, max(state.now, now)
        has_lease = replication.has_lease(state)
        state.now = known
        voters = {*state.config.voters, *state.config.voters_outgoing}
        bound = {v for v in voters if v == state.replica or holds_promise(v)}
        if has_lease and not is_quorum(state.config, bound):
            raise Violation(f"{self._who} has a lease that only {sorted(bound)} are bound by")

    def _transfers(self, now: float) -> None:
        state, lead = self._state, self._state.leading
        assert lead is not None
        timeout_s = state.options.election_timeout_s_min
        handing_over = state.term, lead.transferring_to, lead.transfer_deadline
        is_new = handing_over != self._handing_over
        if is_new or now - self._seen_at > timeout_s / 2 or lead.transferring_to == NO_REPLICA:
            self._handing_over, self._since = handing_over, now
        self._seen_at = now
        if now - self._since > TRANSFER_TIMEOUTS_MAX * timeout_s + self._slack_s:
            raise Violation(f"{self._who} never ends its transfer to {lead.transferring_to}")
