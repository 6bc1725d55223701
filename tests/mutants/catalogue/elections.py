"""Elections: votes, pre-votes, and what keeps a working leader in place."""

from __future__ import annotations

from mutants.catalogue.model import mutant

ELECTION = (
    mutant(
        "votes-twice",
        "one vote a term (Raft §5.2)",
        (
            "raft/election.py",
            "is_open = state.vote == NO_REPLICA and state.leader == NO_REPLICA",
            "is_open = True",
        ),
    ),
    mutant(
        "votes-for-a-shorter-log",
        "a candidate must have all that a voter has (Raft §5.4.1)",
        (
            "raft/log.py",
            "return (last_term, last_index) >= (self.last_term, self.last_index)",
            "return True",
        ),
    ),
    mutant(
        "compares-logs-by-length-alone",
        "the last term decides before the index (Raft §5.4.1)",
        (
            "raft/log.py",
            "return (last_term, last_index) >= (self.last_term, self.last_index)",
            "return last_index >= self.last_index",
        ),
    ),
    mutant(
        "half-is-a-majority",
        "two majorities share a member (Raft §5.2)",
        ("raft/quorum.py", "needed = len(voters) // 2 + 1", "needed = (len(voters) + 1) // 2"),
    ),
    mutant(
        "forgets-its-hard-state",
        "term and vote are durable before a message leaves (Raft figure 2)",
        (
            "server/raft_driver.py",
            "if ready.hard_state is not None:\n            batch",
            "if False:\n            batch",
        ),
    ),
    mutant(
        "votes-before-the-disk",
        "what depends on a hard state waits for it (Raft figure 2)",
        ("raft/handover.py", "messages, when_durable = [], messages + when_durable", "pass"),
        (
            "raft/election.py",
            "state.out.messages_when_durable += [*requests, own]",
            "state.out.messages += requests\n        state.out.messages_when_durable.append(own)",
        ),
        (
            "raft/election.py",
            "        state.reset_election_timer()\n    state.out.messages_when_durable.append(",
            "        state.reset_election_timer()\n    state.out.messages.append(",
        ),
    ),
    mutant(
        "breaks-the-lease-by-voting",
        "with lease reads a voter keeps its leader for the timeout (thesis §6.4.1)",
        (
            "raft/election.py",
            "return state.options.lease_reads and not request.by_transfer and",
            "return False and",
        ),
    ),
    mutant(
        "keeps-the-lease-while-handing-over",
        "a transfer ends the lease: its target may be elected at once (thesis §6.4.1)",
        ("raft/replication.py", "lead.lease_revoked = True", "lead.lease_revoked = False"),
    ),
    mutant(
        "stands-without-asking-first",
        "nobody raises its term before a quorum would vote for it (thesis §9.6)",
        (
            "raft/election.py",
            "    state.become_pre_candidate()\n"
            "    wait_briefly_if_leader_is_gone(state)\n"
            "    _ask_for_votes(state, pre_vote=True, by_transfer=False)",
            "    stand_for_term(state, by_transfer=False)",
        ),
    ),
    mutant(
        "grants-every-pre-vote",
        "a pre-vote is granted only to whom a vote would be (thesis §9.6)",
        (
            "raft/election.py",
            "    if not state.log.is_up_to_date(request.last_index, request.last_term):\n"
            "        return False\n"
            "    if request.pre_vote:\n"
            "        return request.term > state.term\n",
            "    if request.pre_vote:\n"
            "        return request.term > state.term\n"
            "    if not state.log.is_up_to_date(request.last_index, request.last_term):\n"
            "        return False\n",
        ),
    ),
    mutant(
        "counts-pre-votes-as-votes",
        "a pre-vote is a promise of nothing (thesis §9.6)",
        (
            "raft/candidate.py",
            "    if response.pre_vote:\n",
            "    if response.pre_vote and state.role is Role.PRE_CANDIDATE:\n",
        ),
    ),
    mutant(
        "votes-against-a-working-leader",
        "a voter that hears its leader says no to others (thesis §4.2.3)",
        (
            "raft/election.py",
            "return _heard_recently(state) and state.leader not in state.gone",
            "return False",
        ),
    ),
    mutant(
        "leads-without-a-quorum",
        "a leader that hears no quorum steps down (CheckQuorum, thesis §6.2)",
        (
            "raft/leader.py",
            "        if not lead.tracker.take_quorum_active():\n"
            "            state.become_follower(state.term, NO_REPLICA)\n"
            "            return True\n",
            "        lead.tracker.take_quorum_active()\n",
        ),
    ),
    mutant(
        "forgets-its-promise-at-restart",
        "a voter that was restarted may have promised its leader a timeout",
        (
            "raft/state.py",
            'now if options.lease_reads else float("-inf")',
            'float("-inf")',
        ),
    ),
    mutant(
        "never-gives-up-a-transfer",
        "a transfer that leads nowhere ends after a timeout (thesis §3.10)",
        (
            "raft/leader.py",
            "if lead.transferring_to != NO_REPLICA and state.now >= lead.transfer_deadline:",
            "if False:",
        ),
    ),
    mutant(
        "begins-a-term-without-an-entry",
        "a new leader appends a no-op, which commits what is before it (Raft §8)",
        (
            "raft/replication.py",
            '    append(state, EntryKind.NOOP, b"")\n',
            "",
        ),
    ),
    mutant(
        "forgets-its-vote-at-restart",
        "a vote outlives the process that gave it (Raft figure 2)",
        (
            "server/recovery.py",
            "HardState(Term(recovered.term), ReplicaId(recovered.vote))",
            "HardState(Term(recovered.term), NO_REPLICA)",
        ),
    ),
)
