from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.config import EngineConfig
from kvstore.errors import CorruptionError, Internal
from kvstore.ids import GroupId, LogIndex, ReplicaId, ShardId, Term
from kvstore.raft.messages import GroupConfig, SnapshotMeta
from kvstore.storage import snapshot_stream
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.rocks import RocksEngine
from kvstore.storage.snapshot_manifest import Manifest
from kvstore.storage.snapshots import SnapshotReader, SnapshotStorage

if TYPE_CHECKING:
    from pathlib import Path

SHARD, GROUP = ShardId(3), GroupId(4)
META = SnapshotMeta(
    LogIndex(70), Term(5), GroupConfig((ReplicaId(1), ReplicaId(2)), learners=(ReplicaId(9),))
)

rows_of_a_shard = st.dictionaries(
    st.tuples(st.integers(0, 4), st.binary(max_size=12)).map(lambda t: bytes([t[0]]) + t[1]),
    st.one_of(st.binary(max_size=30), st.integers(0, 200_000).map(bytes)),
    max_size=12,
)


def engine_with(shard: ShardId, rows: dict[bytes, bytes]) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.batch()
    for key, value in rows.items():
        batch.put(shard.to_bytes(2, "big") + key, value)
    engine.write(batch)
    return engine


def rows_of(engine: MemoryEngine, shard: ShardId) -> dict[bytes, bytes]:
    start, end = shard.to_bytes(2, "big"), (shard + 1).to_bytes(2, "big")
    return {key[2:]: value for key, value in engine.snapshot_rows(start, end)}


def read_all(reader: SnapshotReader, bytes_max: int) -> list[bytes]:
    pieces: list[bytes] = []
    is_last = False
    while not is_last:
        data, is_last = reader.read(sum(map(len, pieces)), bytes_max)
        assert len(data) == bytes_max or is_last
        pieces.append(data)
    return pieces


def storage_in(path: Path, engine: MemoryEngine | None = None) -> SnapshotStorage:
    return SnapshotStorage(engine or MemoryEngine(), path / "snapshots")


def stage(storage: SnapshotStorage, pieces: list[bytes], group: GroupId = GROUP) -> None:
    offset = 0
    for number, piece in enumerate(pieces, start=1):
        storage.stage(group, META, offset, piece, number == len(pieces))
        offset += len(piece)


@settings(max_examples=60)
@given(new=rows_of_a_shard, old=rows_of_a_shard, bytes_max=st.integers(1000, 100_000))
def test_a_shard_arrives_as_it_was_and_its_neighbours_stay(
    tmp_path_factory: pytest.TempPathFactory,
    new: dict[bytes, bytes],
    old: dict[bytes, bytes],
    bytes_max: int,
) -> None:
    directory = tmp_path_factory.mktemp("node")
    sender = storage_in(directory, engine_with(SHARD, new))
    receiver = engine_with(SHARD, old)
    neighbours = {b"\x00\x02\x04" + b"\xff" * 9: b"2", b"\x00\x04\x00": b"4"}
    batch = receiver.batch()
    for key, value in neighbours.items():
        batch.put(key, value)
    receiver.write(batch)
    storage = storage_in(directory, receiver)
    stage(storage, read_all(sender.open(SHARD), bytes_max))
    assert rows_of(receiver, SHARD) == old
    storage.install(GROUP, SHARD)
    storage.discard(GROUP)
    assert rows_of(receiver, SHARD) == new
    assert all(receiver.get(key) == value for key, value in neighbours.items())
    assert [p.name for p in (directory / "snapshots").iterdir()] == [f"g{GROUP}.installed"]


def test_a_reader_does_not_see_what_is_written_later(tmp_path: Path) -> None:
    engine = engine_with(SHARD, {b"\x03a": b"1", b"\x03b": b"2"})
    reader = storage_in(tmp_path, engine).open(SHARD)
    batch = engine.batch()
    batch.delete_range(b"\x00\x03", b"\x00\x04")
    engine.write(batch)
    target = MemoryEngine()
    storage = storage_in(tmp_path, target)
    stage(storage, read_all(reader, 1000))
    storage.install(GROUP, SHARD)
    assert rows_of(target, SHARD) == {b"\x03a": b"1", b"\x03b": b"2"}


def test_a_reader_reads_on_only_from_where_it_is(tmp_path: Path) -> None:
    reader = storage_in(tmp_path, engine_with(SHARD, {b"\x03a": bytes(500)})).open(SHARD)
    reader.read(0, 100)
    with pytest.raises(Internal, match="at 100 or closed, not at 0"):
        reader.read(0, 100)
    reader.read(100, 100)
    reader.close()
    with pytest.raises(Internal, match="closed"):
        reader.read(200, 100)


def test_the_last_piece_is_known_when_it_ends_on_the_limit(tmp_path: Path) -> None:
    storage = storage_in(tmp_path, engine_with(SHARD, {b"\x03a": b"1"}))
    stream = b"".join(read_all(storage.open(SHARD), 10_000))
    pieces = read_all(storage.open(SHARD), len(stream) // 3 + 1)
    assert (b"".join(pieces), len(pieces)) == (stream, 3)
    assert read_all(storage.open(SHARD), len(stream)) == [stream]


def test_between_two_real_engines(tmp_path: Path) -> None:
    sender, receiver = (RocksEngine(tmp_path / name, EngineConfig()) for name in ("a", "b"))
    prefix = SHARD.to_bytes(2, "big")
    for engine, value, count in ((sender, b"new", 3000), (receiver, b"old", 5000)):
        batch = engine.batch()
        for number in range(count):
            batch.put(prefix + b"\x03%05d" % number, value)
        engine.write(batch)
    reader = SnapshotStorage(sender, tmp_path / "s").open(SHARD)
    batch = sender.batch()
    batch.delete_range(prefix, prefix + b"\xff")
    sender.write(batch)
    storage = SnapshotStorage(receiver, tmp_path / "t")
    stage(storage, read_all(reader, 10_000))
    storage.install(GROUP, SHARD)
    reader.close()
    for engine in (sender, receiver):
        engine.close()
    again = RocksEngine(tmp_path / "b", EngineConfig())
    rows = list(again.snapshot_rows(prefix, prefix + b"\xff"))
    assert rows == [(prefix + b"\x03%05d" % number, b"new") for number in range(3000)]
    again.close()


# -- what is damaged ------------------------------------------------------------------------


def stream_of(tmp_path: Path, rows: dict[bytes, bytes]) -> bytes:
    return b"".join(read_all(storage_in(tmp_path, engine_with(SHARD, rows)).open(SHARD), 4096))


SMALL = {b"\x00applied": b"70", b"\x03key": b"value", b"\x03key2": b""}


def test_a_stream_cut_anywhere_is_refused(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, SMALL)
    engine = engine_with(SHARD, {b"\x03old": b"1"})
    storage = storage_in(tmp_path, engine)
    for length in range(len(stream)):
        with pytest.raises(CorruptionError):
            storage.stage(GROUP, META, 0, stream[:length], True)
        with pytest.raises(Internal, match="no complete snapshot"):
            storage.install(GROUP, SHARD)
    assert rows_of(engine, SHARD) == {b"\x03old": b"1"}
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_any_flipped_bit_is_refused(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, SMALL)
    storage = storage_in(tmp_path)
    for bit in range(len(stream) * 8):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            storage.stage(GROUP, META, 0, bytes(damaged), True)


def test_lost_swapped_and_added_blocks_are_refused(tmp_path: Path) -> None:
    rows = [(b"\x03%d" % number, bytes(snapshot_stream.BLOCK_BYTES)) for number in range(3)]
    opening, first, second, third, end = snapshot_stream.encode(rows)
    storage = storage_in(tmp_path)
    for pieces in (
        [opening, first, third, end],
        [opening, second, first, third, end],
        [opening, first, second, second, third, end],
        [opening, first, second, third, end, b"\0"],
        [opening, first, second, third],
        [opening, end],
        [first, second, third, end],
    ):
        with pytest.raises(CorruptionError):
            storage.stage(GROUP, META, 0, b"".join(pieces), True)
    stage(storage, [opening, first, second, third, end])


def test_a_row_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    crc = snapshot_stream.crc32c
    opening, _, _ = snapshot_stream.encode([(b"\x03k", b"v")])
    for body in (b"\0" * 5, struct.pack(">II", 2, 2**32 - 1) + b"\x03k", struct.pack(">II", 9, 0)):
        block_crc = crc(body, crc(opening))
        end = struct.pack(">Q", 1)
        block = struct.pack(">II", len(body), block_crc) + body
        stream = opening + block + struct.pack(">II", 0, crc(end, block_crc)) + end
        with pytest.raises(CorruptionError, match="does not fit"):
            storage_in(tmp_path).stage(GROUP, META, 0, stream, True)


def test_the_stream_is_pinned() -> None:
    stream = b"".join(snapshot_stream.encode([(b"\x03k", b"v")]))
    assert stream.hex() == PINNED


PINNED = "4b56534e010000000b03d97aec0000000200000001036b76000000006efd4aa20000000000000001"


# -- staging --------------------------------------------------------------------------------


def test_pieces_must_follow_each_other(tmp_path: Path) -> None:
    storage = storage_in(tmp_path)
    stream = stream_of(tmp_path, SMALL)
    other = SnapshotMeta(LogIndex(71), META.term, META.config)
    for meta, offset in ((META, 5), (META, 11), (other, 10)):
        storage.stage(GROUP, META, 0, stream[:10], False)
        with pytest.raises(Internal, match="does not follow"):
            storage.stage(GROUP, meta, offset, stream[10:], True)
        with pytest.raises(Internal, match="does not follow"):
            storage.stage(GROUP, META, 10, stream[10:], True)
    stage(storage, [stream[:10], stream[10:]])
    with pytest.raises(Internal, match="does not follow"):
        storage.stage(GROUP, META, len(stream), b"", True)


def test_offset_zero_begins_afresh(tmp_path: Path) -> None:
    engine = MemoryEngine()
    storage = storage_in(tmp_path, engine)
    stream = stream_of(tmp_path, SMALL)
    storage.stage(GROUP, META, 0, b"of an attempt before, much longer" * 100, False)
    stage(storage, [stream[:10], stream[10:]])
    storage.install(GROUP, SHARD)
    assert rows_of(engine, SHARD) == SMALL


def test_groups_do_not_mix(tmp_path: Path) -> None:
    engine = MemoryEngine()
    storage = storage_in(tmp_path, engine)
    one, two = (stream_of(tmp_path, {b"\x03k": value}) for value in (b"one", b"two"))
    storage.stage(GroupId(1), META, 0, one[:9], False)
    storage.stage(GroupId(2), META, 0, two[:9], False)
    storage.stage(GroupId(1), META, 9, one[9:], True)
    storage.stage(GroupId(2), META, 9, two[9:], True)
    storage.install(GroupId(2), ShardId(1))
    storage.install(GroupId(1), ShardId(0))
    assert rows_of(engine, ShardId(0)) == {b"\x03k": b"one"}
    assert rows_of(engine, ShardId(1)) == {b"\x03k": b"two"}


def test_what_never_became_complete_is_removed_at_the_start(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, SMALL)
    storage_in(tmp_path).stage(GROUP, META, 0, stream[:10], False)
    storage_in(tmp_path).stage(GroupId(7), META, 0, stream, True)
    (tmp_path / "snapshots" / "notes.txt").write_text("not ours")
    assert storage_in(tmp_path).pending_installs() == []
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["notes.txt"]


# -- the manifest ---------------------------------------------------------------------------


def test_a_manifest_comes_back_equal_and_any_damage_is_told() -> None:
    manifest = Manifest(META, 12345)
    data = manifest.encode()
    assert Manifest.decode(data, "m") == manifest
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="m: offset 0: "):
            Manifest.decode(bytes(damaged), "m")
    for length in range(len(data)):
        with pytest.raises(CorruptionError):
            Manifest.decode(data[:length], "m")


def test_a_newer_manifest_is_refused() -> None:
    body = bytearray(Manifest(META, 1).encode()[:-4])
    body[4] = 2
    newer = bytes(body) + struct.pack(">I", snapshot_stream.crc32c(bytes(body)))
    with pytest.raises(CorruptionError, match="format 2, this version knows 1"):
        Manifest.decode(newer, "m")
