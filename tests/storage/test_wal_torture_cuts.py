"""A log that is cut, or whose tail reads as zeros: what must survive, to the byte.

What the format promises (:mod:`kvstore.storage.scan`) and is checked here at every offset:

* a file that is shorter than what was written to it is refused, for it was made larger;
* a write that was not acknowledged may be missing, as a whole, and nothing else;
* of a tail of zeros nobody can tell whether it was ever written. The log then ends with the
  last batch before it, and says so if any byte of the next one is left.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from torture_log import Case, Written, append, judge, open_log, recover, used_bytes

from kvstore.errors import CorruptionError
from kvstore.storage import records
from kvstore.storage.scan import SECTOR_BYTES, SPARE_ZEROS_MIN

if TYPE_CHECKING:
    from pathlib import Path

    from torture_log import State

LENGTH_ZEROS = 3
"""With so many bytes a batch begins that are zeros anyway: its length is below 256."""


def last_segment(written: Written) -> tuple[dict[str, bytes], str, bytes]:
    contents = written.contents()
    name = max(contents)
    return contents, name, contents[name]


def left_of(written: Written, offset: int) -> State:
    """What was written in whole batches before ``offset`` of the last segment."""
    _, _, data = last_segment(written)
    ends = [*written.batch_starts()[1:], used_bytes(data)]
    return written.states[-1 - sum(end > offset for end in ends)]


async def test_the_images_themselves_are_complete(written: Written, closed: Written) -> None:
    assert judge(written.contents()) == written.final
    assert judge(closed.contents()) == closed.final
    assert len(written.segments()) >= 5
    assert len(written.batch_starts()) >= 5


def test_the_last_segment_cut_at_every_byte(written: Written) -> None:
    """Preallocated zeros may go, all but a few; a file that ends earlier lost what it held."""
    contents, name, data = last_segment(written)
    used = used_bytes(data)
    for size in range(len(data)):
        end = judge({**contents, name: data[:size]})
        if size < used + SPARE_ZEROS_MIN:
            assert isinstance(end, CorruptionError), size
        else:
            assert end == written.final, size


def test_the_last_segment_of_a_closed_log_cut_at_every_byte(closed: Written) -> None:
    contents, name, data = last_segment(closed)
    used = used_bytes(data)
    for size in range(len(data)):
        end = judge({**contents, name: data[:size]})
        if size < used + SPARE_ZEROS_MIN:
            assert isinstance(end, CorruptionError), size
        else:
            assert end == closed.final, size


async def test_cuts_on_a_real_disk(case: Case) -> None:
    _, name, data = last_segment(case.written)
    used = used_bytes(data)
    for size in (0, 1, 60, used - 1, used, used + 7, used + 8, len(data) - 1):
        directory = case.copy()
        (directory / name).write_bytes(data[:size])
        if size < used + SPARE_ZEROS_MIN:
            await case.is_refused(directory)
        else:
            await case.is_complete(directory)


@pytest.mark.parametrize("fill", ["cut", "zeros"])
def test_every_earlier_segment_cut_or_zeroed_from_every_byte(written: Written, fill: str) -> None:
    """Only the record that closes a segment can be spared: the next one follows on."""
    contents = written.contents()
    for name in sorted(contents)[:-1]:
        data = contents[name]
        for offset in range(len(data)):
            rest = bytes(len(data) - offset) if fill == "zeros" else b""
            end = judge({**contents, name: data[:offset] + rest})
            if offset < used_bytes(data) - records.BATCH_HEAD_BYTES:
                assert isinstance(end, CorruptionError), (name, offset)
            else:
                assert end == written.final, (name, offset)


def test_the_tail_zeroed_from_every_byte(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    contents, name, data = last_segment(written)
    starts = written.batch_starts()
    first_end = starts[1]
    for offset in range(used_bytes(data) + 2):
        caplog.clear()
        end = judge({**contents, name: data[:offset] + bytes(len(data) - offset)})
        if offset < first_end:
            assert isinstance(end, CorruptionError), "the first batch was synced with the name"
            continue
        assert end == left_of(written, offset), offset
        left = offset - max(start for start in starts if start <= offset)
        is_cut = offset < used_bytes(data) and left > LENGTH_ZEROS
        assert ("torn write" in caplog.text) == is_cut, offset


async def test_a_zeroed_tail_on_a_real_disk_stays_as_it_was_found(case: Case) -> None:
    _, name, data = last_segment(case.written)
    start = case.written.batch_starts()[-2]
    for offset in (start, start + 1, start + 20, start + 50, used_bytes(data) - 1):
        directory = case.copy()
        (directory / name).write_bytes(data[:offset] + bytes(len(data) - offset))
        assert await case.end(directory) == left_of(case.written, offset)


def test_a_zeroed_sector_is_refused_but_in_the_last_batch(written: Written) -> None:
    contents, last, _ = last_segment(written)
    for name, whole in contents.items():
        end = written.batch_starts()[-1] if name == last else used_bytes(whole)
        for sector in range(0, end - SECTOR_BYTES - records.BATCH_HEAD_BYTES, SECTOR_BYTES):
            holed = whole[:sector] + bytes(SECTOR_BYTES) + whole[sector + SECTOR_BYTES :]
            assert isinstance(judge({**contents, name: holed}), CorruptionError), (name, sector)


# -- the write that was not acknowledged ----------------------------------------------------


def test_an_unacknowledged_write_torn_at_every_byte(unsynced: Written) -> None:
    """It may be gone; everything that was acknowledged is there."""
    contents, name, data = last_segment(unsynced)
    start, used = unsynced.batch_starts()[-1], used_bytes(data)
    assert used - start > SECTOR_BYTES
    for offset in range(start, used):
        end = judge({**contents, name: data[:offset] + bytes(len(data) - offset)})
        assert end == unsynced.states[-2], offset
    assert judge(contents) == unsynced.final


def test_any_sectors_of_an_unacknowledged_write_lost(unsynced: Written) -> None:
    contents, name, data = last_segment(unsynced)
    start, used = unsynced.batch_starts()[-1], used_bytes(data)
    sectors = range(start - start % SECTOR_BYTES, used, SECTOR_BYTES)
    for lost in range(1, 1 << len(sectors)):
        torn = bytearray(data)
        for number, sector in enumerate(sectors):
            if lost >> number & 1:
                low, high = max(sector, start), min(sector + SECTOR_BYTES, used)
                torn[low:high] = bytes(high - low)
        assert judge({**contents, name: bytes(torn)}) == unsynced.states[-2], lost


async def test_a_torn_write_on_a_real_disk(
    unsynced: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(unsynced, tmp_path, caplog)
    _, name, data = last_segment(unsynced)
    start = unsynced.batch_starts()[-1]
    for offset in (start + 4, start + 100, used_bytes(data) - 1):
        directory = case.copy()
        (directory / name).write_bytes(data[:offset] + bytes(len(data) - offset))
        assert await case.end(directory) == unsynced.states[-2]
        assert f"{name}: a torn write at offset {start}" in case.said()


# -- the limit of what can be told apart ----------------------------------------------------


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
async def test_a_flip_beside_a_sector_of_zeros_in_the_very_last_batch(
    tmp_path: Path, is_closed: bool
) -> None:
    """It looks as a torn write does. Behind a clean close stands the proof that it is not."""
    live, image = tmp_path / "live", tmp_path / "image"
    wal, _ = await open_log(live)
    await append(wal, [records.encode_entry(1, 1, 1, 0, b"first")])
    value = random.Random(1).randbytes(100) + bytes(3 * SECTOR_BYTES)
    await append(wal, [records.encode_entry(1, 2, 1, 0, value)])
    if not is_closed:
        shutil.copytree(live, image)
    await wal.close()
    if is_closed:
        shutil.copytree(live, image)
    segment = max(image.glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[data.index(value[:100]) + 50] ^= 1
    segment.write_bytes(data)
    if is_closed:
        with pytest.raises(CorruptionError, match="a damaged batch before a valid one"):
            await recover(image)
    else:
        assert (await recover(image))[1][3] == [(1, 1, 0, b"first")]
