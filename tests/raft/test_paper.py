"""The rules of the paper, one replica at a time, by section."""

from __future__ import annotations

import pytest
from raft_solo import R1, R2, R3, R4, R5, Solo, entries

from kvstore.config import RaftConfig
from kvstore.errors import InvalidArgument, NotLeader, Overloaded
from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, Term
from kvstore.raft import confchange
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
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
    peers = [ReplicaId(number) for number in range(2, voters + 1)]
    for peer in peers[: needed - 1] if needed else []:
        solo.core.campaign(solo.now)
        with pytest.raises(AssertionError):
            solo.lead(peer)
    solo.lead(*peers[:needed])


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


def led(*, voters: int = 3, learners: tuple[ReplicaId, ...] = (), commit: bool = True) -> Solo:
    """A leader whose first entry is committed, by all its peers."""
    solo = Solo(voters=voters, learners=learners)
    peers = [ReplicaId(number) for number in range(2, voters + 1)]
    solo.lead(*peers[: voters // 2])
    if commit:
        for peer in peers:
            solo.ack(peer)
    solo.sent.clear()
    return solo


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


# -- Raft §7: snapshots ---------------------------------------------------------------------------


def chunk(transfer: int, meta: SnapshotMeta, offset: int, *, is_last: bool) -> SnapshotChunk:
    return SnapshotChunk(R2, R1, Term(5), meta, transfer, offset, b"state", is_last)


META = SnapshotMeta(LogIndex(8), Term(4), GroupConfig((R1, R2)))


def test_7_a_snapshot_replaces_a_log_that_contradicts_it() -> None:
    solo = Solo("1111111111", term=5)  # longer, but of a dead leader's term
    solo.step(chunk(1, META, 0, is_last=False), chunk(1, META, 5, is_last=True))
    writes = [write for ready in solo.readies for write in ready.snapshot_writes]
    assert [(write.offset, write.is_last) for write in writes] == [(0, False), (5, True)]
    solo.append(R2, 5, (10, 1), "5")
    assert solo.terms() == "1" * 10, "nothing is appended while the driver installs"
    solo.core.snapshot_installed(META, solo.now)
    solo.drain()
    assert solo.take(SnapshotResponse)[-1].installed
    assert (solo.terms(), solo.core.last_index, solo.config) == ("", 8, META.config)
    solo.append(R2, 5, (8, 4), "55")
    assert solo.core.last_index == 10


def test_7_a_log_that_has_the_snapshots_last_entry_is_kept() -> None:
    solo = Solo("1111444455", term=5)
    solo.step(chunk(1, META, 0, is_last=False))
    assert all(not ready.snapshot_writes for ready in solo.readies)
    assert solo.take(SnapshotResponse)[-1].installed
    assert (solo.terms(), solo.commit_index) == ("1111444455", 8)


def test_7_pieces_of_two_attempts_are_never_mixed() -> None:
    solo = Solo("1", term=5)
    solo.step(chunk(2, META, 0, is_last=False))
    solo.step(chunk(1, META, 0, is_last=False), chunk(1, META, 5, is_last=True))
    writes = [write.transfer for ready in solo.readies for write in ready.snapshot_writes]
    assert writes == [2], "an attempt that was given up undoes nothing"
    solo.step(chunk(3, META, 5, is_last=True))
    assert solo.take(SnapshotResponse)[-1].rejected, "the beginning is missing"


def test_7_a_leader_begins_a_snapshot_for_a_peer_behind_its_log() -> None:
    solo = Solo("1111111111", term=1, base=6, applied=8)
    solo.lead(R2)
    solo.beat(R3, 0)
    solo.step(
        AppendResponse(
            R3, R1, solo.core.term, LogIndex(0), rejected=True, rejected_index=LogIndex(10)
        )
    )
    (read,) = [read for ready in solo.readies for read in ready.snapshot_reads]
    assert (read.peer, read.offset) == (R3, 0)
    meta = solo.core.snapshot_meta(LogIndex(8))
    solo.core.snapshot_read(R3, read.transfer, meta, b"all", is_last=True, now=solo.now)
    solo.drain()
    (sent,) = solo.take(SnapshotChunk)
    assert (sent.meta, sent.data, sent.is_last) == (meta, b"all", True)
    solo.step(
        SnapshotResponse(R3, R1, solo.core.term, LogIndex(8), read.transfer, 3, installed=True)
    )
    assert [r.prev_index for r in solo.take(AppendRequest) if r.receiver == R3] == [8]


# -- thesis §3.10: transfer -----------------------------------------------------------------------


def test_3_10_the_target_is_told_once_it_has_everything_and_again_if_that_was_lost() -> None:
    solo = led()
    solo.core.propose(b"x", solo.now)
    solo.drain()
    solo.core.transfer_leadership(R2, solo.now)
    solo.drain()
    assert solo.take(TimeoutNow) == []
    with pytest.raises(NotLeader):
        solo.core.propose(b"y", solo.now)
    solo.ack(R2)
    assert len(solo.take(TimeoutNow)) == 1
    solo.beat(R2, 1)
    assert len(solo.take(TimeoutNow)) == 1


def test_3_10_a_newer_transfer_replaces_an_older_one() -> None:
    solo = led()
    solo.core.propose(b"x", solo.now)
    solo.core.transfer_leadership(R2, solo.now)
    solo.core.transfer_leadership(R3, solo.now)
    solo.drain()
    solo.ack(R2)
    solo.ack(R3)
    assert [message.receiver for message in solo.take(TimeoutNow)] == [R3]


def test_3_10_a_transfer_that_goes_nowhere_ends_after_one_election_timeout() -> None:
    solo = led()
    solo.core.propose(b"x", solo.now)
    solo.core.transfer_leadership(R3, solo.now)
    for _ in range(3):
        solo.beat(R2, 1)
        solo.wait(0.2)
    assert solo.core.status(solo.now).transferring_to == NO_REPLICA
    solo.core.propose(b"y", solo.now)


def test_3_10_voters_do_not_protect_a_leader_that_agrees() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    assert not solo.ask_vote(R3, 2, (0, 0)).granted
    assert solo.core.term == 1
    assert solo.ask_vote(R3, 2, (0, 0), by_transfer=True).granted


# -- thesis §6.4: reads ---------------------------------------------------------------------------


def read_states(solo: Solo) -> list[tuple[int, int]]:
    return [(state.context, state.index) for ready in solo.readies for state in ready.read_states]


def test_6_4_a_read_waits_for_an_own_entry_and_then_for_a_round() -> None:
    solo = led(commit=False)
    solo.core.read_index(7, solo.now)
    solo.drain()
    solo.beat(R2, 1)
    solo.beat(R3, 1)
    assert read_states(solo) == [], "what is committed is not known yet"
    solo.sent.clear()
    solo.ack(R2)
    number = solo.take(Heartbeat)[-1].read_round
    solo.beat(R2, number - 1)
    assert read_states(solo) == [], "that answer is older than the read"
    solo.beat(R3, number)
    assert read_states(solo) == [(7, 1)]


def test_6_4_reads_of_a_deposed_leader_fail() -> None:
    solo = led()
    solo.core.read_index(7, solo.now)
    solo.drain()
    solo.heartbeat(R3, term=9)
    assert [ready.reads_failed for ready in solo.readies if ready.reads_failed] == [(7,)]


def test_6_4_a_follower_asks_and_takes_no_answer_meant_for_an_earlier_life() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    solo.core.read_index(7, solo.now)
    solo.drain()
    (request,) = solo.take(ReadIndexRequest)
    answer = ReadIndexResponse(R2, R1, Term(1), 7, LogIndex(3), refused=False)
    solo.step(answer)
    assert read_states(solo) == []
    solo.step(
        ReadIndexResponse(R2, R1, Term(1), request.context, LogIndex(3), refused=False), answer
    )
    assert read_states(solo) == [(7, 3)]


LEASES = RaftConfig(lease_reads=True)


def test_6_4_1_a_lease_answers_at_once_and_ends_by_the_clock() -> None:
    solo = Solo(options=LEASES)
    solo.wait(2.0)
    solo.lead(R2)
    solo.ack(R2)
    solo.wait(0.4)
    solo.beat(R2, max(beat.read_round for beat in solo.take(Heartbeat)))
    solo.core.read_index(1, solo.now)
    solo.drain()
    assert read_states(solo) == [(1, 1)]
    solo.now += 0.5
    solo.core.read_index(2, solo.now)
    solo.drain()
    assert read_states(solo) == [(1, 1)], "somebody else may lead by now"


def test_6_4_1_an_early_campaign_respects_the_lease() -> None:
    """Our own vote is promised to the leader as well."""
    solo = Solo(options=LEASES)
    solo.heartbeat(R2, term=1)
    solo.core.campaign(solo.now)
    solo.drain()
    assert solo.core.role is Role.FOLLOWER
    solo.wait(1.5)
    assert solo.core.role is Role.PRE_CANDIDATE


# -- thesis §9.6: PreVote, and the two halves of CheckQuorum --------------------------------------


def test_9_6_a_pre_vote_changes_nobodys_term() -> None:
    solo = Solo()
    solo.wait(2.0)
    assert (solo.core.role, solo.core.term) == (Role.PRE_CANDIDATE, 0)
    answer = solo.ask_vote(R2, 1, (0, 0), pre_vote=True)
    assert (answer.granted, answer.term) == (True, 1)
    assert solo.core.term == 0
    assert solo.ask_vote(R3, 1, (0, 0), pre_vote=True).granted, "it is no promise"


def test_9_6_whoever_hears_a_leader_refuses() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    for pre_vote in (True, False):
        assert not solo.ask_vote(R3, 5, (9, 1), pre_vote=pre_vote).granted
    assert solo.core.term == 1
    solo.now += 0.5
    assert solo.ask_vote(R3, 5, (9, 1), pre_vote=True).granted


def test_9_6_a_leader_without_a_quorum_steps_down() -> None:
    solo = led(voters=5)
    for _ in range(10):
        solo.beat(R2, 1)
        solo.wait(0.2)
    assert solo.core.role is not Role.LEADER


def test_9_6_a_leader_that_stood_still_gets_one_chance_to_hear() -> None:
    solo = led()
    solo.now += 60.0
    solo.core.tick(solo.now)
    solo.drain()
    assert solo.core.role is Role.LEADER
    solo.wait(1.2)
    assert solo.core.role is not Role.LEADER


def test_fast_path_counts_only_for_the_leader_that_is_gone() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    solo.core.peer_gone(R3, solo.now)
    solo.wait(0.1)
    assert solo.core.role is Role.FOLLOWER
    solo.core.peer_gone(R2, solo.now)
    assert solo.ask_vote(R3, 2, (0, 0), pre_vote=True).granted
    solo.wait(0.1)
    assert solo.core.role is Role.PRE_CANDIDATE


# -- thesis §10.2.1: the leader's own disk in parallel --------------------------------------------


def test_10_2_1_entries_leave_before_the_leaders_own_write_ends() -> None:
    solo = led()
    solo.disk_is_slow = True
    solo.core.propose(b"x", solo.now)
    solo.drain()
    assert len(solo.take(AppendRequest)) == 2
    solo.ack(R2)
    assert solo.commit_index == 1, "its own disk counts only once it is done"
    solo.ack(R3)
    assert solo.commit_index == 2, "a majority of others is enough"
    assert solo.committed[-1].index == 1, "but it applies only what it has itself"
    solo.sync()
    assert solo.committed[-1].index == 2


def test_10_2_1_appends_are_pipelined_within_the_window() -> None:
    solo = Solo(options=RaftConfig(inflight_messages_max=3))
    solo.lead(R2)
    solo.ack(R2)
    solo.sent.clear()
    for _ in range(5):
        solo.core.propose(b"x", solo.now)
        solo.drain()
    assert [r.prev_index for r in solo.take(AppendRequest) if r.receiver == R2] == [1, 2, 3]
    solo.ack(R2, 2)
    assert [r.prev_index for r in solo.take(AppendRequest) if r.receiver == R2] == [4]


# -- what no peer may do --------------------------------------------------------------------------


def test_no_message_of_a_peer_trips_an_assertion() -> None:
    gap = (*entries("1"), *entries("1", after=4))
    falling = entries("2") + entries("1", after=1)
    broken = Entry(LogIndex(1), Term(1), EntryKind.CONFIG, b"junk")
    empty = Entry(LogIndex(1), Term(1), EntryKind.CONFIG, confchange.encode(GroupConfig(())))
    huge = Term((1 << 64) - 1)
    for solo in (Solo("12", term=2), led()):
        term, before = solo.core.term, (solo.core.role, solo.core.last_index, solo.core.term)
        zero = LogIndex(0)
        for some in (gap, falling, (broken,), (empty,)):
            solo.step(AppendRequest(R2, R1, Term(9), zero, Term(0), some, zero))
        solo.step(Heartbeat(R2, R1, huge, zero, 1))
        solo.step(chunk(1, SnapshotMeta(LogIndex(9), Term(1), GroupConfig(())), 0, is_last=True))
        assert (solo.core.role, solo.core.last_index, solo.core.term) == before
        far = LogIndex(1 << 40)
        solo.step(
            AppendResponse(R2, R1, term, far),
            SnapshotResponse(R2, R1, term, far, 1, 0, installed=True),
            SnapshotResponse(R2, R1, term, far, 1 << 30, 1 << 40, rejected=True),
            HeartbeatResponse(R2, R1, term, 1 << 60),
            AppendResponse(R2, R1, term, far, True, far, far, huge),
            ReadIndexResponse(R2, R1, term, 99, far, refused=False),
        )
        assert (solo.core.role, solo.core.last_index, solo.core.term) == before
        solo.step(
            TimeoutNow(R4, R1, term),
            Heartbeat(R2, R1, term, far, 1),
            AppendRequest(R2, R1, term, far, term, entries("3", after=1 << 40), far),
        )
        solo.wait(1.0)
