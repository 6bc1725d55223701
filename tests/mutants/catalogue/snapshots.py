"""Snapshots: sent, installed, and the log behind them."""

from __future__ import annotations

from mutants.catalogue.model import mutant

SNAPSHOTS = (
    mutant(
        "installs-without-sessions",
        "a snapshot holds the sessions too (thesis §6.3)",
        (
            "storage/snapshots.py",
            "replacement.add((prefix + key, value) for key, value in rows)",
            "replacement.add((prefix + key, value) for key, value in rows if key[0] != 1)",
        ),
    ),
    mutant(
        "installs-over-what-was-there",
        "a snapshot replaces the whole state (Raft §7)",
        ("storage/replacement.py", "self._batch.delete_range(start, end)", "pass"),
    ),
    mutant(
        "installs-without-a-mark",
        "behind a snapshot the log begins anew, durably (Raft §7)",
        (
            "server/snapshot_work.py",
            "                [truncation, mark],\n",
            "                [],\n",
        ),
    ),
    mutant(
        "snapshot-of-more-than-it-holds",
        "a snapshot stands for the applied index (Raft §7)",
        (
            "server/snapshot_work.py",
            "meta = host.core.snapshot_meta(host.core.applied_index)",
            "meta = host.core.snapshot_meta(host.core.last_index)",
        ),
    ),
    mutant(
        "drops-a-log-that-matches",
        "a log that holds the snapshot's last entry is kept (Raft §7)",
        (
            "raft/snapshots.py",
            "return state.log.term_at(meta.index) == meta.term",
            "return False",
        ),
    ),
    mutant(
        "appends-while-installing",
        "nothing is appended to a log that a snapshot is about to replace",
        (
            "raft/follower.py",
            "    if state.is_installing:\n"
            "        return  # The log is about to be replaced; the leader will try again.\n",
            "",
        ),
    ),
    mutant(
        "forgets-an-install-under-way",
        "an installation goes on whatever becomes of the leader",
        (
            "raft/state.py",
            "        if not self.is_installing:\n            self.receiving = None",
            "        self.receiving = None",
        ),
    ),
    mutant(
        "installs-before-an-older-write",
        "what was run before a snapshot is in the engine before the snapshot is",
        (
            "server/snapshot_work.py",
            "self._driver.when_written(lambda: self._install(host, write.meta))",
            "self._install(host, write.meta)",
        ),
    ),
    mutant(
        "installs-without-flushing",
        "a snapshot is in force once the engine holds it durably",
        (
            "storage/snapshots.py",
            "            self._engine.flush()\n",
            "",
        ),
    ),
    mutant(
        "forgets-a-half-installed-snapshot",
        "the next start ends an installation that a crash cut short",
        (
            "storage/snapshots.py",
            "            self.install(group, shard_of_group(group))\n"
            "            self.discard(group)\n",
            "            self._files.remove(self._manifest_path(group))\n",
        ),
    ),
    mutant(
        "never-gives-up-a-snapshot",
        "an attempt to send a snapshot that stands still ends",
        (
            "raft/snapshots.py",
            "if state.now - transfer.active_at > patience_s:",
            "if False:",
        ),
    ),
)
