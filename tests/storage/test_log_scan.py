"""Where a segment ends: what a crash explains is torn, everything else is damage."""

from __future__ import annotations

import random

import pytest

from kvstore.errors import CorruptionError
from kvstore.storage import records
from kvstore.storage.records import BATCH_HEAD_BYTES, SegmentHeader
from kvstore.storage.scan import SECTOR_BYTES, SegmentScan, TornTail

SALT = 0x0102030405060709
MADE_BYTES = 16384
ENTRY = records.encode_entry(1, 1, 1, 0, random.Random(1).randbytes(700))


def segment(*batches: list[bytes], first: int = 5) -> bytearray:
    """A segment whose first batch is ``first``, with its preallocated zeros."""
    header = SegmentHeader(3, first, SALT, MADE_BYTES, "c", "n1")
    data = bytearray(records.encode_segment_header(header))
    for sequence, batch in enumerate(batches, first):
        data += records.encode_batch(SALT, sequence, batch)
    data.extend(bytes(MADE_BYTES - len(data)))
    return data


def scan(data: bytes | bytearray) -> SegmentScan:
    """After all whole batches were read."""
    found = SegmentScan(memoryview(bytes(data)), "file")
    for _ in found.batches():
        pass
    return found


def start_of(number: int, *batches: list[bytes]) -> int:
    """Where batch ``number`` of ``batches`` starts."""
    return scan(segment(*batches[:number])).end


def refused(data: bytes | bytearray) -> CorruptionError:
    with pytest.raises(CorruptionError) as refusal:
        scan(data).torn_tail()
    assert refusal.value.file == "file"
    return refusal.value


THREE = ([], [ENTRY], [ENTRY, ENTRY])
LAST = start_of(2, *THREE)
END = start_of(3, *THREE)


def test_whole_batches_are_read_with_offsets() -> None:
    found = SegmentScan(memoryview(bytes(segment(*THREE))), "file")
    batches = list(found.batches())
    assert [len(batch) for batch in batches] == [0, 1, 2]
    assert batches[2][0][0] == LAST + BATCH_HEAD_BYTES
    assert bytes(batches[2][1][1].payload) == records.payload_of(ENTRY)
    assert (found.end, found.last_batch, found.next_sequence) == (END, LAST, 8)
    assert not found.is_closed
    assert found.torn_tail() is None


def test_a_closed_segment() -> None:
    data = segment(*THREE)
    close = records.encode_close(SALT, 8)
    data[END : END + len(close)] = close
    found = scan(data)
    assert found.is_closed
    assert found.end == END


def test_the_closing_record_is_part_of_the_chain() -> None:
    data = segment(*THREE)
    close = records.encode_close(SALT, 9)
    data[END : END + len(close)] = close
    with pytest.raises(CorruptionError, match="batch 9 stands where 8 belongs"):
        scan(data)


def test_a_batch_out_of_sequence_is_refused() -> None:
    data = segment(*THREE)
    again = records.encode_batch(SALT, 6, [ENTRY])
    data[END : END + len(again)] = again
    with pytest.raises(CorruptionError, match="batch 6 stands where 8 belongs"):
        scan(data)


@pytest.mark.parametrize("cut", [*range(4, BATCH_HEAD_BYTES + 3), 500, 1000, END - LAST - 1])
def test_a_write_cut_short_is_torn(cut: int) -> None:
    data = segment(*THREE)
    data[LAST + cut : END] = bytes(END - LAST - cut)
    assert scan(data).torn_tail() == TornTail(LAST, LAST + len(data[LAST:END].rstrip(b"\0")))


def test_any_lost_sector_of_the_last_batch_is_torn() -> None:
    for sector in range(LAST - LAST % SECTOR_BYTES, END, SECTOR_BYTES):
        data = segment(*THREE)
        low, high = max(sector, LAST), min(sector + SECTOR_BYTES, END)
        data[low:high] = bytes(high - low)
        torn = scan(data).torn_tail()
        assert torn is not None
        assert torn.offset == LAST


def test_a_lost_sector_of_an_earlier_batch_is_refused() -> None:
    data = segment(*THREE)
    start = start_of(1, *THREE)
    data[start : start + 100] = bytes(100)
    assert refused(data).offset == start


def test_every_flipped_bit_of_the_last_batch_is_refused() -> None:
    data = segment(*THREE)
    for bit in range(LAST * 8, END * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert refused(data).offset >= LAST
        data[bit // 8] ^= 1 << bit % 8


def test_a_flip_is_refused_although_a_batch_that_was_begun_later_is_torn() -> None:
    data = segment(*THREE)
    data[LAST + 60] ^= 1
    later = records.encode_batch(SALT, 8, [ENTRY])
    data[END + 200 : END + len(later)] = later[200:]
    assert "before other bytes" in str(refused(data))


def test_a_flip_before_a_whole_batch_names_both() -> None:
    data = segment(*THREE)
    start = start_of(1, *THREE)
    data[start + 60] ^= 1
    error = refused(data)
    assert error.offset == start
    assert f"valid one (at offset {LAST})" in str(error)


def test_values_cannot_pose_as_a_later_batch() -> None:
    forged = records.encode_batch(SALT ^ 1, 9, [ENTRY])
    value = records.encode_entry(1, 1, 1, 0, forged + random.Random(2).randbytes(2000))
    data = segment([], [value])
    start, end = start_of(1, [], [value]), start_of(2, [], [value])
    data[end - 1500 : end] = bytes(1500)
    torn = scan(data).torn_tail()
    assert torn is not None
    assert torn.offset == start


def test_a_tail_that_was_half_zeroed_is_still_torn() -> None:
    data = segment(*THREE)
    data[LAST + 1000 : END] = bytes(END - LAST - 1000)
    for zeroed in range(1, 600):
        data[LAST : LAST + zeroed] = bytes(zeroed)
        assert scan(data).torn_tail() == TornTail(LAST, LAST + 1000)


def test_bytes_far_behind_the_end_are_dropped() -> None:
    data = segment(*THREE)
    data[-1] = 1
    assert scan(data).torn_tail() == TornTail(END, MADE_BYTES)
    assert scan(data + b"x").torn_tail() == TornTail(END, MADE_BYTES + 1)


@pytest.mark.parametrize("size", [END + 8, END + 100, MADE_BYTES - 1])
def test_a_file_that_lost_only_zeros_is_fine(size: int) -> None:
    assert scan(segment(*THREE)[:size]).torn_tail() is None


@pytest.mark.parametrize("size", [LAST, LAST + 3, LAST + 50, END - 1, END, END + 7])
def test_a_file_that_may_have_lost_a_batch_is_refused(size: int) -> None:
    error = refused(segment(*THREE)[:size])
    assert error.offset == size
    assert str(MADE_BYTES) in str(error)


def test_a_segment_without_its_first_batch_is_refused() -> None:
    with pytest.raises(CorruptionError, match="first batch"):
        scan(segment())


@pytest.mark.parametrize("data", [b"", b"x", bytes(100), ENTRY, records.encode_close(1, 1)])
def test_what_starts_with_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="no segment header") as refusal:
        SegmentScan(memoryview(data), "file")
    assert refusal.value.offset == 0
