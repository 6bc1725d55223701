"""What a client may send, and the one frame that it gets for it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_support import NODES, OWN, HeldThreads, Rig, batch, settle, until

from kvstore.errors import (
    CorruptionError,
    DiskFull,
    Internal,
    InvalidArgument,
    KVError,
    NotLeader,
    Overloaded,
    Unavailable,
)
from kvstore.ids import LogIndex, ReplicaId, Revision, ShardId
from kvstore.kv import commands
from kvstore.server.admission import REQUEST_OVERHEAD_BYTES, Admission
from kvstore.server.checksums import PENDING_MAX, Checksums
from kvstore.server.clients import ClientRequests
from kvstore.wire import requests
from kvstore.wire.checksums import ChecksumRequest, decode_checksum_reply, encode_checksum
from kvstore.wire.codec import pack
from kvstore.wire.frames import Frame, FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ReadMode, ReadRequest, ScanRequest, WriteRequest

MIB = 1 << 20


class Wire:
    """A connection's far end: the frames that arrived there."""

    def __init__(self) -> None:
        self.is_open = True
        self.frames: list[Frame] = []

    def send(self, frame: bytes) -> bool:
        self.frames += FrameDecoder(64 * MIB).feed(frame)
        return self.is_open


class Front:
    """The requests of one node, with one client."""

    def __init__(self, *, voters: int = 1, pending_bytes_max: int = 64 * MIB) -> None:
        self.rig = Rig(voters=voters)
        self.wire, self.threads = Wire(), HeldThreads()
        self.reliefs = 0
        self.admission = Admission(pending_bytes_max=pending_bytes_max)
        self.requests = ClientRequests(
            self.rig.driver,
            self.admission,
            clock=lambda: self.rig.now,
            request_timeout_s=10.0,
            relieve=self.relieve,
            frame_bytes_max=16 * MIB,
            scan_threads=self.threads,
            shard_map=lambda: b"map",
            status=self._status,
            checksums=Checksums(
                self.rig.engine,
                self.rig.driver.loop,
                self.threads,
                clock=lambda: self.rig.now,
                on_damaged=self.rig.driver.fail,
            ),
        )
        self._next = 0
        self.statuses = 0

    def _status(self) -> bytes:
        self.statuses += 1
        return b"status"

    def relieve(self) -> None:
        self.reliefs += 1

    def ask(self, kind: int, body: bytes) -> int:
        self._next += 1
        self.requests.handle(self.wire, Frame(kind, 0, self._next, body))
        return self._next

    def answer(self, request: int) -> Frame:
        (frame,) = [frame for frame in self.wire.frames if frame.request == request]
        return frame

    def error(self, request: int) -> KVError:
        frame = self.answer(request)
        assert frame.kind == Kind.ERROR
        return requests.decode_error(frame.body)

    def body(self, request: int) -> bytes:
        frame = self.answer(request)
        assert frame.kind == Kind.REPLY
        return bytes(frame.body)

    def write(self, key: bytes = b"k", value: bytes = b"v", shard: int = 0, count: int = 1) -> int:
        request = WriteRequest(1, ShardId(shard), count, batch(key, value))
        return self.ask(Kind.WRITE, requests.encode_write(request))

    def read(self, *keys: bytes, shard: int = 0) -> int:
        request = ReadRequest(1, ShardId(shard), ReadMode.LINEARIZABLE, list(keys), Revision(0))
        return self.ask(Kind.READ, requests.encode_read(request))

    def scan(self, limit: int = 100, bytes_max: int = MIB, shard: int = 0) -> int:
        request = ScanRequest(
            1, ShardId(shard), ReadMode.LINEARIZABLE, b"", None, limit, bytes_max, False
        )
        return self.ask(Kind.SCAN, requests.encode_scan(request))

    def checksum(self, index: int = 1, shard: int = 0) -> int:
        request = ChecksumRequest(ShardId(shard), LogIndex(index), 1000)
        return self.ask(Kind.CHECKSUM, encode_checksum(request))


async def leading(**options: int) -> Front:
    front = Front(**options)
    await front.rig.lead()
    return front


async def test_put_get_and_scan() -> None:
    front = await leading()
    put = front.write(b"a", b"1")
    await settle()
    get, scan = front.read(b"a", b"b"), front.scan()
    await settle()
    front.threads.run()
    await settle()
    assert front.body(put)
    (row, none) = requests.decode_read_reply(front.body(get), 2)
    assert (row[0], none) == (b"1", None)
    assert [each[:2] for each in requests.decode_scan_reply(front.body(scan)).rows] == [
        (b"a", b"1")
    ]
    assert front.admission.pending_bytes == 0


async def test_the_map_and_the_status_are_answered_at_once() -> None:
    front = Front()
    assert front.body(front.ask(Kind.SHARD_MAP, b"")) == b"map"
    assert front.body(front.ask(Kind.STATUS, b"")) == b"status"


async def test_many_that_ask_for_the_status_at_once_get_what_was_made_once() -> None:
    front = Front()
    for _ in range(3):
        assert front.body(front.ask(Kind.STATUS, b"")) == b"status"
    assert front.statuses == 1
    await settle()
    assert front.body(front.ask(Kind.STATUS, b"")) == b"status"
    assert front.statuses == 2


@pytest.mark.parametrize("kind", [Kind.WRITE, Kind.READ, Kind.SCAN, Kind.CHECKSUM])
@pytest.mark.parametrize(
    "body", [b"", b"\xc1", pack([]), pack([1, 2]), pack({"a": 1}), pack([-1, 0, 0, 0, 0, 0, 0, 0])]
)
async def test_a_malformed_body_is_answered_and_changes_nothing(kind: Kind, body: bytes) -> None:
    front = await leading()
    request = front.ask(kind, body)
    assert isinstance(front.error(request), InvalidArgument)
    assert front.admission.pending_bytes == 0
    assert not front.rig.host.is_busy


async def test_any_bytes_are_answered_once() -> None:
    rng = random.Random(7)
    front = await leading()
    kinds = [Kind.WRITE, Kind.READ, Kind.SCAN, Kind.CHECKSUM, Kind.REPLY, Kind.RAFT]
    asked = [front.ask(rng.choice(kinds), rng.randbytes(rng.randrange(40))) for _ in range(500)]
    await settle()
    front.threads.run()
    await settle()
    assert [front.answer(request).request for request in asked] == asked
    assert front.admission.pending_bytes == 0


@pytest.mark.parametrize("kind", [Kind.REPLY, Kind.RAFT, 99])
async def test_a_kind_that_is_no_request(kind: int) -> None:
    front = await leading()
    assert "unknown request kind" in front.error(front.ask(kind, b"")).message


async def test_a_shard_that_is_not_here() -> None:
    front = await leading()
    for request in (front.write(shard=9), front.read(b"k", shard=9), front.scan(shard=9)):
        assert isinstance(front.error(request), NotLeader)
    assert isinstance(front.error(front.checksum(shard=9)), NotLeader)
    assert front.admission.pending_bytes == 0


async def test_batches_beyond_the_bounds_are_refused_before_they_cost_anything() -> None:
    front = await leading()
    many = front.write(count=commands.COMMANDS_MAX + 1)
    large = front.write(value=bytes(16 * MIB - 4096))
    for request in (many, large):
        assert isinstance(front.error(request), InvalidArgument)
    assert front.admission.pending_bytes == 0


async def test_a_full_disk_keeps_no_client_from_whoever_leads_instead() -> None:
    front = await leading(voters=3)
    await front.rig.depose()
    front.admission.disk_full = True
    error = front.error(front.write())
    assert isinstance(error, NotLeader)
    assert error.leader == NODES[ReplicaId(3)]
    assert front.admission.pending_bytes == 0


async def test_on_a_full_disk_reads_go_on() -> None:
    front = await leading()
    front.admission.disk_full = True
    put, get = front.write(), front.read(b"k")
    await settle()
    assert isinstance(front.error(put), DiskFull)
    assert front.body(get)
    front.admission.disk_full = False
    put = front.write()
    await settle()
    assert front.body(put)


async def test_overload_is_refused_and_passes() -> None:
    front = await leading(voters=3, pending_bytes_max=1000)
    first = front.write(value=bytes(500))
    second = front.write(value=bytes(500))
    assert isinstance(front.error(second), Overloaded)
    await front.rig.acknowledge()
    assert front.body(first)
    assert front.admission.pending_bytes == 0
    third = front.write(value=bytes(500))
    await front.rig.acknowledge()
    assert front.body(third)


async def test_one_request_larger_than_the_bound_is_let_in_alone() -> None:
    front = await leading(pending_bytes_max=100)
    put = front.write(value=bytes(500))
    await settle()
    assert front.body(put)


async def test_a_charge_is_the_body_and_what_is_kept_about_it() -> None:
    admission = Admission(pending_bytes_max=10_000)
    cost = admission.admit(100)
    assert cost == admission.pending_bytes == 100 + REQUEST_OVERHEAD_BYTES
    admission.release(cost)
    with pytest.raises(AssertionError):
        admission.release(cost)


async def test_values_that_do_not_fit_one_answer_are_refused() -> None:
    front = await leading()
    keys = [b"a", b"b", b"c"]
    for key in keys:
        front.write(key, bytes(7 * MIB))
    await settle()
    get = front.read(*keys)
    await settle()
    assert isinstance(front.error(get), InvalidArgument)
    few = front.read(*keys[:2])
    await settle()
    assert front.body(few)
    assert front.admission.pending_bytes == 0


async def test_a_page_of_a_scan_is_bounded_whatever_was_asked_for() -> None:
    front = await leading()
    for number in range(5):
        front.write(b"%d" % number, bytes(7 * MIB))
    await settle()
    scan = front.scan(limit=4096, bytes_max=1 << 60)
    await settle()
    front.threads.run()
    await settle()
    page = requests.decode_scan_reply(front.body(scan))
    assert (len(page.rows), page.more) == (2, True)


@pytest.mark.parametrize(
    ("failure", "answer"), [(ValueError("odd"), Internal), (Unavailable("busy"), Unavailable)]
)
async def test_a_scan_that_fails_is_answered(
    failure: Exception, answer: type[KVError], monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await leading()

    def broken(*_: object) -> None:
        raise failure

    monkeypatch.setattr(front.rig.host.machine, "scan", broken)
    scan = front.scan()
    await settle()
    front.threads.run()
    await settle()
    assert isinstance(front.error(scan), answer)
    assert front.admission.pending_bytes == 0


async def test_damaged_data_stops_the_node_and_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = await leading()
    damage = CorruptionError("block checksum mismatch", file="7.sst", offset=512)

    def broken(*_: object) -> None:
        raise damage

    monkeypatch.setattr(front.rig.host.machine, "scan", broken)
    front.scan()
    await settle()
    front.threads.run()
    await settle()
    assert front.rig.fatal == [damage]
    assert front.wire.frames == []


async def test_a_scan_that_was_not_begun_when_the_node_stopped_is_answered() -> None:
    front = await leading()
    scan = front.scan()
    await settle()
    for future, _ in front.threads.work:
        future.cancel()
    await settle()
    assert isinstance(front.error(scan), Unavailable)
    assert front.admission.pending_bytes == 0


async def test_a_scan_of_a_state_that_was_replaced_meanwhile_is_not_answered_with_it() -> None:
    front = await leading()
    front.write()
    await settle()
    scan = front.scan()
    await settle()
    front.rig.host.begin_install()
    front.threads.run()
    front.rig.host.installing = False
    await settle()
    assert isinstance(front.error(scan), Unavailable)


async def test_for_a_closed_connection_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    front = await leading()
    get, scan, late = front.read(b"k"), front.scan(), front.scan()
    assert (get, scan, late) == (1, 2, 3)
    front.wire.is_open = False
    looked: list[str] = []
    machine = front.rig.host.machine
    monkeypatch.setattr(machine, "get_many", lambda *_: looked.append("get"))
    monkeypatch.setattr(machine, "scan", lambda *_: looked.append("scan"))
    await settle()
    front.threads.run()
    await settle()
    assert looked == []
    assert front.rig.fatal == []
    assert front.admission.pending_bytes == 0


async def test_a_follower_says_who_leads() -> None:
    front = Front(voters=3)
    await front.rig.depose()
    for request in (front.write(), front.read(b"k"), front.scan()):
        error = front.error(request)
        assert isinstance(error, NotLeader)
        assert error.leader == NODES[max(front.rig.voters)]
    assert front.admission.pending_bytes == 0
    assert front.rig.host.core.replica == OWN


async def test_a_follower_tells_its_checksum() -> None:
    front = Front(voters=3)
    await front.rig.depose()
    here, ahead = front.checksum(index=0), front.checksum(index=1)
    front.threads.run()
    await settle()
    reply = decode_checksum_reply(front.body(here), LogIndex(0))
    assert (reply.checksum is not None, reply.keys) == (True, 0)
    front.rig.now += 2.0
    front.rig.driver.tick()
    assert decode_checksum_reply(front.body(ahead), LogIndex(1)).checksum is None
    assert front.admission.pending_bytes == 0


async def test_too_many_checksums_are_refused_and_charged_nothing() -> None:
    front = await leading()
    asked = [front.checksum(index=1) for _ in range(PENDING_MAX + 1)]
    assert isinstance(front.error(asked[-1]), Overloaded)
    front.threads.run()
    await settle()
    assert all(front.body(request) for request in asked[:-1])
    assert front.admission.pending_bytes == 0


async def test_real_threads_answer_on_the_loop() -> None:
    front = await leading()
    front.write()
    await settle()
    with ThreadPoolExecutor(1) as threads:
        front.requests._scan_threads = threads
        scan = front.scan()
        await until(lambda: any(frame.request == scan for frame in front.wire.frames))
    assert front.body(scan)
