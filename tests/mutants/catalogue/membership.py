"""Membership: who counts, when, and how a change begins and ends."""

from __future__ import annotations

from mutants.catalogue.model import mutant

MEMBERSHIP = (
    mutant(
        "changes-everything-at-once",
        "more than one voter changes through a joint configuration (Raft §6)",
        (
            "raft/confchange.py",
            "if len(set(new_voters) ^ set(current.voters)) <= 1:",
            "if True:",
        ),
    ),
    mutant(
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
    mutant(
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
    mutant(
        "changes-before-the-terms-first-commit",
        "no change before an entry of the term is committed (Ongaro 2015)",
        (
            "raft/membership.py",
            "state.log.config_index > state.commit_index or not state.has_committed_in_term",
            "state.log.config_index > state.commit_index",
        ),
    ),
    mutant(
        "keeps-a-truncated-configuration",
        "a truncated configuration falls away with its entry (Raft §6)",
        ("raft/log.py", "while self._configs[-1][0] >= first:", "while False:"),
    ),
    mutant(
        "overlaps-two-changes",
        "one change at a time: the last one must be committed (Raft §6)",
        (
            "raft/membership.py",
            "if state.log.config_index > state.commit_index or not state.has_committed_in_term:",
            "if not state.has_committed_in_term:",
        ),
    ),
    mutant(
        "leaves-a-joint-configuration-uncommitted",
        "a joint configuration is left once it is committed (Raft §6)",
        (
            "raft/membership.py",
            "    return _append_config(state, config)\n",
            "    index = _append_config(state, config)\n    settle(state)\n    return index\n",
        ),
    ),
    mutant(
        "stays-after-its-removal",
        "a leader that was removed steps down (Raft §6)",
        (
            "raft/membership.py",
            "    elif not is_voter(state.config, state.replica):\n"
            "        _leave_to_the_best(state)\n",
            "",
        ),
    ),
    mutant(
        "counts-learners",
        "learners count for nothing (thesis §4.2.1)",
        (
            "raft/quorum.py",
            "reached = majority_value(config.voters, value)",
            "reached = majority_value((*config.voters, *config.learners), value)",
        ),
    ),
    mutant(
        "stands-without-a-vote",
        "only voters stand for election (thesis §4.2.1)",
        (
            "raft/state.py",
            "return is_voter(self.config, self.replica) or is_voter(committed, self.replica)",
            "return bool(committed.voters)",
        ),
    ),
    mutant(
        "comes-back-as-who-it-was",
        "who lost its disk comes back under a new id, without a vote",
        (
            "server/groups.py",
            "in_life(holding.replicas[group], life)",
            "holding.replicas[group]",
        ),
    ),
    mutant(
        "keeps-its-members-at-a-snapshot",
        "a snapshot brings the configuration along (Raft §7)",
        (
            "raft/log.py",
            "self._configs = [(meta.index, meta.config)]",
            "self._configs = [(meta.index, self.config)]",
        ),
    ),
)
