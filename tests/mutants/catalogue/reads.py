"""Reads: confirmed by a quorum, or by a lease."""

from __future__ import annotations

from mutants.catalogue.model import mutant

READS = (
    mutant(
        "reads-before-the-terms-first-commit",
        "a leader reads once an entry of its term is committed (Raft §8)",
        (
            "raft/state.py",
            "self.leading is not None and self.commit_index >= self.leading.first_index",
            "self.leading is not None",
        ),
    ),
    mutant(
        "reads-without-a-quorum",
        "a read is confirmed by a quorum's answers (thesis §6.4)",
        (
            "raft/read_rounds.py",
            "number = lead.tracker.quorum_read_round(lead.read_round)",
            "number = lead.read_round",
        ),
    ),
    mutant(
        "reads-before-it-applied",
        "a read waits until the state has reached its index (thesis §6.4)",
        (
            "server/shard_host.py",
            "confirming.index is not None and confirming.index <= applied",
            "confirming.index is not None",
        ),
    ),
    mutant(
        "believes-answers-to-an-earlier-round",
        "a read is confirmed by answers to a round begun after it came (thesis §6.4)",
        (
            "raft/reads.py",
            "Round(number, commit_index, self.waiting, asked, now)",
            "Round(number - 1, commit_index, self.waiting, asked, now)",
        ),
    ),
    mutant(
        "trusts-every-clock",
        "a lease is shorter by how far two clocks may drift (thesis §6.4.1)",
        (
            "raft/replication.py",
            " * (1.0 - state.options.clock_drift_max)",
            "",
        ),
    ),
    mutant(
        "counts-the-lease-from-the-answer",
        "a lease begins when the heartbeat was sent (thesis §6.4.1)",
        (
            "raft/leader.py",
            "peer.lease_from = max(peer.lease_from, sent_at)",
            "peer.lease_from = state.now",
        ),
    ),
)
