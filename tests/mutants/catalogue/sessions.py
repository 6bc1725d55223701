"""Sessions and answers: a retry is run once, a revision is given once."""

from __future__ import annotations

from mutants.catalogue.model import mutant

SESSIONS = (
    mutant(
        "runs-a-retry-again",
        "a batch that was run is answered from the session (thesis §6.3)",
        ("kv/sessions.py", "reply = session.replies.get(seq)", "reply = None"),
    ),
    mutant(
        "keeps-sessions-in-memory-only",
        "sessions are part of the replicated state (thesis §6.3)",
        ("kv/state_machine.py", "self._sessions.flush(self._sessions_prefix, batch)", "pass"),
    ),
    mutant(
        "forgets-that-it-forgot",
        "a dropped session raises the horizon, so that its retry is refused",
        ("kv/sessions.py", "self.horizon = max(self.horizon, key[0])", "pass"),
    ),
    mutant(
        "says-no-of-what-may-have-been",
        "a deposed leader does not know what became of its entries",
        (
            "server/shard_host.py",
            "self._fail_writes(proposal, self._not_leader(may_have_applied=True))",
            "self._fail_writes(proposal, self._not_leader())",
        ),
    ),
    mutant(
        "revises-backwards",
        "a new leader's revisions lie above all in its log",
        (
            "server/shard_host.py",
            "self.clock.observe(commands.last_revision(entry.payload))",
            "pass",
        ),
    ),
    mutant(
        "runs-what-was-settled",
        "what a client has settled is refused when it comes again (thesis §6.3)",
        (
            "kv/sessions.py",
            "            if seq < session.ack_below:\n",
            "            if False:\n",
        ),
    ),
    mutant(
        "keeps-one-reply-a-session",
        "every reply is kept that may still be asked for (thesis §6.3)",
        (
            "kv/sessions.py",
            "session.replies[seq] = reply",
            "session.replies = {seq: reply}",
        ),
    ),
    mutant(
        "forgets-the-horizon-at-restart",
        "the horizon of dropped sessions is part of the replicated state",
        (
            "kv/state_machine.py",
            "applied.encode(self._applied, self._sessions.horizon)",
            "applied.encode(self._applied, 0)",
        ),
    ),
    mutant(
        "gives-a-revision-twice",
        "in a shard a revision names one write",
        (
            "kv/state_machine.py",
            "            revision += count\n",
            "            revision += 0\n",
        ),
    ),
    mutant(
        "forgets-revisions-at-restart",
        "a leader's revisions lie above all in the log that it found at its start",
        (
            "server/groups.py",
            "    host.observe(recovered.entries)\n",
            "",
        ),
    ),
    mutant(
        "forgets-a-snapshots-revisions",
        "a leader's revisions lie above those of the state that it was sent",
        (
            "server/shard_host.py",
            "        self.clock.observe(self.machine.last_revision)\n",
            "",
        ),
    ),
    mutant(
        "says-no-of-what-is-overdue",
        "a write that was not confirmed in time may yet be run",
        (
            "server/shard_host.py",
            "self._fail_writes(proposal, Unavailable(error, may_have_applied=True))",
            "self._fail_writes(proposal, Unavailable(error))",
        ),
    ),
)
