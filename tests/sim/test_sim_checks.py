"""What the checks of the simulator are to notice, shown to each alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvstore.ids import GroupId, LogIndex, ReplicaId, Term
from kvstore.net.transport import Lane
from kvstore.raft.messages import (
    AppendResponse,
    EntryKind,
    Heartbeat,
    SnapshotResponse,
    VoteResponse,
)
from kvstore.storage import records
from kvstore.storage.replay import LogEntry, Mark, RecoveredLog
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import encode_messages
from sim.checks import Checks
from sim.durable import Durable
from sim.network import Conditions, Network
from sim.run import Run, run_seed, run_seed_twice_at_times
from sim.world import Violation, World

if TYPE_CHECKING:
    from kvstore.raft.messages import Message

GROUP = GroupId(1)
VOTER, CANDIDATE = ReplicaId(2), ReplicaId(1)


def durable() -> Durable:
    """Term 3, a vote for replica 1, entries 1 to 3 of terms 1, 2, 3."""
    disk = Durable()
    disk.take(records.encode_hard_state(GROUP, Term(3), CANDIDATE))
    for index in (1, 2, 3):
        disk.take(records.encode_entry(GROUP, LogIndex(index), Term(index), EntryKind.COMMAND, b""))
    return disk


def recovered(term: int, vote: int, terms: dict[int, int], mark: int = 0) -> RecoveredLog:
    entries = [LogEntry(index, entry_term, 0, b"") for index, entry_term in terms.items()]
    marked = Mark(mark, mark, b"") if mark else None
    return RecoveredLog(
        term=term, vote=vote, mark=marked, entries=entries, end=max(terms, default=0)
    )


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        (recovered(3, 1, {1: 1, 2: 2, 3: 3}), ""),
        (recovered(4, 2, {1: 1, 2: 2, 3: 3, 4: 4}), ""),
        (recovered(3, 1, {3: 3}, mark=2), ""),
        (recovered(4, 0, {1: 1, 2: 4}), ""),
        (recovered(2, 0, {1: 1, 2: 2, 3: 3}), "term 2 and vote 0"),
        (recovered(3, 0, {1: 1, 2: 2, 3: 3}), "term 3 and vote 0"),
        (recovered(3, 2, {1: 1, 2: 2, 3: 3}), "term 3 and vote 2"),
        (recovered(3, 1, {1: 1, 2: 2}), "no entry 3"),
        (recovered(3, 1, {1: 1, 2: 1, 3: 3}), "no entry 2"),
        (recovered(3, 1, {}), "no entry 1"),
    ],
)
def test_a_start_is_held_against_what_was_durable(found: RecoveredLog, lost: str) -> None:
    told = durable().lost_in(Durable.of(found, (0, 0)))
    assert told.startswith(lost)
    assert bool(told) == bool(lost)


def test_an_engine_ahead_of_the_whole_log_stands_for_it() -> None:
    found = Durable.of(recovered(3, 1, {1: 1, 2: 2}), (5, 3))
    assert not durable().lost_in(found)
    assert found.reaches(5)


def test_a_second_vote_in_a_term_is_noticed() -> None:
    with pytest.raises(Violation, match="votes for 1 and for 2 in term 3"):
        durable().take(records.encode_hard_state(GROUP, Term(3), VOTER))


@pytest.mark.parametrize(
    "promise",
    [
        VoteResponse(VOTER, CANDIDATE, Term(1), granted=True, pre_vote=False),
        AppendResponse(VOTER, CANDIDATE, Term(0), LogIndex(1)),
        AppendResponse(VOTER, CANDIDATE, Term(1), LogIndex(0)),
        SnapshotResponse(VOTER, CANDIDATE, Term(0), LogIndex(1), 1, 0, installed=True),
    ],
)
def test_no_promise_leaves_before_the_disk_has_it(
    promise: VoteResponse | AppendResponse | SnapshotResponse,
) -> None:
    with pytest.raises(Violation):
        Checks().sent(Run(7_000).nodes[0], [(GROUP, promise)])


@pytest.mark.parametrize("is_holding", [True, False], ids=["holding", "dropping"])
def test_a_cut_link_drops_or_holds_what_is_sent_across_it(
    is_holding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(7_000)
    run.network.conditions = Conditions()
    source, target, *_ = run.nodes
    for node in (source, target):
        node.start()
    heard: list[Message] = []
    monkeypatch.setattr(
        target.driver, "receive", lambda _, told: heard.extend(message for _, message in told)
    )
    beat = Heartbeat(CANDIDATE, VOTER, Term(0), LogIndex(0), read_round=77)
    frame = encode_frame(Kind.RAFT, 0, encode_messages([(GROUP, beat)]))
    links = [(source.id, target.id)]
    run.network.cut(links, is_holding=is_holding)
    run.network.send(source, target.id, Lane.CONTROL, frame)
    run.world.run(1.0)
    assert beat not in heard
    run.network.mend(links)
    run.world.run(1.0)
    assert heard.count(beat) == is_holding
    run.network.send(source, target.id, Lane.CONTROL, frame)
    run.world.run(1.0)
    assert heard.count(beat) == is_holding + 1


def test_two_cuts_need_two_mends() -> None:
    network = Network(World(1), Conditions())
    links = [("n1", "n2")]
    network.cut(links, is_holding=False)
    network.cut(links, is_holding=False)
    network.mend(links)
    assert network.is_cut("n1", "n2")
    assert not network.is_cut("n2", "n1")
    network.mend(links)
    assert not network.is_cut("n1", "n2")


def test_a_sleeping_clock_stands_still_and_never_runs_backwards() -> None:
    run = Run(7_000)
    node = run.nodes[0]
    node.start()
    run.world.run(1.0)
    before = node.clock()
    node.fall_asleep()
    node.stand_still(5.0)
    run.world.run(4.9)
    run.world.run(0.2)
    assert before <= node.clock() < before + 1.0


def test_what_falls_due_in_a_pause_comes_when_it_ends_however_that_is() -> None:
    run = Run(7_000)
    node = run.nodes[0]
    node.start()
    ran_at: list[float] = []
    node.stand_still(5.0)
    node.later(1.0, lambda: ran_at.append(run.world.now))
    run.world.run(2.0)
    assert ran_at == []
    node.go_on()
    run.world.run(0.0)
    assert ran_at == [2.0]
    node.stand_still(5.0)
    node.stand_still(1.0)
    node.later(0.5, lambda: ran_at.append(run.world.now))
    run.world.run(6.0)
    assert ran_at == [2.0, 7.0]


def test_a_seed_that_does_not_repeat_itself_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_seed_twice_at_times(7_040).failure
    results = [run_seed(7_040), run_seed(7_041)]
    monkeypatch.setattr("sim.run.run_seed", lambda _: results.pop())
    assert "does not repeat itself" in run_seed_twice_at_times(7_040).failure
