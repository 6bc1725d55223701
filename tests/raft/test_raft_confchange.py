"""Which membership changes are allowed, and how a configuration is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import InvalidArgument
from kvstore.ids import ReplicaId
from kvstore.raft import confchange
from kvstore.raft.messages import GroupConfig
from kvstore.raft.validation import is_whole

R1, R2, R3, R4 = map(ReplicaId, range(1, 5))
replica_sets = st.sets(st.integers(1, 6).map(ReplicaId), max_size=5)
parts = st.lists(st.integers(0, (1 << 64) - 1).map(ReplicaId), max_size=6).map(tuple)


@given(st.builds(GroupConfig, parts, parts, parts, parts, st.integers(0, (1 << 64) - 1)))
def test_what_is_stored_comes_back(config: GroupConfig) -> None:
    assert confchange.decode(confchange.encode(config)) == config


@given(st.binary(max_size=60))
def test_junk_is_refused_or_means_exactly_itself(data: bytes) -> None:
    try:
        config = confchange.decode(data)
    except ValueError:
        return
    assert confchange.encode(config) == data


def test_a_vote_is_kept_only_by_whom_both_halves_know() -> None:
    joint = GroupConfig((R1, R2, R4), voters_outgoing=(R1, R2, R3))
    assert [confchange.keeps_vote(joint, r) for r in (R1, R2, R3, R4)] == [True, True, False, False]
    plain = GroupConfig((R1, R2), learners=(R3,))
    assert [confchange.keeps_vote(plain, r) for r in (R1, R2, R3, R4)] == [True, True, False, False]


def test_a_newer_format_and_every_cut_are_refused() -> None:
    data = confchange.encode(GroupConfig((R1, R2), learners=(R3,)))
    with pytest.raises(ValueError, match="unknown format"):
        confchange.decode(b"\x03" + data[1:])
    for end in range(len(data)):
        with pytest.raises(ValueError, match="not a group configuration"):
            confchange.decode(data[:end])


@given(replica_sets.filter(bool), replica_sets, replica_sets, replica_sets)
def test_every_allowed_change_keeps_a_common_majority_and_arrives(
    old: set[ReplicaId], old_learners: set[ReplicaId], new: set[ReplicaId], learners: set[ReplicaId]
) -> None:
    current = GroupConfig(tuple(sorted(old)), learners=tuple(sorted(old_learners - old)))
    if not new or new & learners:
        with pytest.raises(InvalidArgument):
            confchange.change(current, new, learners)
        return
    step = confchange.change(current, new, learners)
    assert is_whole(step)
    if step.voters_outgoing:
        assert step.voters_outgoing == current.voters
        with pytest.raises(InvalidArgument):
            confchange.change(step, new, learners)
        step = confchange.leave_joint(step)
    else:
        assert len(old ^ new) <= 1
    assert step == GroupConfig(tuple(sorted(new)), learners=tuple(sorted(learners)))


def test_a_voter_becomes_a_learner_only_when_the_joint_configuration_ends() -> None:
    joint = confchange.change(GroupConfig((R1, R2, R3)), [R1, R4], [R2])
    assert joint == GroupConfig((R1, R4), (R1, R2, R3), (), (R2,))
    assert confchange.members(joint) == (R1, R2, R3, R4)
    assert confchange.is_voter(joint, R2)
    assert confchange.leave_joint(joint) == GroupConfig((R1, R4), learners=(R2,))


def test_an_epoch_is_kept_unless_a_later_one_is_given() -> None:
    config = GroupConfig((R1, R2, R3), epoch=7)
    assert confchange.change(config, [R1, R2], [R4]).epoch == 7
    joint = confchange.change(config, [R1, R2, R4], [], 9)
    assert joint.voters_outgoing
    assert (joint.epoch, confchange.leave_joint(joint).epoch) == (9, 9)
    assert confchange.change(config, config.voters, [], 8) == GroupConfig((R1, R2, R3), epoch=8)
    with pytest.raises(InvalidArgument, match="epoch 6 is over"):
        confchange.change(config, config.voters, [], 6)


def test_without_an_epoch_it_is_stored_as_older_versions_did() -> None:
    plain = confchange.encode(GroupConfig((R1, R2), learners=(R3,)))
    assert plain[0] == confchange.FORMAT_WITHOUT_EPOCH
    later = confchange.encode(GroupConfig((R1, R2), learners=(R3,), epoch=1))
    assert later[1:-8] == plain[1:]
