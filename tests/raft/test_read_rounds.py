"""Whom a leader asks before it serves reads, when it asks the others, and what is enough."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import Cluster
from raft_solo import R1, R2, R3, R4, R5, Solo, led

from kvstore.config import RaftConfig
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
)
from kvstore.raft.quorum import VoteResult, quorum_vote
from kvstore.raft.read_rounds import READ_ROUND_PATIENCE_S
from kvstore.raft.reads import is_beat, next_beat, next_read_round

INTERVAL_S = RaftConfig().heartbeat_interval_s


def ask(solo: Solo, context: int = 7) -> tuple[int, list[ReplicaId]]:
    """The number of the round that a read began, and who was asked."""
    solo.sent.clear()
    solo.core.read_index(context, solo.now)
    solo.drain()
    return round_of(solo)


def round_of(solo: Solo) -> tuple[int, list[ReplicaId]]:
    """The one round that was sent of late."""
    beats = solo.take(Heartbeat)
    (number,) = {beat.read_round for beat in beats} or {0}
    return number, [beat.receiver for beat in beats]


def look(solo: Solo, after_s: float = READ_ROUND_PATIENCE_S) -> tuple[int, list[ReplicaId]]:
    """Whom a look at the timers has asked after so long."""
    solo.sent.clear()
    solo.now += after_s
    solo.core.tick(solo.now)
    solo.drain()
    return round_of(solo)


def beat(solo: Solo, *answering: ReplicaId, after_s: float = 0.0) -> int:
    """Wait for the next beat and let these answer it after so long; its number."""
    solo.sent.clear()
    solo.wait(INTERVAL_S)
    number = max(beat.read_round for beat in solo.take(Heartbeat))
    solo.now += after_s
    for peer in answering:
        solo.beat(peer, number)
    return number


def confirmed(solo: Solo) -> list[int]:
    return [state.context for ready in solo.readies for state in ready.read_states]


# -- as few as may do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voters", "asked"), [(1, []), (2, [R2]), (3, [R2]), (4, [R2, R3]), (5, [R2, R3])]
)
def test_a_round_asks_as_many_as_a_quorum_needs(voters: int, asked: list[ReplicaId]) -> None:
    solo = led(voters=voters)
    number, receivers = ask(solo)
    assert receivers == asked
    for peer in receivers:
        assert confirmed(solo) == []
        solo.beat(peer, number)
    assert confirmed(solo) == [7]


def test_a_learner_is_never_asked_and_proves_nothing() -> None:
    solo = led(learners=(R4,))
    solo.ack(R4)
    number, asked = ask(solo)
    assert asked == [R2]
    assert look(solo) == (number, [R3])
    solo.beat(R4, number)
    assert confirmed(solo) == []
    solo.sent.clear()
    solo.wait(INTERVAL_S)
    beats = solo.take(Heartbeat)
    assert {beat.receiver for beat in beats} == {R2, R3, R4}, "a beat is for all"


def test_leaders_of_many_groups_ask_different_voters() -> None:
    for leader, asked in ((R1, R2), (R2, R3), (R3, R1)):
        cluster = Cluster(1)
        cluster.run(0.1)
        replica = cluster.replicas[leader]
        replica.core.campaign(cluster.now)
        replica.drive()
        cluster.run(1.0)
        replica.core.read_index(1, cluster.now)
        messages = replica.core.ready(cluster.now).messages
        assert [message.receiver for message in messages] == [asked]


def test_both_halves_of_a_joint_configuration_are_asked_and_must_answer() -> None:
    solo = led()
    solo.core.propose_config([R1, R4, R5], [], solo.now)
    solo.drain()
    for peer in (R4, R5):
        solo.ack(peer, 0)
    number, asked = ask(solo)
    assert len(asked) == 2
    old, new = sorted(asked)
    assert (old in (R2, R3), new in (R4, R5)) == (True, True)
    solo.beat(old, number)
    solo.beat(R2 if old == R3 else R3, number)
    assert confirmed(solo) == [], "the new half did not answer"
    solo.beat(new, number)
    assert confirmed(solo) == [7]


def test_one_that_votes_in_both_halves_is_enough_for_both() -> None:
    solo = led()
    solo.core.propose_config([R1, R3, R4], [], solo.now)
    solo.drain()
    solo.ack(R4, 0)
    assert ask(solo)[1] == [R3]


SETS = st.sets(st.integers(1, 7), min_size=1).map(lambda ids: [ReplicaId(i) for i in sorted(ids)])


@given(st.integers(1, 5), SETS, st.permutations([ReplicaId(i) for i in range(2, 8)]))
def test_the_asked_are_a_smallest_quorum_and_only_a_quorum_confirms(
    voters: int, new: list[ReplicaId], order: list[ReplicaId]
) -> None:
    """Whatever the configuration: against every set of fewer, and every order of answers."""
    solo = led(voters=voters)
    if new != list(solo.config.voters):
        solo.core.propose_config(new, [], solo.now)
        solo.drain()
    if solo.core._state.leading is None:
        return  # A leader that removes itself from a group of its own has gone already.
    config = solo.config
    others = sorted({*config.voters, *config.voters_outgoing} - {R1})
    for peer in others:
        solo.step(AppendResponse(peer, R1, Term(solo.core.term), LogIndex(0)))

    def wins(replicas: tuple[ReplicaId, ...]) -> bool:
        votes = dict.fromkeys((R1, *replicas), True)
        return quorum_vote(config, votes) is VoteResult.WON

    number, asked = ask(solo)
    assert wins(tuple(asked))
    assert not asked or not any(map(wins, combinations(others, len(asked) - 1)))
    answered: tuple[ReplicaId, ...] = ()
    for peer in order:
        assert bool(confirmed(solo)) == wins(answered)
        if peer in others:
            solo.beat(peer, number)
            answered = (*answered, peer)
    assert confirmed(solo) == [7]


# -- whoever does not answer -----------------------------------------------------------------------


def test_a_frozen_follower_costs_one_wait_and_is_passed_over_until_it_answers() -> None:
    solo = led()
    beat(solo, R2, R3)
    number, asked = ask(solo)
    assert asked == [R2]
    assert solo.core.reads_due_at == solo.now + READ_ROUND_PATIENCE_S
    assert look(solo, READ_ROUND_PATIENCE_S / 2) == (0, [])
    assert look(solo, READ_ROUND_PATIENCE_S / 2) == (number, [R3])
    assert solo.core.reads_due_at is None, "there is nobody else to ask"
    solo.beat(R3, number)
    assert confirmed(solo) == [7]
    for _ in range(3):
        number, asked = ask(solo, 8)
        assert asked == [R3]
        solo.beat(R3, number)
    beat(solo, R3)
    assert ask(solo)[1] == [R3]
    beat(solo, R3, R2)
    assert ask(solo)[1] == [R3], "it was slow until now"
    for _ in range(60):
        beat(solo, R3, R2)
    assert ask(solo)[1] == [R2]


def test_of_five_the_next_best_takes_the_place_of_a_silent_one() -> None:
    solo = led(voters=5)
    number, asked = ask(solo)
    assert asked == [R2, R3]
    solo.beat(R3, number)
    assert look(solo) == (number, [R4, R5])
    solo.beat(R5, number)
    assert confirmed(solo) == [7]
    assert ask(solo)[1] == [R3, R4]


def test_a_lost_confirmation_is_made_good_by_the_widened_round_or_a_later_one() -> None:
    solo = led()
    ask(solo, 1)
    later, _ = ask(solo, 2)
    solo.beat(R2, later)
    assert confirmed(solo) == [1, 2], "an answer is one to every earlier round"
    ask(solo, 3)
    number = beat(solo)
    solo.beat(R3, number)
    assert confirmed(solo) == [1, 2, 3]


def test_with_everybody_silent_everybody_is_asked_at_once() -> None:
    solo = led(voters=5)
    ask(solo, 1)
    look(solo)
    number, asked = ask(solo, 2)
    assert asked == [R4, R5]
    assert look(solo) == (number, [R2, R3])
    number, asked = ask(solo, 3)
    assert asked == [R2, R3, R4, R5]
    assert solo.core.reads_due_at is None
    assert look(solo) == (0, [])
    solo.beat(R4, number)
    solo.beat(R2, number)
    assert confirmed(solo) == [1, 2, 3]


def test_who_is_known_to_be_dead_is_not_asked() -> None:
    solo = led()
    solo.core.peer_gone(R2, solo.now)
    solo.drain()
    assert ask(solo)[1] == [R3]
    solo.core.peer_connected(R2, solo.now)
    solo.drain()
    assert ask(solo)[1] == [R3], "how far its log is must be found out first"
    beat(solo, R2, R3)
    solo.ack(R2)
    assert ask(solo)[1] == [R2]


def test_who_was_not_heard_for_long_is_not_asked() -> None:
    solo = led()
    for _ in range(8):
        beat(solo, R3)
    assert ask(solo)[1] == [R3]


def test_leadership_lost_while_a_round_is_under_way_fails_its_reads_once() -> None:
    solo = led()
    ask(solo, 1)
    number, _ = look(solo)
    ask(solo, 2)
    solo.heartbeat(R3, term=9)
    solo.step(HeartbeatResponse(R3, R1, Term(1), number), HeartbeatResponse(R3, R1, Term(9), 99))
    assert solo.core.reads_due_at is None
    failed = [context for ready in solo.readies for context in ready.reads_failed]
    assert (failed, confirmed(solo)) == ([1, 2], [])


# -- the quickest ----------------------------------------------------------------------------------


def test_who_answers_beats_much_later_than_another_is_not_asked() -> None:
    solo = led()
    number = beat(solo, R3)
    solo.now += 0.004
    solo.beat(R2, number)
    assert ask(solo)[1] == [R3]


def test_the_choice_does_not_sway_with_small_differences() -> None:
    solo = led()
    for first, second in ((R2, R3), (R3, R2)) * 10:
        number = beat(solo, first, after_s=0.0001)
        solo.now += 0.0005
        solo.beat(second, number)
        assert {tuple(ask(solo)[1]) for _ in range(5)} == {(R2,)}
        solo.beat(R2, number + 20)


# -- what a read round is not ----------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=20))
def test_rounds_rise_and_tell_their_kind(beats: list[bool]) -> None:
    number = 0
    for wanted in beats:
        following = next_beat(number) if wanted else next_read_round(number)
        assert following > number
        assert is_beat(following) == wanted
        number = following


def test_reads_do_not_delay_beats() -> None:
    solo = led()
    for _ in range(4):
        solo.sent.clear()
        for _ in range(round(INTERVAL_S / 0.01)):
            solo.now += 0.01
            solo.core.read_index(1, solo.now)
            solo.core.tick(solo.now)
            solo.drain()
        beats = [beat for beat in solo.take(Heartbeat) if is_beat(beat.read_round)]
        assert [beat.receiver for beat in beats] == [R2, R3]


def test_reads_do_not_disturb_the_failure_detector_of_either_side() -> None:
    solo = led()
    follower = Solo()
    for _ in range(10):
        number = beat(solo, R2)
        follower.now = solo.now
        follower.heartbeat(R2, term=1)
        for _ in range(20):
            solo.now += 0.001
            number, _ = ask(solo)
            solo.beat(R2, number)
            follower.now = solo.now
            follower.step(Heartbeat(R2, R1, Term(1), LogIndex(0), number))
    (progress, _) = solo.core.status(solo.now + INTERVAL_S * 0.9).progress
    assert progress.phi < 1.0, "the next beat is not late yet"
    silence_s = follower.core._state.arrivals.silence_at(8.0)
    assert silence_s > INTERVAL_S


def test_an_append_under_way_is_not_taken_for_lost_because_reads_are_many() -> None:
    solo = led()
    solo.core.propose(b"x", solo.now)
    solo.drain()
    for context in range(5):
        number, _ = ask(solo, context)
        solo.beat(R2, number)
        assert solo.take(AppendRequest) == [], "it was sent once"
    for _ in range(2):
        solo.sent.clear()
        beat(solo, R2)
    (asks,) = [append for append in solo.take(AppendRequest) if append.receiver == R2]
    assert asks.entries == (), "after two beats it is asked about"
