"""Snapshots, transfer, reads, PreVote and pipelining, one replica at a time, by section."""

from __future__ import annotations

import pytest
from raft_solo import R1, R2, R3, R4, Solo, entries, led

from kvstore.config import RaftConfig
from kvstore.errors import NotLeader
from kvstore.ids import NO_REPLICA, LogIndex, Term
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
)
from kvstore.raft.ready import Role
from kvstore.raft.validation import is_plausible

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


def test_7_a_peer_that_stored_a_snapshot_and_forgot_it_is_sent_another_at_once() -> None:
    solo = Solo("1111111111", term=1, base=6, applied=8)
    solo.lead(R2)
    solo.beat(R3, 0)

    def no(rejected_index: int) -> AppendResponse:
        at = LogIndex(rejected_index)
        return AppendResponse(R3, R1, solo.core.term, LogIndex(0), rejected=True, rejected_index=at)

    def begun() -> list[int]:
        return [read.transfer for ready in solo.readies for read in ready.snapshot_reads]

    solo.step(no(10))
    (first,) = begun()
    meta = solo.core.snapshot_meta(LogIndex(8))
    solo.core.snapshot_read(R3, first, meta, b"all", is_last=True, now=solo.now)
    solo.drain()
    solo.step(no(8))
    assert begun() == [first], "the last piece may still be on its way"
    solo.step(SnapshotResponse(R3, R1, solo.core.term, LogIndex(8), first, 3))
    told = [peer.snapshot_bytes for peer in solo.core.status(solo.now).progress]
    assert told == [0, 3], "of what was sent, R3 has stored three bytes"
    solo.beat(R3, 1)
    asked = [r.prev_index for r in solo.take(AppendRequest) if r.receiver == R3]
    assert asked[-1] == 8, "the word that it is installed may have been lost"
    solo.step(no(7))
    assert begun() == [first], "a no to something else"
    solo.step(no(8))
    assert len(begun()) == 2, "it was restarted before it came to install anything"


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
    assert [ready.reads_failed for ready in solo.readies if ready.reads_failed] == [[7]]


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


def test_6_4_1_the_lease_binds_a_voter_that_others_brought_into_the_candidates_term() -> None:
    solo = Solo(options=LEASES)
    solo.wait(1.0)
    solo.heartbeat(R2, term=1)
    solo.step(AppendResponse(R4, R1, Term(2), LogIndex(0), rejected=True))
    assert solo.core.term == 2
    assert not solo.ask_vote(R3, 2, (9, 1)).granted
    solo.wait(0.5)
    assert solo.ask_vote(R3, 2, (9, 1)).granted


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


def test_fast_path_is_not_delayed_by_the_last_words_of_the_dead() -> None:
    solo = Solo()
    solo.heartbeat(R2, term=1)
    solo.core.peer_gone(R2, solo.now)
    solo.heartbeat(R2, term=1)  # sent before, on another connection
    assert solo.ask_vote(R3, 2, (0, 0), pre_vote=True).granted
    solo.wait(0.1)
    assert solo.core.role is Role.PRE_CANDIDATE
    solo.heartbeat(R2, term=1)
    assert not solo.ask_vote(R3, 2, (0, 0), pre_vote=True).granted, "it lives after all"


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


def test_what_a_broken_peer_might_say_is_not_plausible() -> None:
    gap = (*entries("1"), *entries("1", after=4))
    falling = entries("2") + entries("1", after=1)
    broken = Entry(LogIndex(1), Term(1), EntryKind.CONFIG, b"junk")
    empty = Entry(LogIndex(1), Term(1), EntryKind.CONFIG, confchange.encode(GroupConfig(())))
    zero, nine = LogIndex(0), Term(9)
    for some in (gap, falling, (broken,), (empty,)):
        assert not is_plausible(AppendRequest(R2, R1, nine, zero, Term(0), some, zero))
    falls_later = AppendRequest(R2, R1, Term(1), zero, Term(0), entries("2"), zero)
    falls_before = AppendRequest(R2, R1, nine, LogIndex(1), Term(3), entries("2", after=1), zero)
    assert not is_plausible(falls_later)
    assert not is_plausible(falls_before)
    assert is_plausible(AppendRequest(R2, R1, nine, zero, Term(0), entries("12"), zero))
    assert not is_plausible(Heartbeat(R2, R1, Term((1 << 64) - 1), zero, 1))
    nobody = SnapshotMeta(LogIndex(9), Term(1), GroupConfig(()))
    assert not is_plausible(chunk(1, nobody, 0, is_last=True))


def test_no_plausible_message_of_a_peer_trips_an_assertion() -> None:
    huge = Term((1 << 64) - 1)
    for solo in (Solo("12", term=2), led()):
        term, before = solo.core.term, (solo.core.role, solo.core.last_index, solo.core.term)
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
            AppendRequest(R2, R1, term, far, term, entries(str(term), after=1 << 40), far),
        )
        solo.wait(1.0)
