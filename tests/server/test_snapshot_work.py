"""Snapshots between the core, a thread and the disk, at every point where it can go wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from server_support import NODES, OWN, FakeEngine, Rig, command, settle
from snapshot_rig import TWO, Work, chunk, engine_at_50, streamed, work_on

from kvstore.config import RaftConfig
from kvstore.errors import CorruptionError, DiskFull, Internal
from kvstore.ids import GroupId, LogIndex, ReplicaId, ShardId, Term
from kvstore.kv.applied import applied_key
from kvstore.kv.engine import Space, space_prefix
from kvstore.kv.state_machine import StateMachine
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatResponse,
    SnapshotChunk,
    SnapshotResponse,
    VoteResponse,
)
from kvstore.storage import records
from kvstore.storage.records import RecordType
from kvstore.storage.snapshots import SnapshotStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
async def work(tmp_path: Path) -> Work:
    return work_on(Rig(), tmp_path)


@pytest.fixture(scope="module")
def stream() -> bytes:
    """A shard after 50 entries, as it is sent."""
    return streamed(engine_at_50())


# -- receiving -----------------------------------------------------------------------------------


async def test_a_snapshot_is_staged_installed_marked_and_in_force(
    work: Work, stream: bytes
) -> None:
    rig, host = work.rig, work.rig.host
    rig.hear(chunk(stream[:100], is_last=False))
    await work.run()
    assert work.responses() == [(100, False, False)]
    assert not host.installing
    rig.hear(chunk(stream[100:], 100))
    await settle()
    assert host.installing
    await work.run()
    assert work.responses()[-1][1], "installed"
    assert not host.installing
    assert host.machine.get_many([b"k"]) == [(b"50", 50)]
    assert (host.core.applied_index, host.core.last_index) == (50, 50)
    marks = [append.records for append in rig.log.appends if append.records][-1]
    assert [records.peek(each)[::2][0:2] for each in marks] == [
        (RecordType.TRUNCATION, 51),
        (RecordType.MARK, 50),
    ]
    (left,) = work.storage._directory.iterdir()
    assert left.name.endswith(".installed")


async def test_what_an_older_leader_sent_is_counted_in_the_thread(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large shard that takes seconds, for which the loop must not stand still."""
    older = engine_at_50()
    into, key = older.batch(), applied_key(ShardId(0))
    into.put(key, b"\x01" + older.get(key)[1:33])
    older.write(into)
    rig, scanned = work.rig, []
    scan = rig.engine.scan

    def watched_scan(start: bytes, *rest: Any) -> list[tuple[bytes, bytes]]:
        if start.startswith(space_prefix(ShardId(0), Space.DATA)):
            scanned.append(work.threads.is_running)
        return scan(start, *rest)

    monkeypatch.setattr(rig.engine, "scan", watched_scan)
    rig.hear(chunk(streamed(older)))
    await work.run()
    assert rig.host.core.applied_index == 50
    assert (rig.host.machine.keys, rig.host.machine.size_bytes) == (1, 3)
    assert scanned
    assert all(scanned)
    assert streamed(rig.engine) == stream


async def test_the_log_goes_on_behind_it(work: Work, stream: bytes) -> None:
    rig = work.rig
    rig.hear(chunk(stream))
    await work.run()
    entry = command(51)
    rig.hear(AppendRequest(TWO, OWN, Term(1), LogIndex(50), Term(1), (entry,), LogIndex(51)))
    await settle()
    assert rig.host.machine.applied_index == 51


async def test_nothing_is_in_force_before_the_log_says_so_durably(
    work: Work, stream: bytes
) -> None:
    rig = work.rig
    rig.hear(chunk(stream[:9], is_last=False))
    await work.run()
    rig.log.is_prompt = False
    rig.hear(chunk(stream[9:], 9))
    await work.run()
    assert rig.host.installing
    assert rig.host.core.applied_index == 0
    rig.log.become_durable()
    await work.run()
    rig.log.become_durable()
    await work.run()
    assert rig.host.core.applied_index == 50
    assert not rig.host.installing


async def test_a_piece_that_cannot_be_stored_ends_the_attempt(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(work.storage, "stage", full)
        work.rig.hear(chunk(stream))
        await work.run()
    assert work.responses() == [(0, False, True)]
    assert not work.rig.host.installing
    assert work.rig.fatal == []
    work.rig.hear(chunk(stream, transfer=8))
    await work.run()
    assert work.rig.host.machine.applied_index == 50


async def test_what_is_not_finished_takes_no_room_for_ever(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, directory = work.rig, work.storage._directory
    looks: list[tuple[float, Callable[[], None]]] = []

    def later(delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        if delay_s > 1:
            looks.append((delay_s, lambda: call(*arguments)))

    with monkeypatch.context() as patched:
        patched.setattr(rig.driver.loop, "call_later", later)
        rig.hear(chunk(stream[:100], is_last=False))
        await work.run()
        rig.now += 40
        rig.hear(chunk(stream[100:120], 100, is_last=False))
        await work.run()
        rig.now += 20
        looks[0][1]()
        await work.run()
        assert [delay_s for delay_s, _ in looks] == [60, 40], "of one, and again from the last on"
        assert list(directory.iterdir())
        rig.now += 40
        looks[1][1]()
        await work.run()
    assert list(directory.iterdir()) == []
    rig.hear(chunk(stream[120:], 120))
    await work.run()
    assert work.responses()[-1] == (0, False, True), "begin anew"
    rig.hear(chunk(stream, transfer=8))
    await work.run()
    assert rig.host.machine.applied_index == 50
    looks[1][1]()
    assert not work.threads.work, "of what is in force nothing is given up"


async def test_a_damaged_stream_ends_the_attempt(work: Work, stream: bytes) -> None:
    work.rig.hear(chunk(stream[:-1] + bytes([stream[-1] ^ 1])))
    await work.run()
    assert work.responses() == [(0, False, True)]
    assert (work.rig.fatal, work.rig.host.installing) == ([], False)


async def test_a_late_failure_of_an_old_attempt_does_not_open_the_door_of_a_new_one(
    work: Work, stream: bytes
) -> None:
    rig, host = work.rig, work.rig.host
    rig.hear(chunk(b"junk", is_last=False))
    await work.run()
    rig.hear(chunk(b"more", 4, is_last=False))
    await settle()
    ((late, _),) = work.threads.work
    work.threads.work.clear()
    rig.hear(chunk(stream, transfer=9, term=2))
    await settle()
    assert host.installing
    late.set_exception(Internal("too late"))
    await settle()
    assert host.installing
    await work.run()
    assert host.machine.applied_index == 50


async def test_nor_does_one_of_its_last_piece(work: Work, stream: bytes) -> None:
    rig, host = work.rig, work.rig.host
    rig.hear(chunk(stream[:100], is_last=False))
    rig.hear(chunk(stream[100:], 100))
    await settle()
    (first, _), (last, _) = work.threads.work
    work.threads.work.clear()
    first.set_exception(DiskFull("no room"))
    await settle()
    rig.hear(chunk(stream, transfer=9))
    await settle()
    assert host.installing
    last.set_exception(Internal("it does not follow"))
    await settle()
    assert host.installing
    await work.run()
    assert (host.machine.applied_index, host.installing) == (50, False)


async def test_an_installation_that_fails_ends_the_node(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = CorruptionError("damaged", file="f", offset=0)

    def broken(*_: object) -> Iterator[int]:
        yield 10
        raise error

    monkeypatch.setattr(work.storage, "installation", broken)
    work.rig.hear(chunk(stream))
    await work.run()
    assert work.rig.fatal == [error]
    assert work.rig.host.installing, "half replaced: nothing is served"


async def test_an_installation_waits_for_a_write_that_the_engine_holds_up(
    work: Work, stream: bytes
) -> None:
    rig, host = work.rig, work.rig.host
    first = command(1)
    rig.hear(AppendRequest(TWO, OWN, Term(1), LogIndex(0), Term(0), (first,), LogIndex(1)))
    rig.engine.fill()
    await settle()
    assert rig.engine_full == [True]
    rig.hear(chunk(stream))
    await work.run()
    rig.engine.failing = None  # the installation could go ahead, the old write is yet to come
    await work.run()
    assert host.installing
    rig.driver.guarded(rig.driver._applier.retry_write)
    await work.run()
    assert host.machine.applied_index == host.core.applied_index == 50
    assert host.machine.get_many([b"k"]) == [(b"50", 50)]


async def test_a_core_that_breaks_on_the_news_ends_the_node(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("broken")

    unheard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    monkeypatch.setattr(work.rig.host.core, "snapshot_written", broken)
    work.rig.hear(chunk(stream))
    await work.run()
    assert [type(error) for error in work.rig.fatal] == [AssertionError]


async def test_after_stop_what_was_under_way_ends_quietly(work: Work, stream: bytes) -> None:
    rig = work.rig
    rig.hear(chunk(stream))
    await settle()
    work.threads.run()
    await settle()
    work.threads.run()  # installed; the log's word is still to come
    rig.driver.stop()
    await work.run()
    assert rig.fatal == []
    assert rig.host.core.applied_index == 0


async def test_after_stop_the_logs_word_is_not_acted_upon(work: Work, stream: bytes) -> None:
    rig = work.rig
    rig.hear(chunk(stream[:9], is_last=False))
    await work.run()
    rig.log.is_prompt = False
    rig.hear(chunk(stream[9:], 9))
    await work.run()
    rig.driver.stop()
    while rig.log.held:
        rig.log.become_durable()
        await settle()
    assert not work.threads.work, "the thread is gone by now"
    assert (rig.host.installing, rig.host.core.applied_index) == (True, 0)


async def test_remains_that_cannot_be_removed_cost_only_room(
    work: Work, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(work.storage, "discard", broken)
    work.rig.hear(chunk(stream))
    await work.run()
    assert work.rig.fatal == []
    assert work.rig.host.core.applied_index == 50


# -- sending -------------------------------------------------------------------------------------


@pytest.fixture
async def sender(tmp_path: Path) -> Work:
    """A leader whose replica 2 lacks what is compacted away."""
    return await sending_work(tmp_path)


async def sending_work(tmp_path: Path, bytes_per_s_max: int = 1 << 30) -> Work:
    config = RaftConfig(log_bytes_max=2000, snapshot_chunk_bytes=600)
    work = work_on(Rig(config=config), tmp_path, bytes_per_s_max)
    rig = work.rig
    rig.host.core.campaign(rig.now)
    await lead_with(rig, ReplicaId(3))
    for number in range(40):
        rig.write(b"%d" % number, bytes(200))
        await rig.acknowledge(by=ReplicaId(3))
    assert rig.host.core.status(rig.now).first_index > 1
    return work


async def lead_with(rig: Rig, voter: ReplicaId) -> None:
    rig.driver.wake(rig.host)
    await settle()
    for pre_vote in (True, False):
        term = Term(rig.host.core.term + pre_vote)
        rig.hear(VoteResponse(voter, OWN, term, True, pre_vote))
        await settle()
    await rig.acknowledge(by=voter)


async def ask_for_snapshot(
    work: Work, replica: ReplicaId = TWO, lacks: LogIndex = LogIndex(1)
) -> None:
    """``replica`` is there, and has nothing of what was sent behind entry ``lacks``."""
    rig = work.rig
    term = rig.host.core.term
    rig.hear(HeartbeatResponse(replica, OWN, term, 1))
    rig.hear(AppendResponse(replica, OWN, term, LogIndex(0), True, lacks, LogIndex(0), Term(0)))
    await settle()


async def newcomer_asks(work: Work) -> None:
    """A learner comes, which has nothing."""
    rig, learner = work.rig, ReplicaId(4)
    host = rig.host
    host.replicas = {**NODES}  # type: ignore[assignment]  a mapping is all that it takes
    before = host.core.last_index
    host.core.propose_config(host.core.config.voters, (learner,), rig.now)
    rig.driver.wake(host)
    await rig.acknowledge(by=ReplicaId(3))
    await ask_for_snapshot(work, learner, before)


def chunks(work: Work) -> list[SnapshotChunk]:
    return [c for c in work.rig.peers.messages(SnapshotChunk) if isinstance(c, SnapshotChunk)]


async def send_all(work: Work) -> list[SnapshotChunk]:
    for _ in range(100):
        await work.run()
        sent = chunks(work)
        if sent and sent[-1].is_last:
            break
        for each in sent[-1:]:
            end = each.offset + len(each.data)
            work.rig.hear(
                SnapshotResponse(TWO, OWN, each.term, each.meta.index, each.transfer, end)
            )
    return chunks(work)


async def test_a_snapshot_is_read_and_sent_in_pieces(sender: Work) -> None:
    await ask_for_snapshot(sender)
    assert len(sender.threads.work) == 1, "one piece at a time, off the loop"
    sent = await send_all(sender)
    assert len(sent) > 2
    assert {each.meta.index for each in sent} == {sender.rig.host.core.applied_index}
    receiver = FakeEngine()
    into = SnapshotStorage(receiver, sender.storage._directory / "other")
    for each in sent:
        into.stage(GroupId(1), each.meta, each.offset, each.data, each.is_last)
    into.install(GroupId(1), ShardId(0))
    copy = StateMachine(ShardId(0), receiver, owns=lambda key: True)
    assert copy.applied_index == sent[0].meta.index
    assert copy.get_many([b"39"]) == sender.rig.host.machine.get_many([b"39"])


async def test_it_holds_the_state_of_its_beginning(sender: Work) -> None:
    await ask_for_snapshot(sender)
    sender.threads.run()
    await settle()
    rig = sender.rig
    at = rig.host.core.applied_index
    rig.write(b"39", b"later")
    await rig.acknowledge(by=ReplicaId(3))
    sent = await send_all(sender)
    assert {each.meta.index for each in sent} == {at}
    assert b"later" not in b"".join(each.data for each in sent)


async def second_piece_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Work, float, Callable[[], None]]:
    """A newcomer's first piece is sent; for how long the next one waits, and how it begins."""
    sender = await sending_work(tmp_path, bytes_per_s_max=200)
    waits: list[tuple[float, Callable[[], None]]] = []
    await newcomer_asks(sender)
    with monkeypatch.context() as patched:
        loop = sender.rig.driver.loop
        patched.setattr(loop, "call_later", lambda delay, begin: waits.append((delay, begin)))
        await sender.run()
    ((delay_s, begin),) = waits
    return sender, delay_s, begin


async def test_the_second_piece_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, delay_s, begin = await second_piece_waits(tmp_path, monkeypatch)
    assert delay_s == 600 / 200
    assert len(chunks(sender)) == 1
    begin()
    await sender.run()
    assert len(chunks(sender)) == 2


async def test_a_piece_whose_transfer_ended_while_it_waited_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _, begin = await second_piece_waits(tmp_path, monkeypatch)
    await sender.rig.depose()
    await sender.run()
    begin()
    assert not sender.threads.work
    assert sender.transfers._pace.reserve(1, sender.rig.now) <= 600 / 200, "its turn is given back"


async def test_a_piece_that_waited_when_the_node_stopped_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _, begin = await second_piece_waits(tmp_path, monkeypatch)
    sender.rig.driver.stop()
    begin()
    assert not sender.threads.work, "the thread is gone by now"


async def test_a_voter_that_comes_back_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = await sending_work(tmp_path, bytes_per_s_max=200)
    await ask_for_snapshot(sender)
    loop = sender.rig.driver.loop
    waits: list[float] = []
    monkeypatch.setattr(loop, "call_later", lambda delay, *_: waits.append(delay))
    await sender.run()
    assert len(chunks(sender)) > 1
    assert waits == []


async def test_a_reader_is_closed_with_its_transfer(sender: Work) -> None:
    await ask_for_snapshot(sender)
    await sender.run()
    assert len(sender.transfers._readers) == 1
    ((reader, _),) = sender.transfers._readers.values()
    sender.rig.now += 7.0
    assert sender.transfers.oldest_s() == 7.0
    await sender.rig.depose()
    await sender.run()
    assert not sender.transfers._readers
    assert sender.transfers.oldest_s() == 0.0
    with pytest.raises(Internal):
        reader.read(0, 1)


async def read_fails(sender: Work, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    await ask_for_snapshot(sender)
    for reader, _ in sender.transfers._readers.values():
        monkeypatch.setattr(reader, "read", broken)
    await sender.run()


async def test_damaged_data_stops_the_node(sender: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    damage = CorruptionError("damaged", file="f", offset=0)
    await read_fails(sender, damage, monkeypatch)
    assert sender.rig.fatal == [damage]
    assert chunks(sender) == []


async def test_a_piece_that_cannot_be_read_ends_the_attempt(
    sender: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read_fails(sender, Internal("closed"), monkeypatch)
    assert chunks(sender) == []
    assert not sender.transfers._readers
    assert sender.rig.fatal == []
    (peer,) = [p for p in sender.rig.host.core.status(sender.rig.now).progress if p.replica == TWO]
    assert peer.state == "probe"
