"""The rules of consensus, log, sessions and snapshots, each broken in turn.

A mutant replaces text that stands in a file exactly once, so that it fails to apply, rather
than to bite, when the code has changed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces ``before`` in ``file`` (under ``kvstore/``) by ``after``."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """``rule`` is the one that is broken, with where it comes from."""

    name: str
    rule: str
    edits: tuple[Edit, ...]


def _mutant(name: str, rule: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, rule, tuple(Edit(*edit) for edit in edits))


ELECTION = (
    _mutant(
        "votes-twice",
        "one vote a term (Raft §5.2)",
        (
            "raft/election.py",
            "request.term == state.term and state.vote in (NO_REPLICA, request.sender)",
            "request.term == state.term",
        ),
    ),
    _mutant(
        "votes-for-a-shorter-log",
        "a candidate must have all that a voter has (Raft §5.4.1)",
        (
            "raft/log.py",
            "return (last_term, last_index) >= (self.last_term, self.last_index)",
            "return True",
        ),
    ),
    _mutant(
        "compares-logs-by-length-alone",
        "the last term decides before the index (Raft §5.4.1)",
        (
            "raft/log.py",
            "return (last_term, last_index) >= (self.last_term, self.last_index)",
            "return last_index >= self.last_index",
        ),
    ),
    _mutant(
        "half-is-a-majority",
        "two majorities share a member (Raft §5.2)",
        ("raft/quorum.py", "needed = len(voters) // 2 + 1", "needed = (len(voters) + 1) // 2"),
    ),
    _mutant(
        "forgets-its-hard-state",
        "term and vote are durable before a message leaves (Raft figure 2)",
        (
            "server/raft_driver.py",
            "if ready.hard_state is not None:\n            batch",
            "if False:\n            batch",
        ),
    ),
    _mutant(
        "votes-before-the-disk",
        "what depends on a hard state waits for it (Raft figure 2)",
        ("raft/core.py", "messages, when_durable = [], messages + when_durable", "pass"),
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
    _mutant(
        "breaks-the-lease-by-voting",
        "with lease reads a voter keeps its leader for the timeout (thesis §6.4.1)",
        (
            "raft/election.py",
            "    if state.options.lease_reads:\n        return _heard_recently(state)\n",
            "    if state.options.lease_reads:\n        return False\n",
        ),
    ),
    _mutant(
        "keeps-the-lease-while-handing-over",
        "a transfer ends the lease: its target may be elected at once (thesis §6.4.1)",
        ("raft/replication.py", "lead.lease_revoked = True", "lead.lease_revoked = False"),
    ),
)

REPLICATION = (
    _mutant(
        "counts-an-old-terms-entry",
        "only entries of the own term are committed by counting (Raft §5.4.2)",
        (
            "raft/commit.py",
            "index <= state.commit_index or state.log.term_at(index) != state.term",
            "index <= state.commit_index",
        ),
    ),
    _mutant(
        "leader-counts-itself-too-early",
        "a leader counts itself once its own write is durable (thesis §10.2.1)",
        (
            "raft/commit.py",
            "quorum_index(state.log.durable_index)",
            "quorum_index(state.log.last_index)",
        ),
    ),
    _mutant(
        "acknowledges-before-the-disk",
        "a follower answers an append once it is durable (Raft §5.3)",
        (
            "raft/follower.py",
            "    state.out.messages_when_durable.append(\n        AppendResponse(",
            "    state.out.messages.append(\n        AppendResponse(",
        ),
    ),
    _mutant(
        "appends-without-looking-back",
        "an append must match the entry before it (Raft §5.3)",
        (
            "raft/follower.py",
            "if log.term_at(request.prev_index) != request.prev_term:",
            "if log.term_at(request.prev_index) is None:",
        ),
    ),
    _mutant(
        "truncates-what-matches",
        "only a conflict truncates: appends may be old (Raft §5.3)",
        (
            "raft/log.py",
            "if self.term_at(entry.index) != entry.term:\n                if",
            "if True:\n                if",
        ),
    ),
    _mutant(
        "commits-beyond-what-was-sent",
        "a follower commits no further than the append reaches (Raft figure 2)",
        ("raft/follower.py", "min(request.commit_index, last_new)", "request.commit_index"),
    ),
    _mutant(
        "heartbeat-commits-too-much",
        "a heartbeat's commit index never exceeds what its receiver acknowledged",
        (
            "raft/replication.py",
            "commit_index=min(state.commit_index, peer.match_index)",
            "commit_index=state.commit_index",
        ),
    ),
    _mutant(
        "believes-an-old-hint",
        "the conflict hint never leads below what is known to match (Raft §5.3)",
        (
            "raft/progress.py",
            "self.next_index = LogIndex(max(lower, self.match_index + 1))",
            "self.next_index = LogIndex(lower + 2)",
        ),
    ),
    _mutant(
        "counts-overtaken-writes",
        "a write that was truncated meanwhile is not durable when it ends",
        (
            "raft/log.py",
            "write.valid_to = min(write.valid_to, LogIndex(first - 1))",
            "write.valid_to = write.last_index",
        ),
    ),
    _mutant(
        "applies-what-is-not-committed",
        "only committed entries are applied (Raft §5.3)",
        (
            "raft/core.py",
            "last = min(state.commit_index, state.log.durable_index)",
            "last = state.log.durable_index",
        ),
    ),
)

READS = (
    _mutant(
        "reads-before-the-terms-first-commit",
        "a leader reads once an entry of its term is committed (Raft §8)",
        (
            "raft/state.py",
            "self.leading is not None and self.commit_index >= self.leading.first_index",
            "self.leading is not None",
        ),
    ),
    _mutant(
        "reads-without-a-quorum",
        "a read is confirmed by a quorum's answers (thesis §6.4)",
        (
            "raft/replication.py",
            "number = lead.tracker.quorum_read_round(lead.read_round)",
            "number = lead.read_round",
        ),
    ),
    _mutant(
        "reads-before-it-applied",
        "a read waits until the state has reached its index (thesis §6.4)",
        (
            "server/shard_host.py",
            "confirming.index is not None and confirming.index <= applied",
            "confirming.index is not None",
        ),
    ),
)

MEMBERSHIP = (
    _mutant(
        "changes-everything-at-once",
        "more than one voter changes through a joint configuration (Raft §6)",
        (
            "raft/confchange.py",
            "if len(set(new_voters) ^ set(current.voters)) <= 1:",
            "if True:",
        ),
    ),
    _mutant(
        "joint-needs-one-majority",
        "a joint configuration needs both majorities (Raft §6)",
        (
            "raft/quorum.py",
            "    if config.voters_outgoing:\n        reached = min",
            "    if False:\n        reached = min",
        ),
        (
            "raft/quorum.py",
            "if not config.voters_outgoing or result is VoteResult.LOST:",
            "if True:",
        ),
    ),
    _mutant(
        "follows-a-configuration-at-commit",
        "a configuration is in force from the moment it is appended (Raft §6)",
        (
            "raft/state.py",
            "return self.log.config\n",
            "return self.log.config_at(self.commit_index)\n",
        ),
        (
            "raft/membership.py",
            "    leading(state).tracker.adopt(\n        config, index,",
            "    leading(state).tracker.adopt(\n        state.config, index,",
        ),
    ),
    _mutant(
        "changes-before-the-terms-first-commit",
        "no change before an entry of the term is committed (Ongaro 2015)",
        (
            "raft/membership.py",
            "state.log.config_index > state.commit_index or not state.has_committed_in_term",
            "state.log.config_index > state.commit_index",
        ),
    ),
    _mutant(
        "keeps-a-truncated-configuration",
        "a truncated configuration falls away with its entry (Raft §6)",
        ("raft/log.py", "while self._configs[-1][0] >= first:", "while False:"),
    ),
)

SESSIONS = (
    _mutant(
        "runs-a-retry-again",
        "a batch that was run is answered from the session (thesis §6.3)",
        ("kv/sessions.py", "reply = session.replies.get(seq)", "reply = None"),
    ),
    _mutant(
        "keeps-sessions-in-memory-only",
        "sessions are part of the replicated state (thesis §6.3)",
        ("kv/state_machine.py", "self._sessions.flush(self._sessions_prefix, batch)", "pass"),
    ),
    _mutant(
        "forgets-that-it-forgot",
        "a dropped session raises the horizon, so that its retry is refused",
        ("kv/sessions.py", "self.horizon = max(self.horizon, key[0])", "pass"),
    ),
    _mutant(
        "answers-for-anothers-entry",
        "a client's answer comes from its own entry: index and term",
        (
            "server/shard_host.py",
            "if proposal.index == entry.index and proposal.term == entry.term:",
            "if proposal.index == entry.index:",
        ),
    ),
    _mutant(
        "says-no-of-what-may-have-been",
        "a deposed leader does not know what became of its entries",
        (
            "server/shard_host.py",
            "self._fail_writes(proposal, self._not_leader(may_have_applied=True))",
            "self._fail_writes(proposal, InvalidArgument('no'))",
        ),
        (
            "server/shard_host.py",
            "from kvstore.errors import Internal, KVError, NotLeader, Unavailable",
            "from kvstore.errors import Internal, InvalidArgument, KVError, NotLeader, Unavailable",
        ),
    ),
    _mutant(
        "revises-backwards",
        "a new leader's revisions lie above all in its log",
        (
            "server/shard_host.py",
            "self.clock.observe(commands.last_revision(entry.payload))",
            "pass",
        ),
    ),
)

SNAPSHOTS = (
    _mutant(
        "installs-without-sessions",
        "a snapshot holds the sessions too (thesis §6.3)",
        (
            "storage/snapshots.py",
            "                for key, value in rows:\n                    batch",
            "                for key, value in rows:\n                    if key[0] == 1:\n"
            "                        continue\n                    batch",
        ),
    ),
    _mutant(
        "installs-over-what-was-there",
        "a snapshot replaces the whole state (Raft §7)",
        ("storage/snapshots.py", "batch.delete_range(start, end)", "pass"),
    ),
    _mutant(
        "installs-without-a-mark",
        "behind a snapshot the log begins anew, durably (Raft §7)",
        (
            "server/snapshot_work.py",
            "                [truncation, mark],\n",
            "                [],\n",
        ),
    ),
    _mutant(
        "takes-any-snapshot",
        "a snapshot of what is here already changes nothing (Raft §7)",
        (
            "raft/snapshots.py",
            "    if meta.index <= state.commit_index:\n        return True\n",
            "",
        ),
    ),
    _mutant(
        "snapshot-of-more-than-it-holds",
        "a snapshot stands for the applied index (Raft §7)",
        (
            "server/snapshot_work.py",
            "meta = host.core.snapshot_meta(host.core.applied_index)",
            "meta = host.core.snapshot_meta(host.core.last_index)",
        ),
    ),
)

LOG = (
    _mutant(
        "does-not-sync",
        "acknowledged means synced (DESIGN section 1)",
        ("storage/segments.py", "sync_data(self._files, active.fd, active.segment.path)", "pass"),
    ),
    _mutant(
        "goes-on-after-a-failed-sync",
        "a failed sync ends the process (DESIGN section 6)",
        (
            "storage/files.py",
            '        raise _failed("fdatasync", path, error) from error',
            "        pass",
        ),
    ),
    _mutant(
        "takes-damage-for-a-torn-write",
        "only what a crash explains is dropped at the end of the log",
        (
            "storage/scan.py",
            'raise self._corrupt("a damaged record, which no torn write explains", bad)',
            "return",
        ),
    ),
    _mutant(
        "does-not-check-checksums",
        "every record is held against its checksum",
        ("storage/records.py", " or crc32c(data[start:end]) != checksum:", ":"),
    ),
    _mutant(
        "releases-what-is-not-covered",
        "a segment goes when the flushed state covers its entries",
        (
            "storage/segment_files.py",
            "index <= covered.get(group, 0) for",
            "True for",
        ),
    ),
    _mutant(
        "replays-what-was-replaced",
        "an entry replaces all from its index on (Raft §5.3)",
        (
            "storage/replay.py",
            "        _cut(log, index)\n        payload",
            "        if index <= log.end:\n            return None\n        payload",
        ),
    ),
    _mutant(
        "starts-a-segment-without-votes",
        "a segment begins with every group's term and vote",
        (
            "storage/ledger.py",
            "for group, (term, vote) in self._hard_states.items()",
            "for group, (term, vote) in ()",
        ),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *ELECTION,
    *REPLICATION,
    *READS,
    *MEMBERSHIP,
    *SESSIONS,
    *SNAPSHOTS,
    *LOG,
)
