"""The rules of the paper, one replica at a time, by section."""

from __future__ import annotations

import pytest
from raft_solo import R1, R2, R3, R4, R5, Solo, led

from kvstore.errors import InvalidArgument, Overloaded
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft import confchange
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    Heartbeat,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.ready import Role

# -- Raft §5.1, §5.2: terms and elections ---------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_5_1_a_higher_term_makes_anybody_a_follower(role: Role) -> None:
    solo = Solo()
    if role is Role.CANDIDATE:
        solo.step(TimeoutNow(R2, R1, Term(0)))
    elif role is Role.LEADER:
        solo.lead(R2)
    assert solo.core.role is role
    solo.heartbeat(R3, term=9)
    assert (solo.core.role, solo.core.term, solo.core.leader) == (Role.FOLLOWER, 9, R3)


def test_5_1_a_request_of_a_past_term_is_refused_with_ours() -> None:
    solo = Solo("14", term=4)
    solo.append(R2, 3, (1, 1), "3")
    (answer,) = solo.take(AppendResponse)
    assert (answer.rejected, answer.term) == (True, 4)
    assert solo.terms() == "14"


def test_5_2_silence_makes_a_candidate_and_a_heartbeat_prevents_it() -> None:
    solo = Solo()
    for _ in range(40):
        solo.heartbeat(R2, term=1)
        solo.wait(0.1)
    assert solo.core.role is Role.FOLLOWER
    solo.wait(5.0)
    assert solo.core.role is Role.PRE_CANDIDATE


def test_5_2_a_candidate_votes_for_itself_and_asks_everybody_else() -> None:
    solo = Solo("12", voters=5)
    solo.step(TimeoutNow(R2, R1, Term(2)))
    asked = solo.take(VoteRequest)
    assert [request.receiver for request in asked] == [R2, R3, R4, R5]
    assert {(r.term, r.last_index, r.last_term) for r in asked} == {(3, 2, 2)}
    (hard_state,) = [ready.hard_state for ready in solo.readies if ready.hard_state is not None]
    assert (hard_state.term, hard_state.vote) == (3, R1)


def test_5_2_one_vote_a_term_first_come_first_served() -> None:
    solo = Solo()
    assert solo.ask_vote(R2, 1, (0, 0)).granted
    assert solo.ask_vote(R2, 1, (0, 0)).granted, "an answer that was lost is given again"
    assert not solo.ask_vote(R3, 1, (0, 0)).granted
    assert solo.ask_vote(R3, 2, (0, 0)).granted


def test_5_2_no_vote_in_a_term_that_has_a_leader() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    assert not solo.ask_vote(R3, 1, (0, 0)).granted, "it cannot win any more"
    assert solo.core.leader == R2


def test_5_2_a_vote_leaves_only_once_it_is_durable() -> None:
    solo = Solo()
    solo.disk_is_slow = True
    solo.step(VoteRequest(R2, R1, Term(1), LogIndex(0), Term(0), pre_vote=False, by_transfer=False))
    assert solo.readies[-1].hard_state is not None
    assert solo.sent == []
    solo.sync()
    assert len(solo.sent) == 1


def test_5_2_a_candidate_follows_a_leader_of_its_own_term() -> None:
    solo = Solo()
    solo.step(TimeoutNow(R2, R1, Term(0)))
    assert solo.core.role is Role.CANDIDATE
    solo.heartbeat(R3, term=1)
    assert (solo.core.role, solo.core.leader) == (Role.FOLLOWER, R3)


@pytest.mark.parametrize(("voters", "needed"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_5_2_a_majority_wins_and_less_does_not(voters: int, needed: int) -> None:
    solo = Solo(voters=voters)
    supporters = [ReplicaId(number) for number in range(2, 2 + needed)]
    solo.core.campaign(solo.now)
    solo.drain()
    for role, pre_vote in ((Role.PRE_CANDIDATE, True), (Role.CANDIDATE, False)):
        term = Term(solo.core.term + pre_vote)
        for peer in supporters:
            assert solo.core.role is role, "all votes so far are less than a majority"
            solo.step(VoteResponse(peer, R1, term, granted=True, pre_vote=pre_vote))
    assert solo.core.role is Role.LEADER


def test_5_2_timeouts_are_spread() -> None:
    deadlines = set()
    solo = Solo()
    for _ in range(50):
        solo.heartbeat(R2, term=1)
        deadlines.add(solo.core._state.election_at)
    assert len(deadlines) == 50


# -- Raft §5.3: replication -----------------------------------------------------------------------


def test_5_3_a_leader_sends_what_it_appends_and_commits_by_a_majority() -> None:
    solo = Solo(voters=5)
    solo.lead(R2, R3)
    for peer in (R2, R3, R4, R5):
        solo.ack(peer)
    solo.sent.clear()
    index, term = solo.core.propose(b"x", solo.now)
    solo.drain()
    requests = solo.take(AppendRequest)
    assert [request.receiver for request in requests] == [R2, R3, R4, R5]
    assert {r.entries for r in requests} == {(Entry(index, term, EntryKind.COMMAND, b"x"),)}
    solo.ack(R2)
    assert solo.commit_index == index - 1
    solo.ack(R3)
    assert solo.commit_index == index
    assert solo.committed[-1].payload == b"x"


@pytest.mark.parametrize(
    ("log", "prev", "new", "expected"),
    [
        ("", (0, 0), "11", "11"),
        ("11", (2, 1), "2", "112"),
        ("112", (1, 1), "3", "13"),
        ("1122", (2, 1), "33", "1133"),
        ("1133", (1, 1), "1", "1133"),  # a late duplicate truncates nothing
        ("1133", (2, 1), "", "1133"),
    ],
)
def test_5_3_what_conflicts_is_replaced_and_nothing_else(
    log: str, prev: tuple[int, int], new: str, expected: str
) -> None:
    solo = Solo(log, term=4)
    solo.append(R2, 4, prev, new)
    (answer,) = solo.take(AppendResponse)
    assert solo.terms() == expected
    assert (answer.rejected, answer.match_index) == (False, prev[0] + len(new))


@pytest.mark.parametrize(
    ("log", "prev", "hint"),
    [
        ("", (3, 3), (0, 0)),
        ("11", (5, 3), (2, 1)),
        ("1144", (4, 3), (2, 1)),  # over all of term 4 at once
        ("112222", (6, 1), (2, 1)),
    ],
)
def test_5_3_a_rejection_jumps_over_a_whole_term(
    log: str, prev: tuple[int, int], hint: tuple[int, int]
) -> None:
    solo = Solo(log, term=5)
    solo.append(R2, 5, prev, "5")
    (answer,) = solo.take(AppendResponse)
    assert answer.rejected
    assert (answer.hint_index, answer.hint_term) == hint
    assert solo.terms() == log


def test_5_3_a_leader_jumps_back_over_a_whole_term_too() -> None:
    solo = Solo("1113333", term=3)
    solo.lead(R2)
    solo.sent.clear()
    solo.step(
        AppendResponse(
            R3,
            R1,
            solo.core.term,
            LogIndex(0),
            rejected=True,
            rejected_index=LogIndex(7),
            hint_index=LogIndex(6),
            hint_term=Term(2),
        )
    )
    (probe,) = [r for r in solo.take(AppendRequest) if r.receiver == R3]
    assert (probe.prev_index, probe.prev_term) == (3, 1)


def test_5_3_a_no_to_a_past_term_says_nothing_of_the_log() -> None:
    """It carries the new term, and no index: nothing comes before entry 1."""
    solo = Solo()
    solo.lead(R2)
    solo.step(AppendResponse(R2, R1, solo.core.term, LogIndex(0), rejected=True))
    solo.step(AppendResponse(R2, R1, solo.core.term, LogIndex(0), rejected=True))
    solo.wait(0.3)
    beats = solo.take(Heartbeat)
    assert beats
    assert all(beat.commit_index >= 0 for beat in beats)
    solo.ack(R2)
    assert solo.core.status(solo.now).commit_index == solo.core.last_index


def test_5_3_a_follower_commits_no_further_than_what_it_was_sent() -> None:
    solo = Solo("112", term=2)
    solo.append(R2, 2, (2, 1), "", commit=9)
    assert solo.commit_index == 2, "entry 3 may yet turn out to be another one"


def test_5_3_a_follower_answers_only_what_is_durable() -> None:
    solo = Solo(term=1)
    solo.disk_is_slow = True
    solo.append(R2, 1, (0, 0), "11", commit=2)
    solo.append(R2, 1, (0, 0), "11", commit=2)  # twice: the second one must not overtake the disk
    assert solo.take(AppendResponse) == []
    assert solo.committed == [], "nor is anything applied before"
    solo.sync()
    assert {answer.match_index for answer in solo.take(AppendResponse)} == {2}
    assert len(solo.committed) == 2


def test_5_3_a_write_that_was_truncated_under_way_does_not_count() -> None:
    """Entries that went and came back are durable only after the disk saw all three writes."""
    solo = Solo("1", term=1)
    solo.disk_is_slow = True
    solo.append(R2, 2, (1, 1), "222")
    solo.append(R3, 3, (1, 1), "3")
    solo.append(R2, 4, (1, 1), "222", commit=4)
    log = solo.core._state.log
    assert (solo.terms(), log.durable_index) == ("1222", 1)
    solo.sync(1)
    assert log.durable_index == 1, "the disk is yet to see the truncation by term 3"
    assert len(solo.committed) == 1
    solo.sync(1)
    assert log.durable_index == 1
    solo.sync(1)
    assert log.durable_index == 4
    assert len(solo.committed) == 4


# -- Raft §5.4: safety ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "granted"),
    [((3, 2), True), ((4, 2), True), ((1, 3), True), ((2, 2), False), ((9, 1), False)],
)
@pytest.mark.parametrize("pre_vote", [True, False])
def test_5_4_1_votes_only_for_a_log_that_has_all_of_ours(
    last: tuple[int, int], granted: bool, pre_vote: bool
) -> None:
    solo = Solo("112", term=3)
    assert solo.ask_vote(R2, 4, last, pre_vote=pre_vote).granted is granted


def test_5_4_2_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Figure 8 (c) and (e)."""
    solo = Solo("12", voters=5, term=3)
    solo.lead(R2, R3)
    assert solo.terms() == "124"
    solo.ack(R2, 2)
    solo.ack(R3, 2)
    assert solo.commit_index == 0, "a majority has term 2's entry, and still it may be replaced"
    solo.ack(R2, 3)
    solo.ack(R3, 3)
    assert solo.commit_index == 3


def test_5_4_3_a_committed_entry_is_never_replaced() -> None:
    """No leader can ask for it; a broken peer must not get it, nor stop us."""
    solo = Solo("11", term=1)
    solo.append(R2, 1, (2, 1), "", commit=2)
    solo.append(R3, 2, (0, 0), "22")
    assert solo.terms() == "11"


# -- Raft §6; thesis §4: membership ---------------------------------------------------------------


def test_6_a_configuration_is_in_force_when_appended_and_not_after_truncation() -> None:
    solo = Solo("1", term=1)
    config = GroupConfig((R1, R2))
    entry = Entry(LogIndex(2), Term(1), EntryKind.CONFIG, confchange.encode(config))
    solo.step(AppendRequest(R2, R1, Term(1), LogIndex(1), Term(1), (entry,), LogIndex(0)))
    assert solo.config == config
    solo.append(R3, 2, (1, 1), "2")
    assert solo.config == GroupConfig((R1, R2, R3))


def test_6_a_joint_configuration_needs_both_majorities_and_is_left_by_itself() -> None:
    solo = led()
    solo.core.propose_config([R1, R4, R5], [], solo.now)
    solo.drain()
    joint = solo.core.last_index
    assert solo.config == GroupConfig((R1, R4, R5), (R1, R2, R3))
    solo.ack(R4, joint)
    solo.ack(R5, joint)
    assert solo.commit_index < joint, "the new majority alone"
    solo.ack(R2, joint)
    assert solo.commit_index == joint
    assert solo.config == GroupConfig((R1, R4, R5))


def test_6_a_leader_that_removed_itself_does_not_count_itself() -> None:
    solo = led(voters=2)
    solo.core.propose_config([R2], [], solo.now)
    solo.drain()
    assert solo.commit_index == 1
    solo.sent.clear()
    solo.ack(R2)
    assert solo.core.role is Role.FOLLOWER
    assert [m.receiver for m in solo.sent if isinstance(m, TimeoutNow)] == [R2]
    solo.wait(10.0)
    assert solo.take(VoteRequest) == [], "it is silent: its removal is committed"


def test_4_2_2_a_replica_may_stand_until_its_removal_is_committed() -> None:
    """Its log may be the only one that can win: without it the group would have no leader."""
    solo = led(voters=2)
    solo.core.propose_config([R2], [], solo.now)
    solo.drain()
    solo.wait(10.0)
    assert solo.core.role is not Role.LEADER
    assert solo.take(VoteRequest)
    solo.lead(R2)
    solo.ack(R2)
    assert solo.core.role is Role.FOLLOWER


def test_4_2_2_a_removed_replica_is_told_until_it_knows() -> None:
    solo = led()
    solo.core.propose_config([R1, R2], [], solo.now)
    solo.drain()
    solo.ack(R2)
    solo.ack(R3)
    assert solo.commit_index == solo.core.last_index
    tracker = solo.core._state.leading.tracker  # type: ignore[union-attr]
    assert R3 in tracker.peers, "it holds the entry, but may not know that it is committed"
    solo.sent.clear()
    solo.wait(0.4)
    told = [beat for beat in solo.take(Heartbeat) if beat.receiver == R3]
    assert told[-1].commit_index == solo.commit_index
    solo.beat(R3, told[-1].read_round)
    assert R3 not in tracker.peers


def test_4_1_one_change_at_a_time_and_none_before_the_terms_first_entry() -> None:
    solo = led(commit=False)
    with pytest.raises(Overloaded):
        solo.core.propose_config([R1, R2], [], solo.now)
    solo.ack(R2)
    solo.core.propose_config([R1, R2, R3], [R4], solo.now)
    with pytest.raises(Overloaded):
        solo.core.propose_config([R1, R2], [], solo.now)


def test_4_2_1_a_learner_has_no_part_in_any_majority() -> None:
    solo = led(learners=(R4, R5), commit=False)
    solo.ack(R4)
    solo.ack(R5)
    assert solo.commit_index == 0
    with pytest.raises(InvalidArgument):
        solo.core.transfer_leadership(R4, solo.now)


def test_4_3_a_new_leader_leaves_the_joint_configuration_of_its_predecessor() -> None:
    joint = GroupConfig((R1, R4, R5), (R1, R2, R3))
    solo = Solo("1", term=1)
    entry = Entry(LogIndex(2), Term(1), EntryKind.CONFIG, confchange.encode(joint))
    solo.step(AppendRequest(R2, R1, Term(1), LogIndex(1), Term(1), (entry,), LogIndex(2)))
    solo.now += 5.0
    solo.lead(R2, R4)
    solo.ack(R2)
    solo.ack(R4)
    assert solo.config == GroupConfig((R1, R4, R5))
