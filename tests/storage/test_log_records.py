"""The bytes of the log: what is written is read again, and nothing else passes for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.storage import records
from kvstore.storage.records import RecordType, SegmentHeader, read_batch_head, read_record

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
EVERY_TYPE = {
    "entry": records.encode_entry(7, 2**40, 3, 1, b"payload"),
    "empty entry": records.encode_entry(7, 1, 3, 0, b""),
    "hard state": records.encode_hard_state(7, 9, 2),
    "truncation": records.encode_truncation(7, 12),
    "mark": records.encode_mark(7, 12, 3, b"config"),
    "log end": records.encode_log_end(7, 12),
    "replica": records.encode_replica(7, 2 << 32 | 5 << 16 | 1),
    "batch head": records.encode_batch_head(1, 5, 100),
    "close": records.encode_close(1, 5),
    "header": records.encode_segment_header(SegmentHeader(1, 2, 3, 4, "cluster", "n1")),
}


def read(data: bytes, offset: int = 0) -> records.Record | None:
    return read_record(memoryview(data), offset, len(data))


@given(u32, u64, u64, st.integers(0, 255), st.binary(max_size=200))
def test_an_entry_is_read_as_it_was_written(
    group: int, index: int, term: int, kind: int, payload: bytes
) -> None:
    data = records.encode_entry(group, index, term, kind, payload)
    found = read(data)
    assert found is not None
    assert (found.type, found.group, found.index, found.term) == (1, group, index, term)
    assert bytes(found.payload) == bytes([kind]) + payload
    assert found.size == len(data)
    assert records.peek(data) == (RecordType.ENTRY, group, index, term)
    assert records.payload_of(data) == bytes([kind]) + payload


@given(u32, u64, u64)
def test_a_vote_is_read_as_it_was_written(group: int, term: int, vote: int) -> None:
    found = read(records.encode_hard_state(group, term, vote))
    assert found is not None
    assert (found.type, found.group, found.term) == (RecordType.HARD_STATE, group, term)
    assert records.decode_vote(found.payload) == vote


@given(u32, u64)
def test_a_replica_is_read_as_it_was_written(group: int, replica: int) -> None:
    data = records.encode_replica(group, replica)
    found = read(data)
    assert found is not None
    assert (found.type, found.group, found.index, found.term) == (RecordType.REPLICA, group, 0, 0)
    assert records.decode_replica(found.payload) == replica
    assert records.decode_replica(records.payload_of(data)) == replica


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_no_flipped_bit_passes(name: str) -> None:
    data = bytearray(EVERY_TYPE[name] + bytes(600))
    for bit in range(len(EVERY_TYPE[name]) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert read(bytes(data)) is None
        data[bit // 8] ^= 1 << bit % 8
    assert read(bytes(data)) is not None


@pytest.mark.parametrize("name", EVERY_TYPE)
def test_a_record_cut_short_is_none(name: str) -> None:
    for length in range(len(EVERY_TYPE[name])):
        assert read(EVERY_TYPE[name][:length]) is None


def test_zeros_are_no_record() -> None:
    assert read(bytes(100)) is None


def test_a_record_beyond_the_limit_is_none() -> None:
    data = memoryview(EVERY_TYPE["mark"])
    assert read_record(data, 0, len(data) - 1) is None


def test_a_batch_belongs_to_the_segment_with_its_salt() -> None:
    data = memoryview(b"before" + records.encode_batch(77, 5, [EVERY_TYPE["mark"]]))
    head = read_batch_head(data, 6, 77)
    assert head is not None
    assert (head.sequence, head.closes) == (5, False)
    assert head.body_bytes == len(EVERY_TYPE["mark"]) + 1
    assert data[-1] == 0xFF
    assert read_batch_head(data, 6, 78) is None
    assert read_batch_head(data, 5, 77) is None


def test_no_other_record_is_a_batch_head() -> None:
    for name, data in EVERY_TYPE.items():
        assert (read_batch_head(memoryview(data), 0, 1) is not None) == (
            name in ("batch head", "close")
        )


def test_a_closing_record_names_the_next_batch() -> None:
    head = read_batch_head(memoryview(records.encode_close(9, 44)), 0, 9)
    assert head is not None
    assert (head.sequence, head.body_bytes, head.closes) == (44, 0, True)


@given(u64, u64, u64, u64, st.text(max_size=20), st.text(max_size=20))
def test_a_header_is_read_as_it_was_written(
    number: int, first: int, salt: int, made: int, cluster: str, node: str
) -> None:
    header = SegmentHeader(number, first, salt, made, cluster, node)
    data = records.encode_segment_header(header)
    assert len(data) == records.segment_header_bytes(cluster, node)
    record = read(data)
    assert record is not None
    assert records.decode_segment_header(record) == header


def test_what_is_no_header_is_told() -> None:
    record = read(EVERY_TYPE["mark"])
    assert record is not None
    assert records.decode_segment_header(record) is None
