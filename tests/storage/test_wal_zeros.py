"""Zeros that are written ahead of the log's batches."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from storage_support import Owner, durable, no_space, open_log

from kvstore.config import WalConfig
from kvstore.storage import records
from kvstore.storage import wal as wal_module
from kvstore.storage.files import OsFiles
from kvstore.storage.segment_files import segment_name, segment_paths
from kvstore.storage.segments import PAGE, SMALL_BYTES, ZEROED_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEGMENT_BYTES = 1 << 20
CONFIG = WalConfig(segment_bytes=SEGMENT_BYTES, live_bytes_max=1 << 22, reserve_bytes=2048)
NEARLY_LARGE_BYTES = SMALL_BYTES - 100


class Write(NamedTuple):
    offset: int
    size: int
    is_zeros: bool

    @property
    def end(self) -> int:
        return self.offset + self.size


class WatchedFiles(OsFiles):
    """Notes what is written, and how much had been when each sync began."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.synced = 0

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        super().write(fd, pieces, offset)
        self.writes.append(Write(offset, sum(map(len, pieces)), not any(map(any, pieces))))

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self.synced = len(self.writes)


class NoRoomForZeros(OsFiles):
    """A full disk of a file system that puts whatever is written in a new place."""

    def __init__(self) -> None:
        self.refused = 0

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None:
        if not any(map(any, pieces)):
            self.refused += 1
            raise no_space()
        super().write(fd, pieces, offset)


@pytest.fixture(autouse=True)
def _is_all_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "HERE_BYTES_MAX", -1)


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
    assert files.synced == len(writes)
    await log.close()
    log, logs = await open_log(path, config=CONFIG)
    assert [index for index, *_ in logs[1].entries] == list(range(1, len(sizes) + 1))
    await log.close()
    return writes


async def test_small_batches_are_written_to_what_was_written_before(tmp_path: Path) -> None:
    writes = await written(tmp_path, [3000] * 200)
    batches = [write for write in writes if not write.is_zeros]
    zeros = [write for write in writes if write.is_zeros]
    assert len(batches) == 200
    zeroed = 0
    for write in writes:
        if write.is_zeros:
            zeroed = write.end
        else:
            assert write.end <= zeroed
    assert sum(write.size for write in zeros) <= sum(w.size for w in batches) + ZEROED_BYTES


async def test_zeros_stand_behind_their_batch_page_by_page(tmp_path: Path) -> None:
    *zeros, batch = await written(tmp_path, [3000])
    assert [batch.is_zeros, *{write.is_zeros for write in zeros}] == [False, True]
    assert all(write.end == following.offset for write, following in pairwise([batch, *zeros]))
    assert zeros[-1].end == batch.end + ZEROED_BYTES
    assert all(write.end % len(PAGE) == 0 for write in zeros[:-1])
    assert max(write.size for write in zeros) == len(PAGE)


async def test_without_room_for_zeros_batches_go_without(tmp_path: Path) -> None:
    files, owner = NoRoomForZeros(), Owner()
    log, _ = await open_log(tmp_path, owner, files=files, config=CONFIG)
    for index in range(1, 100):
        await durable(log, [entry(index, 3000)])
    assert files.refused == 1
    await log.close()
    assert (owner.full, owner.fatal) == ([], [])
    assert segment_paths(tmp_path) == [tmp_path / segment_name(1)]
    log, logs = await open_log(tmp_path, config=CONFIG)
    assert [index for index, *_ in logs[1].entries] == list(range(1, 100))
    await log.close()


async def test_zeros_end_where_the_segment_does(tmp_path: Path) -> None:
    count = SEGMENT_BYTES // NEARLY_LARGE_BYTES - 1
    writes = await written(tmp_path, [NEARLY_LARGE_BYTES] * count)
    assert max(write.end for write in writes) == SEGMENT_BYTES
    assert (tmp_path / segment_name(1)).stat().st_size == SEGMENT_BYTES


async def test_large_batches_go_without(tmp_path: Path) -> None:
    writes = await written(tmp_path, [SMALL_BYTES] * 5)
    assert [write.is_zeros for write in writes] == [False] * 5


async def test_a_small_one_behind_large_ones_has_zeros_of_its_own(tmp_path: Path) -> None:
    writes = await written(tmp_path, [100, *[SMALL_BYTES] * 5, 100, 100])
    runs = [is_zeros for is_zeros, _ in groupby(write.is_zeros for write in writes)]
    assert runs == [True, False, True, False]
    assert sum(write.size for write in writes if write.is_zeros) == 2 * ZEROED_BYTES
