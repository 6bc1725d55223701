"""Majorities against the dumbest definition of them: try every set of members."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import ReplicaId
from kvstore.raft.messages import GroupConfig
from kvstore.raft.quorum import VoteResult, quorum_value, quorum_vote

replica_ids = st.integers(1, 7).map(ReplicaId)
configs = st.builds(
    lambda voters, outgoing: GroupConfig(tuple(sorted(voters)), tuple(sorted(outgoing))),
    st.sets(replica_ids, min_size=1, max_size=5),
    st.sets(replica_ids, max_size=5),
)


def is_quorum(config: GroupConfig, members: set[ReplicaId]) -> bool:
    halves = [half for half in (config.voters, config.voters_outgoing) if half]
    return all(2 * len(members & set(half)) > len(half) for half in halves)


@given(configs, st.dictionaries(replica_ids, st.integers(0, 9)))
def test_the_value_is_the_highest_that_some_quorum_has_reached(
    config: GroupConfig, reached: dict[ReplicaId, int]
) -> None:
    def value(replica: ReplicaId) -> int:
        return reached.get(replica, 0)

    best = max(
        number
        for number in range(10)
        if is_quorum(config, {ReplicaId(r) for r in range(1, 8) if value(ReplicaId(r)) >= number})
    )
    assert quorum_value(config, value) == best


@given(configs, st.dictionaries(replica_ids, st.booleans()))
def test_votes_are_won_lost_or_open_as_their_completions_say(
    config: GroupConfig, votes: dict[ReplicaId, bool]
) -> None:
    yes = {replica for replica, granted in votes.items() if granted}
    undecided = {ReplicaId(r) for r in range(1, 8)} - set(votes)
    if is_quorum(config, yes):
        expected = VoteResult.WON
    elif is_quorum(config, yes | undecided):
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.LOST
    assert quorum_vote(config, votes) is expected


@given(configs)
def test_any_two_quorums_share_a_member(config: GroupConfig) -> None:
    everybody = sorted({*config.voters, *config.voters_outgoing})
    subsets = [
        set(some) for size in range(len(everybody) + 1) for some in combinations(everybody, size)
    ]
    quorums = [
        members
        for members in subsets
        if quorum_vote(config, dict.fromkeys(members, True)) is VoteResult.WON
    ]
    assert quorums
    assert all(a & b for a, b in combinations(quorums, 2))
