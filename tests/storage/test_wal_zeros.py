"""Zeros that are written ahead of the log's batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from storage_support import durable, open_log

from kvstore.config import WalConfig
from kvstore.storage import records
from kvstore.storage.files import OsFiles
from kvstore.storage.segment_files import segment_name
from kvstore.storage.segments import ZEROS, ZEROS_PER_BATCH_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEGMENT_BYTES = 1 << 20
CONFIG = WalConfig(segment_bytes=SEGMENT_BYTES, live_bytes_max=1 << 22, reserve_bytes=2048)
SMALL_BYTES = len(ZEROS) // ZEROS_PER_BATCH_MIN - 100
LARGE_BYTES = len(ZEROS) // ZEROS_PER_BATCH_MIN


class Write(NamedTuple):
    offset: int
    batch_bytes: int
    zeros: int

    @property
    def end(self) -> int:
        return self.offset + self.batch_bytes + self.zeros


class WatchedFiles(OsFiles):
    """Notes what is written, the zeros by themselves."""

    def __init__(self) -> None:
        self.writes: list[Write] = []

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        super().write(fd, pieces, offset)
        zeros = 0 if any(pieces[-1]) else len(pieces[-1])
        self.writes.append(Write(offset, sum(map(len, pieces)) - zeros, zeros))


def entry(index: int, size: int) -> bytes:
    return records.encode_entry(1, index, 1, 0, b"v" * size)


async def written(path: Path, sizes: Sequence[int]) -> list[Write]:
    """The writes of so many batches, each of one entry; the log gives them back."""
    files = WatchedFiles()
    log, _ = await open_log(path, files=files, config=CONFIG)
    files.writes.clear()
    for index, size in enumerate(sizes, 1):
        await durable(log, [entry(index, size)])
    writes = list(files.writes)
    await log.close()
    log, logs = await open_log(path, config=CONFIG)
    assert [index for index, *_ in logs[1].entries] == list(range(1, len(sizes) + 1))
    await log.close()
    return writes


async def test_small_batches_are_written_to_what_was_written_before(tmp_path: Path) -> None:
    writes = await written(tmp_path, [3000] * 200)
    assert len(writes) == 200
    zeroed = 0
    for write in writes:
        assert (write.zeros == 0) == (write.offset + write.batch_bytes <= zeroed)
        zeroed = max(zeroed, write.end)
    assert sum(write.zeros for write in writes) <= sum(w.batch_bytes for w in writes) + len(ZEROS)


async def test_zeros_end_where_the_segment_does(tmp_path: Path) -> None:
    count = SEGMENT_BYTES // SMALL_BYTES - 1
    writes = await written(tmp_path, [SMALL_BYTES] * count)
    assert max(write.end for write in writes) == SEGMENT_BYTES
    assert (tmp_path / segment_name(1)).stat().st_size == SEGMENT_BYTES


async def test_large_batches_go_without(tmp_path: Path) -> None:
    writes = await written(tmp_path, [LARGE_BYTES] * 5)
    assert [write.zeros for write in writes] == [0] * 5


async def test_a_small_one_behind_large_ones_has_zeros_of_its_own(tmp_path: Path) -> None:
    writes = await written(tmp_path, [100, LARGE_BYTES, *[LARGE_BYTES] * 20, 100, 100])
    assert [write.zeros for write in writes if write.zeros] == [len(ZEROS)] * 2
    assert writes[0].zeros == writes[-2].zeros == len(ZEROS)
