"""Replication: what is appended, acknowledged, committed and applied."""

from __future__ import annotations

from mutants.catalogue.model import mutant

REPLICATION = (
    mutant(
        "counts-an-old-terms-entry",
        "only entries of the own term are committed by counting (Raft §5.4.2)",
        (
            "raft/commit.py",
            "index <= state.commit_index or state.log.term_at(index) != state.term",
            "index <= state.commit_index",
        ),
    ),
    mutant(
        "leader-counts-itself-too-early",
        "a leader counts itself once its own write is durable (thesis §10.2.1)",
        (
            "raft/commit.py",
            "quorum_index(state.log.durable_index)",
            "quorum_index(state.log.last_index)",
        ),
    ),
    mutant(
        "acknowledges-before-the-disk",
        "a follower answers an append once it is durable (Raft §5.3)",
        (
            "raft/follower.py",
            "    state.out.messages_when_durable.append(\n        AppendResponse(",
            "    state.out.messages.append(\n        AppendResponse(",
        ),
    ),
    mutant(
        "appends-without-looking-back",
        "an append must match the entry before it (Raft §5.3)",
        (
            "raft/follower.py",
            "if log.term_at(request.prev_index) != request.prev_term:",
            "if log.term_at(request.prev_index) is None:",
        ),
    ),
    mutant(
        "truncates-what-matches",
        "only a conflict truncates: appends may be old (Raft §5.3)",
        (
            "raft/log.py",
            "if self.term_at(entry.index) != entry.term:\n                if",
            "if True:\n                if",
        ),
    ),
    mutant(
        "commits-beyond-what-was-sent",
        "a follower commits no further than the append reaches (Raft figure 2)",
        ("raft/follower.py", "min(request.commit_index, last_new)", "request.commit_index"),
    ),
    mutant(
        "heartbeat-commits-too-much",
        "a heartbeat's commit index never exceeds what its receiver acknowledged",
        (
            "raft/read_rounds.py",
            "commit_index = min(state.commit_index, peer.match_index)",
            "commit_index = state.commit_index",
        ),
    ),
    mutant(
        "counts-overtaken-writes",
        "a write that was truncated meanwhile is not durable when it ends",
        (
            "raft/log.py",
            "write.valid_to = min(write.valid_to, LogIndex(first - 1))",
            "write.valid_to = write.last_index",
        ),
    ),
    mutant(
        "applies-what-is-not-committed",
        "only committed entries are applied (Raft §5.3)",
        (
            "raft/handover.py",
            "last = min(state.commit_index, state.log.durable_index)",
            "last = state.log.durable_index",
        ),
    ),
    mutant(
        "takes-a-hint-for-an-answer",
        "a rejection's hint is where to look next and proves nothing (Raft §5.3)",
        (
            "raft/progress.py",
            "        self.next_index = LogIndex(max(lower, self.match_index + 1))\n",
            "        self.match_index = max(self.match_index, LogIndex(lower - 1))\n"
            "        self.next_index = LogIndex(self.match_index + 1)\n",
        ),
    ),
    mutant(
        "acknowledges-its-whole-log",
        "a follower acknowledges no further than the append reached (Raft §5.3)",
        (
            "raft/follower.py",
            "_respond(state, request, match_index=last_new)",
            "_respond(state, request, match_index=log.last_index)",
        ),
    ),
    mutant(
        "acknowledges-behind-an-old-append",
        "of an append about compacted entries only what is committed matches",
        (
            "raft/follower.py",
            "_respond(state, request, match_index=state.commit_index)",
            "_respond(state, request, match_index=log.last_index)",
        ),
    ),
    mutant(
        "counts-an-old-terms-answer",
        "an answer of an earlier term is dropped (Raft §5.1)",
        (
            "raft/dispatch.py",
            "    if message.term < state.term:\n        _answer_past_term",
            "    if message.term < state.term and not isinstance(message, AppendResponse):\n"
            "        _answer_past_term",
        ),
    ),
    mutant(
        "applies-before-its-own-disk",
        "no replica applies an entry before it is in its own log (DESIGN section 4)",
        (
            "raft/handover.py",
            "last = min(state.commit_index, state.log.durable_index)",
            "last = state.commit_index",
        ),
    ),
    mutant(
        "compacts-what-is-not-applied",
        "only applied entries are dropped from the log (Raft §7)",
        (
            "raft/compaction.py",
            "log.compactable(state.applied_index,",
            "log.compactable(log.durable_index,",
        ),
    ),
    mutant(
        "never-asks-again-after-a-lost-probe",
        "a probe is repeated once the peer is heard again",
        (
            "raft/leader.py",
            "    peer.probe_sent = False\n    snapshots.check_progress",
            "    snapshots.check_progress",
        ),
    ),
    mutant(
        "never-notices-a-lost-append",
        "an append that was lost is noticed though no other follows",
        (
            "raft/replication.py",
            "    return stalled\n",
            "    return False\n",
        ),
    ),
)
