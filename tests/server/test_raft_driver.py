"""The order of a tick's duties: nothing is promised before it is durable, or served too early."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from server_support import NODES, OWN, FakeLog, Rig, command, settle, until

from kvstore.errors import Internal, ProtocolError
from kvstore.ids import GroupId, LogIndex, NodeId, ReplicaId, Term
from kvstore.net.transport import Lane
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    Heartbeat,
    VoteRequest,
    VoteResponse,
)
from kvstore.raft.validation import TERM_JUMP_MAX
from kvstore.server import applying, raft_driver
from kvstore.storage import records
from kvstore.storage.records import RecordType

TWO, THREE = ReplicaId(2), ReplicaId(3)


def append(
    *entries: Entry, prev: int = 0, prev_term: int = 0, term: int = 1, commit: int = 0
) -> AppendRequest:
    return AppendRequest(
        TWO, OWN, Term(term), LogIndex(prev), Term(prev_term), entries, LogIndex(commit)
    )


def vote_request(*, pre_vote: bool) -> VoteRequest:
    return VoteRequest(TWO, OWN, Term(1), LogIndex(0), Term(0), pre_vote, by_transfer=False)


def kinds(log: FakeLog) -> list[list[int]]:
    return [[records.peek(record)[0] for record in each.records] for each in log.appends]


# -- durability ------------------------------------------------------------------------------


async def test_an_append_is_acknowledged_when_durable_and_not_before() -> None:
    rig = Rig()
    rig.log.is_prompt = False
    rig.hear(append(command(1), command(2)))
    await settle()
    assert kinds(rig.log) == [[RecordType.HARD_STATE, RecordType.ENTRY, RecordType.ENTRY]]
    assert rig.peers.messages(AppendResponse) == []
    rig.log.become_durable()
    await settle()
    (response,) = rig.peers.messages(AppendResponse)
    assert response.match_index == 2


async def test_a_leader_sends_before_its_own_write_is_durable_but_does_not_count_it() -> None:
    rig = Rig()
    await rig.lead()
    rig.log.is_prompt = False
    asked = rig.write()
    await settle()
    assert [m for m in rig.peers.messages(AppendRequest) if m.entries and m.receiver == THREE]
    await rig.acknowledge()
    assert asked.answers == 0, "only one of three has it on disk"
    rig.log.become_durable()
    await settle()
    assert asked.answers == 1


async def test_nothing_is_applied_before_it_is_durable_here() -> None:
    rig = Rig()
    rig.log.is_prompt = False
    rig.hear(append(command(1), commit=1))
    await settle()
    assert rig.engine.writes == 0
    rig.log.become_durable()
    await settle()
    assert rig.host.machine.applied_index == 1


async def test_a_vote_leaves_and_counts_only_when_durable() -> None:
    rig = Rig(voters=1)
    rig.log.is_prompt = False
    rig.host.core.campaign(rig.now)
    rig.driver.wake(rig.host)
    await settle()
    assert not rig.host.is_leader
    rig.log.become_durable()
    await settle()
    assert rig.host.is_leader, "its own vote came back to it"


async def test_a_granted_vote_is_held_until_it_is_durable() -> None:
    rig = Rig()
    rig.log.is_prompt = False
    rig.hear(vote_request(pre_vote=False))
    await settle()
    assert rig.peers.messages(VoteResponse) == []
    rig.log.become_durable()
    await settle()
    assert [vote.granted for vote in rig.peers.messages(VoteResponse)] == [True]


# -- one of each per tick ----------------------------------------------------------------------


async def test_one_log_batch_one_engine_write_and_one_frame_per_peer_for_many_shards() -> None:
    rig = Rig(shards=4)
    for host in rig.hosts.values():
        await rig.lead(host)
        await rig.acknowledge(host, by=THREE)
    rig.log.appends.clear()
    rig.peers.frames.clear()
    writes_before = rig.engine.writes
    asked = [rig.write(host=host) for host in rig.hosts.values()]
    await settle()
    assert kinds(rig.log) == [[RecordType.ENTRY] * 4]
    data = [peer for peer, lane, _ in rig.peers.frames if lane is Lane.DATA]
    assert sorted(data) == [NODES[TWO], NODES[THREE]]
    rig.driver.receive(
        NODES[TWO],
        [
            (group, AppendResponse(TWO, OWN, host.core.term, host.core.last_index))
            for group, host in rig.hosts.items()
        ],
    )
    await settle()
    assert rig.engine.writes == writes_before + 1
    assert [each.answers for each in asked] == [1, 1, 1, 1]


async def test_messages_of_a_group_or_sender_that_does_not_belong_here_are_dropped() -> None:
    rig = Rig()
    beat = Heartbeat(TWO, OWN, Term(9), LogIndex(0), 1)
    rig.driver.receive(NODES[TWO], [(GroupId(77), beat)])
    rig.driver.receive(NODES[THREE], [(GroupId(1), beat)])
    rig.driver.receive(NodeId("n9"), [(GroupId(1), beat)])
    await settle()
    assert rig.host.core.term == 0
    rig.driver.receive(NODES[TWO], [(GroupId(1), beat)])
    await settle()
    assert rig.host.core.term == 9


@pytest.mark.parametrize(
    "message",
    [
        append(Entry(LogIndex(1), Term(1), EntryKind.COMMAND, b"garbage")),
        append(Entry(LogIndex(1), Term(1), EntryKind.CONFIG, b"garbage")),
        append(command(1, term=2), command(2, term=1), term=2),
        append(command(1, term=3), term=2),
        append(command(2, term=1), prev=1, prev_term=2, term=3),
        Heartbeat(TWO, OWN, Term(1 << 63), LogIndex(0), 1),
    ],
    ids=["command", "config", "terms fall", "from the future", "before prev", "term"],
)
async def test_a_message_that_no_correct_replica_sends_is_refused_and_harms_nobody(
    message: AppendRequest | Heartbeat,
) -> None:
    rig = Rig()
    with pytest.raises(ProtocolError):
        rig.driver.receive(NODES[TWO], [(GroupId(1), message)])
    await settle()
    assert rig.fatal == []
    assert (rig.host.core.term, rig.host.core.last_index) == (0, 0)
    rig.hear(append(command(1), commit=1))
    await settle()
    assert rig.host.machine.applied_index == 1


async def test_a_term_that_no_group_gets_to_is_dropped_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    absurd = Heartbeat(TWO, OWN, Term(TERM_JUMP_MAX + 1), LogIndex(0), 1)
    for _ in range(3):
        rig.driver.receive(NODES[TWO], [(GroupId(1), absurd)])
    await settle()
    assert rig.host.core.term == 0
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "n2 speaks of term 1048577, and we are in term 0" in said[0]
    rig.driver.receive(NODES[TWO], [(GroupId(1), replace(absurd, term=Term(TERM_JUMP_MAX)))])
    await settle()
    assert rig.host.core.term == TERM_JUMP_MAX, "a newcomer may be far behind"


async def test_a_lost_lane_makes_a_leader_probe_again_without_spinning() -> None:
    rig = Rig()
    await rig.lead()
    rig.peers.is_up = False
    rig.write()
    await settle()
    states = {peer.state for peer in rig.host.core.status(rig.now).progress}
    assert states == {"probe"}
    assert not rig.driver._dirty


# -- a full disk -------------------------------------------------------------------------------


async def test_a_full_engine_is_tried_again_while_reads_go_on() -> None:
    rig = Rig(shards=2)
    first, second = rig.hosts.values()
    for host in (first, second):
        await rig.lead(host)
    rig.engine.fill()
    asked, read = rig.write(host=first), rig.read(host=second)
    await rig.acknowledge(first)
    await rig.confirm()
    assert rig.engine_full == [True]
    assert (asked.answers, read.answers) == (0, 1)
    late = rig.read(host=first)
    await rig.confirm()
    assert late.answers == 0, "its index is beyond what is applied"
    rig.engine.failing = None
    rig.driver.guarded(rig.driver._applier.retry_write)
    await settle()
    assert rig.engine_full == [True, False]
    assert (asked.answers, late.answers) == (1, 1)


async def test_reads_are_served_in_the_very_tick_in_which_the_engine_fills_up() -> None:
    rig = Rig(shards=2)
    first, second = rig.hosts.values()
    for host in (first, second):
        await rig.lead(host)
    read = rig.read(host=second)
    asked = rig.write(host=first)
    await settle()
    rig.engine.fill()
    rig.hear(AppendResponse(TWO, OWN, first.core.term, first.core.last_index), first)
    rig.hear_confirmations()
    await settle()
    assert (asked.answers, read.answers) == (0, 1)


async def test_waiting_for_the_engine_does_not_keep_the_loop_busy() -> None:
    rig = Rig()
    rig.engine.fill()
    rig.hear(append(command(1), commit=1))
    await settle()
    rig.hear(append(command(2), prev=1, prev_term=1, commit=2))
    await settle()
    assert rig.host.to_apply
    assert not rig.driver._dirty


async def test_waiting_for_a_snapshot_does_not_keep_the_loop_busy() -> None:
    rig = Rig()
    rig.host.begin_install()
    rig.hear(append(command(1), commit=1))
    await settle()
    assert rig.host.to_apply
    assert not rig.driver._dirty
    assert rig.host.machine.applied_index == 0


async def test_what_the_engine_cannot_take_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_driver, "BACKLOG_BYTES_MAX", 1000)
    rig = Rig()
    rig.engine.fill()
    for index in range(1, 21):
        prev_term = 1 if index > 1 else 0
        entry = command(index, value=bytes(200))
        rig.hear(append(entry, prev=index - 1, prev_term=prev_term, commit=index))
        await settle()
    assert rig.host.core.last_index < 10
    rig.engine.failing = None
    rig.driver.guarded(rig.driver._applier.retry_write)
    await settle()
    last = rig.host.core.last_index
    assert rig.host.machine.applied_index == last
    rig.hear(append(command(last + 1), prev=last, prev_term=1, commit=last + 1))
    await settle()
    assert rig.host.machine.applied_index == last + 1


async def test_what_is_applied_in_a_tick_is_shared_by_the_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applying, "APPLY_BYTES_MAX", 1000)
    rig = Rig(shards=2)
    busy, other = rig.hosts.values()
    for host in (busy, other):
        host.commit([command(index, value=bytes(500)) for index in range(1, 50)])
    applied = applying._Applied(rig.engine.batch())
    rig.driver._applier._gather([busy, other], applied)
    assert applied.last == {busy: 1, other: 1}, "half of the bound each, though one came first"


async def test_a_full_log_lets_votes_pass_what_waits() -> None:
    rig = Rig()
    rig.log.is_prompt, rig.log.disk_full = False, True
    rig.hear(vote_request(pre_vote=True))
    await settle()
    rig.hear(vote_request(pre_vote=False))
    await settle()
    assert [each.urgent for each in rig.log.appends] == [True, True]


async def test_a_vote_given_again_waits_for_its_first_writing() -> None:
    rig = Rig()
    rig.log.is_prompt = False
    request = VoteRequest(
        TWO, OWN, Term(1), LogIndex(0), Term(0), pre_vote=False, by_transfer=False
    )
    rig.hear(request)
    await settle()
    rig.log.disk_full = True
    rig.hear(request)
    await settle()
    assert [each.urgent for each in rig.log.appends] == [False, False]


async def test_entries_never_pass_what_waits() -> None:
    rig = Rig()
    rig.log.is_prompt, rig.log.disk_full = False, True
    rig.hear(append(command(1)))
    await settle()
    assert [each.urgent for each in rig.log.appends] == [False]


# -- ends --------------------------------------------------------------------------------------


async def test_an_engine_that_fails_otherwise_ends_the_node_and_answers_nothing() -> None:
    unheard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    rig = Rig()
    await rig.lead()
    rig.engine.failing = Internal("the disk is broken")
    asked = rig.write()
    await rig.acknowledge()
    assert rig.fatal == [rig.engine.failing]
    assert asked.answers == 0
    rig.driver.wake(rig.host)
    await settle()
    assert len(rig.fatal) == 1


@pytest.mark.parametrize("event", ["peer_connected", "peer_gone", "messages_dropped"])
async def test_news_of_a_peer_that_breaks_a_core_ends_the_node(
    event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()

    def broken(*_: object) -> None:
        raise AssertionError("broken")

    for name in ("peer_connected", "peer_gone", "peer_unreachable"):
        monkeypatch.setattr(rig.host.core, name, broken)
    with pytest.raises(AssertionError):
        getattr(rig.driver, event)(NODES[TWO])
    assert len(rig.fatal) == 1


async def test_after_stop_nothing_is_written_sent_or_applied() -> None:
    rig = Rig()
    rig.log.is_prompt = False
    rig.hear(append(command(1), commit=1))
    await settle()
    rig.driver.stop()
    rig.log.become_durable()
    rig.hear(append(command(2), prev=1, prev_term=1, commit=2))
    rig.driver.wake(rig.host)
    await settle()
    assert (rig.engine.writes, len(rig.log.appends)) == (0, 1)
    assert rig.peers.messages(AppendResponse) == []


async def test_timers_run_and_requests_become_overdue() -> None:
    rig = Rig()
    await rig.lead()
    asked = rig.write()
    await settle()
    rig.now += 60
    rig.driver.guarded(rig.driver.tick)
    await settle()
    assert asked.answers == 1


async def test_a_dead_peer_is_looked_at_without_waiting_for_the_next_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raft_driver, "TICK_INTERVAL_S", 3600.0)
    rig = Rig()
    rig.hear(Heartbeat(TWO, OWN, Term(1), LogIndex(0), 1))
    await settle()
    running = asyncio.create_task(rig.driver.run())
    await settle()
    assert rig.host.core.is_settled
    rig.driver.peer_gone(NODES[TWO])
    assert not rig.host.core.is_settled
    rig.now += 0.2
    await until(lambda: bool(rig.peers.messages(VoteRequest)))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_only_a_leaderless_group_is_campaigned_for() -> None:
    rig = Rig()
    rig.driver.campaign_if_leaderless(GroupId(1))
    await settle()
    assert len(rig.peers.messages(VoteRequest)) == 2
    rig.hear(Heartbeat(TWO, OWN, Term(1), LogIndex(0), 1))
    await settle()
    rig.driver.campaign_if_leaderless(GroupId(1))
    await settle()
    assert len(rig.peers.messages(VoteRequest)) == 2
