"""How a learner gets the part of the log that was there before it."""

from __future__ import annotations

from raft_solo import R1, R2, R3, R4, Solo

from kvstore.config import RaftConfig
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.log import size_of
from kvstore.raft.messages import AppendRequest, AppendResponse
from kvstore.raft.replication import CATCH_UP_BYTES

PAYLOAD = bytes(CATCH_UP_BYTES // 4)
OLD = 14
"""Entries that are there before the learner comes."""


def leader_with_old_log(entries: int = OLD) -> Solo:
    """R1 leads; R2 has all of the log, and R3 has not been heard of."""
    solo = Solo()
    solo.lead(R2)
    for _ in range(entries):
        solo.core.propose(PAYLOAD, solo.now)
    solo.drain()
    solo.ack(R2)
    return solo


def leader_with_learner(entries: int = OLD) -> Solo:
    """R4 is a learner since now, and has said that its log is empty."""
    solo = leader_with_old_log(entries)
    solo.core.propose_config((R1, R2, R3), (R4,), solo.now)
    solo.drain()
    solo.ack(R2)
    has_nothing(solo, R4)
    return solo


def has_nothing(solo: Solo, peer: ReplicaId) -> None:
    """``peer`` answers the append that it was sent so."""
    (probe,) = [append for append in solo.take(AppendRequest) if append.receiver == peer][-1:]
    nothing = (LogIndex(0), Term(0))
    term = solo.core.term
    solo.step(AppendResponse(peer, R1, term, LogIndex(0), True, probe.prev_index, *nothing))


def to_learner(solo: Solo) -> list[AppendRequest]:
    return [append for append in solo.take(AppendRequest) if append.receiver == R4]


def test_old_log_comes_in_small_pieces_one_at_a_time() -> None:
    solo = leader_with_learner()
    pieces, had = 0, LogIndex(0)
    while had < OLD:
        appends = [append for append in to_learner(solo) if append.entries]
        assert len(appends) == 1
        assert appends[0].is_catch_up
        assert sum(map(size_of, appends[0].entries)) <= CATCH_UP_BYTES
        had = appends[0].entries[-1].index
        solo.ack(R4, had)
        pieces += 1
    assert pieces > 4


def test_a_newcomer_gets_the_state_rather_than_a_long_log() -> None:
    solo = leader_with_learner(2 * OLD)
    assert [append for append in to_learner(solo) if append.entries] == []
    (read,) = [read for ready in solo.readies for read in ready.snapshot_reads]
    assert (read.peer, read.offset) == (R4, 0)


def test_one_that_has_the_beginning_gets_the_rest_of_a_long_log() -> None:
    solo = leader_with_old_log(2 * OLD)
    solo.core.propose_config((R1, R2, R3), (R4,), solo.now)
    solo.drain()
    solo.ack(R2)
    (probe,) = [append for append in to_learner(solo) if append.entries][-1:]
    has_one = LogIndex(1), Term(1)
    solo.step(AppendResponse(R4, R1, Term(1), LogIndex(0), True, probe.prev_index, *has_one))
    assert [append.prev_index for append in to_learner(solo) if append.entries] == [1]


def test_what_is_new_waits_for_nothing_once_the_old_is_there() -> None:
    solo = leader_with_learner()
    solo.ack(R4, solo.core.status(solo.now).last_index)
    to_learner(solo)
    for _ in range(3):
        solo.core.propose(PAYLOAD, solo.now)
        solo.drain()
    appends = to_learner(solo)
    assert len(appends) == 3, "pipelined"
    assert not any(append.is_catch_up for append in appends)


def test_what_is_new_does_not_overtake_the_old() -> None:
    solo = leader_with_learner()
    (first,) = [append for append in to_learner(solo) if append.entries]
    solo.core.propose(b"new", solo.now)
    solo.drain()
    assert to_learner(solo) == []
    solo.ack(R4, first.entries[-1].index)
    (second,) = [append for append in to_learner(solo) if append.entries]
    assert second.prev_index == first.entries[-1].index


def test_a_follower_that_is_behind_gets_whole_windows() -> None:
    solo = leader_with_old_log()
    solo.take(AppendRequest)
    solo.ack(R3, 1)
    sent = [append for append in solo.take(AppendRequest) if append.receiver == R3]
    assert sum(len(append.entries) for append in sent) == OLD
    assert not any(append.is_catch_up for append in sent)


def test_a_learner_that_becomes_a_voter_waits_for_nothing_any_more() -> None:
    solo = leader_with_learner()
    (first,) = [append for append in to_learner(solo) if append.entries]
    solo.core.propose_config((R1, R2, R4), (), solo.now)
    solo.drain()
    solo.ack(R4, first.entries[-1].index)
    sent = to_learner(solo)
    assert sent[-1].entries[-1].index == solo.core.last_index, "all that it lacks"
    assert not any(append.is_catch_up for append in sent)


def test_who_needs_less_than_an_election_timeout_for_what_is_new_keeps_up() -> None:
    solo = leader_with_learner()

    def keeps_up() -> bool:
        return next(p.keeps_up for p in solo.core.status(solo.now).progress if p.replica == R4)

    solo.ack(R4)
    assert not keeps_up(), "that was what is old, in however long a time"
    for _ in range(100):
        solo.core.propose(b"new", solo.now)
    solo.drain()
    first = solo.core.last_index
    solo.core.propose(b"newer", solo.now)
    solo.drain()
    slow_s = solo.core._state.options.election_timeout_s_min * 1.5
    solo.now += slow_s
    solo.ack(R4, first)
    assert not keeps_up(), "too slow"
    for _ in range(3):
        end = solo.core.last_index
        for _ in range(100):
            solo.core.propose(b"more and more", solo.now)
        solo.drain()
        solo.now += 0.1
        solo.ack(R4, end)
    assert keeps_up(), "always a hundred entries behind, and never long"
    solo.now += slow_s
    assert not keeps_up(), "it has stopped"


def test_what_a_newcomer_lacks_behind_its_snapshot_is_kept_for_it() -> None:
    solo = Solo(options=RaftConfig(log_bytes_max=10_000, uncommitted_bytes_max=1 << 20))
    solo.lead(R2)
    solo.ack(R2)
    solo.core.propose_config((R1, R2, R3), (R4,), solo.now)
    solo.drain()
    solo.ack(R2)
    solo.ack(R4)
    had = solo.core.last_index
    for _ in range(60):
        solo.core.propose(bytes(1000), solo.now)
        solo.drain()
        solo.ack(R2)
    log = solo.core._state.log
    assert log.bytes > 2 * 10_000
    assert log.base_index <= had
    for _ in range(60):
        solo.core.propose(bytes(1000), solo.now)
        solo.drain()
        solo.ack(R2)
    assert log.base_index > had, "but not without bound"
