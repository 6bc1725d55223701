"""A replica's checksum at an asked index: exactly there, by leaders and followers alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from server_support import LIMITS, OWN, HeldThreads, Rig, batch, settle, until

from kvstore.errors import CorruptionError, Internal, KVError, Overloaded, Unavailable
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.kv import commands
from kvstore.kv.engine import Space, shard_range, space_prefix
from kvstore.raft.messages import AppendRequest, Entry, EntryKind
from kvstore.server import checksums as module
from kvstore.server.checksums import PENDING_MAX, WAIT_S_MAX, Checksums
from kvstore.storage.digest import ShardDigest
from kvstore.wire.checksums import ChecksumReply, decode_checksum_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.server.shard_host import ShardHost

LEADER = ReplicaId(2)


class Asked:
    """Who asked at ``index``: the one answer it got."""

    def __init__(self, index: int) -> None:
        self.index = LogIndex(index)
        self.is_wanted = True
        self.answers: list[bytes | KVError] = []

    def reply(self, body: bytes) -> None:
        self.answers.append(body)

    def fail(self, error: KVError) -> None:
        self.answers.append(error)

    @property
    def got(self) -> ChecksumReply:
        (answer,) = self.answers
        assert isinstance(answer, bytes), answer
        return decode_checksum_reply(answer, self.index)

    @property
    def error(self) -> KVError:
        (answer,) = self.answers
        assert isinstance(answer, KVError), answer
        return answer


def checksums_of(rig: Rig, threads: HeldThreads) -> Checksums:
    return Checksums(
        rig.engine,
        rig.driver.loop,
        threads,
        clock=lambda: rig.now,
        on_damaged=rig.driver.fail,
    )


class Following:
    """A follower that is fed its leader's log, and asked."""

    def __init__(self) -> None:
        self.rig, self.threads = Rig(), HeldThreads()
        self.checksums = checksums_of(self.rig, self.threads)

    def ask(self, index: int, wait_s: float = 5.0, host: ShardHost | None = None) -> Asked:
        asked = Asked(index)
        self.checksums.ask(host or self.rig.host, LogIndex(index), wait_s, asked)
        return asked

    def append(self, *indexes: int, commit: int) -> None:
        """The leader sends entries, and says up to where they are committed."""
        entries = tuple(entry(index) for index in indexes)
        before = LogIndex(indexes[0] - 1)
        self.rig.hear(
            AppendRequest(
                LEADER, OWN, Term(1), before, Term(1 if before else 0), entries, LogIndex(commit)
            )
        )

    async def feed(self, *indexes: int) -> None:
        self.append(*indexes, commit=indexes[-1])
        await settle()

    async def read(self) -> None:
        self.threads.run()
        await settle()

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        return self.rig.engine.snapshot_rows(*shard_range(self.rig.host.shard))

    def checksum_now(self) -> int:
        digest = ShardDigest(self.rig.host.shard)
        digest.add(self.rows(), 1 << 30, 1 << 30)
        return digest.checksum


def entry(index: int) -> Entry:
    session = commands.encode_batch(1000, 1, index, index, [(commands.PUT, b"k%d" % index, b"v")])
    payload = commands.encode_entry(
        index * 10, [(1, session), (1, batch(b"k", b"%d" % index))], LIMITS
    )
    return Entry(LogIndex(index), Term(1), EntryKind.COMMAND, payload)


async def test_the_state_is_that_of_the_index_wherever_batches_would_end() -> None:
    """Fed one by one, the replica shows what it must answer when it is fed all at once."""
    slowly = Following()
    expected = {}
    for index in range(1, 9):
        await slowly.feed(index)
        expected[index] = slowly.checksum_now()
    assert len(set(expected.values())) == len(expected)
    node = Following()
    asked = [node.ask(index) for index in (3, 8, 5, 3)]
    await node.feed(*range(1, 9))
    await node.read()
    assert [(each.got.index, each.got.checksum) for each in asked] == [
        (index, expected[index]) for index in (3, 8, 5, 3)
    ]
    assert node.rig.host.core.applied_index == 8


async def test_without_a_question_all_is_applied_in_one_write() -> None:
    node = Following()
    await node.feed(*range(1, 9))
    assert node.rig.engine.writes == 1
    asked_in_between = Following()
    asked_in_between.ask(4)
    await asked_in_between.feed(*range(1, 9))
    assert asked_in_between.rig.engine.writes == 2


async def test_other_shards_are_not_held_up() -> None:
    rig = Rig(voters=1, shards=2)
    for host in rig.hosts.values():
        await rig.lead(host)
    first, second = rig.hosts.values()
    asked = Asked(first.core.applied_index + 1)
    checksums = checksums_of(rig, HeldThreads())
    checksums.ask(first, asked.index, 5.0, asked)
    done = [rig.write(host=host) for host in (first, first, second, second)]
    await settle()
    assert [each.answers for each in done] == [1, 1, 1, 1]
    assert second.core.applied_index == second.core.last_index


async def test_what_is_written_after_the_index_does_not_show() -> None:
    node = Following()
    await node.feed(1, 2)
    before = node.checksum_now()
    asked = node.ask(2)
    await node.feed(3, 4)
    assert node.checksum_now() != before
    await node.read()
    assert (asked.got.checksum, asked.got.term, asked.got.keys) == (before, 1, 3)


async def test_a_leader_answers_too() -> None:
    rig, threads = Rig(voters=1), HeldThreads()
    await rig.lead()
    checksums = checksums_of(rig, threads)
    asked = Asked(rig.host.core.applied_index)
    checksums.ask(rig.host, asked.index, 5.0, asked)
    threads.run()
    await settle()
    assert asked.got.checksum is not None


async def test_a_session_that_differs_shows() -> None:
    checksums = []
    for reply in (b"a", b"b"):
        node = Following()
        await node.feed(1)
        changed = node.rig.engine.batch()
        changed.put(space_prefix(node.rig.host.shard, Space.SESSIONS) + bytes(16), reply)
        node.rig.engine.write(changed)
        asked = node.ask(1)
        await node.read()
        checksums.append(asked.got.checksum)
    assert checksums[0] != checksums[1]


async def test_beyond_the_index_it_says_where_it_is() -> None:
    node = Following()
    await node.feed(1, 2, 3)
    asked = node.ask(2)
    assert asked.got == ChecksumReply(LogIndex(3), Term(1), None, 0, 0)


async def test_an_index_that_is_not_reached_in_time() -> None:
    node = Following()
    await node.feed(1, 2)
    asked, patient = node.ask(3, wait_s=1.0), node.ask(3, wait_s=1e9)
    node.rig.now += 0.9
    node.rig.driver.tick()
    assert asked.answers == []
    node.rig.now += 0.2
    node.rig.driver.tick()
    assert asked.got == ChecksumReply(LogIndex(2), Term(1), None, 0, 0)
    assert patient.answers == []
    node.rig.now += WAIT_S_MAX
    node.rig.driver.tick()
    assert patient.got.index == 2


async def test_a_write_that_waits_for_room_is_not_the_state_yet() -> None:
    node = Following()
    await node.feed(1)
    first = node.checksum_now()
    node.rig.engine.fill()
    await node.feed(2, 3)
    held, passed, end = node.ask(1), node.ask(2), node.ask(3)
    node.rig.engine.failing = None
    node.rig.driver._applier.retry_write()
    await settle()
    await node.read()
    assert held.got.checksum == first
    assert passed.got == ChecksumReply(LogIndex(3), Term(1), None, 0, 0)
    assert end.got.checksum == node.checksum_now()


async def test_damaged_data_stops_the_node_and_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Following()
    await node.feed(1)
    damage = CorruptionError("block checksum mismatch", file="7.sst", offset=512)

    def broken(*_: object) -> Iterator[tuple[bytes, bytes]]:
        yield b"k", b"v"
        raise damage

    monkeypatch.setattr(node.rig.engine, "snapshot_rows", broken)
    asked = node.ask(1)
    await node.read()
    assert node.rig.fatal == [damage]
    assert asked.answers == []


async def test_a_snapshot_ends_the_wait_and_none_is_served_meanwhile() -> None:
    node = Following()
    await node.feed(1)
    before, waiting = node.ask(1), node.ask(2)
    node.rig.host.begin_install()
    late = node.ask(1)
    for asked in (waiting, late):
        assert isinstance(asked.error, Unavailable)
        assert asked.error.retryable
        assert "snapshot" in asked.error.message
    await node.read()
    assert before.got.checksum is not None, "it was held still before the snapshot came"


async def test_the_number_of_requests_is_bounded_and_all_give_their_place_back() -> None:
    node = Following()
    await node.feed(1)
    asked = [node.ask(1 + number % 2) for number in range(PENDING_MAX)]
    assert isinstance(node.ask(1).error, Overloaded)
    await node.read()
    node.rig.now += WAIT_S_MAX
    node.rig.driver.tick()
    assert all(len(each.answers) == 1 for each in asked)
    again = [node.ask(1) for _ in range(PENDING_MAX)]
    assert all(each.answers == [] for each in again)


async def test_stopping_answers_those_that_wait_are_queued_or_read() -> None:
    node = Following()
    await node.feed(1)
    read, queued, waiting = node.ask(1), node.ask(1), node.ask(2)
    node.rig.host.fail_all(Unavailable("the node is stopping"))
    node.checksums.stop()
    node.threads.work.pop()[0].cancel()
    await node.read()
    for asked in (read, queued, waiting):
        assert isinstance(asked.error, Unavailable)
        assert "stopping" in asked.error.message


async def test_for_nobody_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Following()
    await node.feed(1)
    asked = node.ask(1)
    asked.is_wanted = False

    def never(*_: object) -> None:
        raise AssertionError("nobody wants it")

    monkeypatch.setattr(ShardDigest, "add", never)
    await node.read()
    assert isinstance(asked.error, Unavailable)


@pytest.mark.parametrize(
    ("failure", "answer"), [(ValueError("odd"), Internal), (Unavailable("busy"), Unavailable)]
)
async def test_a_read_that_fails_is_answered(
    failure: Exception, answer: type[KVError], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Following()
    await node.feed(1)

    def broken(*_: object) -> None:
        raise failure

    asked = node.ask(1)
    monkeypatch.setattr(ShardDigest, "add", broken)
    await node.read()
    assert isinstance(asked.error, answer)


async def test_an_engine_that_fails_to_hold_still_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Following()

    def broken(*_: object) -> None:
        raise Internal("the engine failed")

    monkeypatch.setattr(node.rig.engine, "snapshot_rows", broken)
    asked = node.ask(1)
    await node.feed(1, 2)
    assert isinstance(asked.error, Internal)
    assert node.rig.fatal == []
    assert node.rig.host.core.applied_index == 2


async def test_a_thread_reads_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", 2)
    node = Following()
    await node.feed(*range(1, 30))
    with ThreadPoolExecutor(1) as thread:
        node.checksums._thread = thread
        asked = node.ask(29)
        await until(lambda: asked.answers != [])
    assert asked.got.checksum == node.checksum_now()
