"""The log as the node uses it: order, durability, what is kept, and whose it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from storage_support import SMALL, FaultyFiles, Owner, durable, no_space, open_log

from kvstore.config import WalConfig
from kvstore.errors import CorruptionError, DataDirectoryError, DiskFull
from kvstore.storage import records
from kvstore.storage.records import SegmentHeader
from kvstore.storage.segment_files import segment_name
from kvstore.storage.wal import open_wal

if TYPE_CHECKING:
    from pathlib import Path


def entry(index: int, size: int = 10, group: int = 1) -> bytes:
    return records.encode_entry(group, index, 1, 0, index.to_bytes(8, "big") * (size // 8))


def sizes(directory: Path) -> list[int]:
    """Of the segment files."""
    return [path.stat().st_size for path in directory.glob("*.wal")]


async def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    wal, found = await open_log(tmp_path)
    assert found == {}
    await durable(
        wal, [records.encode_hard_state(1, 4, 2), records.encode_entry(1, 1, 4, 2, b"payload")]
    )
    await durable(wal, [records.encode_mark(1, 1, 4, b"config"), entry(1, group=2)])
    await wal.close()
    wal, found = await open_log(tmp_path)
    await wal.close()
    log = found[1]
    assert (log.term, log.vote, log.mark) == (4, 2, (1, 4, b"config"))
    assert log.entries == [(1, 4, 2, b"payload")]
    assert [index for index, *_ in found[2].entries] == [1]


async def test_done_runs_in_order_and_without_records_too(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    order: list[int] = []
    finished = asyncio.Event()
    for number in range(200):
        batch = [] if number % 3 else [entry(number // 3 + 1)]
        wal.append(batch, lambda number=number: order.append(number))
        if number % 50 == 49:
            await asyncio.sleep(0)
    wal.append([], finished.set)
    await finished.wait()
    assert order == list(range(200))
    await wal.close()


async def test_without_records_and_with_nothing_in_flight_done_is_not_run_at_once(
    tmp_path: Path,
) -> None:
    wal, _ = await open_log(tmp_path)
    order: list[str] = []
    wal.append([], lambda: order.append("done"))
    order.append("after append")
    wal.append([entry(1)], lambda: order.append("durable"))
    await durable(wal, [])
    assert order == ["after append", "done", "durable"]
    await wal.close()


async def test_a_done_that_raises_is_fatal_and_the_rest_is_not_run(tmp_path: Path) -> None:
    owner = Owner()
    wal, _ = await open_log(tmp_path, owner)
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: raised.append(context["exception"])
    )
    ran: list[int] = []
    error = ValueError("bug")

    def fail() -> None:
        raise error

    wal.append([entry(1)], fail)
    wal.append([entry(2)], lambda: ran.append(2))
    await owner.until(lambda: bool(owner.fatal))
    wal.append([], lambda: ran.append(3))
    await wal.close()
    await asyncio.sleep(0)
    assert owner.fatal == raised == [error]
    assert ran == []


async def test_after_close_nothing_is_written(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [entry(1)])
    await wal.close()
    await wal.close()
    acknowledged: list[int] = []
    wal.append([entry(2)], lambda: acknowledged.append(2))
    wal, found = await open_log(tmp_path)
    assert found[1].end == 1
    await wal.close()
    assert acknowledged == []


async def test_many_segments_and_an_append_larger_than_one(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    for index in range(1, 101):
        await durable(wal, [entry(index, 1000)])
    await durable(wal, [entry(101, 3 * SMALL.segment_bytes)])
    await durable(wal, [entry(102)])
    await wal.close()
    assert len(sizes(tmp_path)) > 10
    wal, found = await open_log(tmp_path)
    await wal.close()
    assert [index for index, *_ in found[1].entries] == list(range(1, 103))
    assert len(found[1].entries[100].payload) == 3 * SMALL.segment_bytes


async def test_released_segments_go_and_live_bytes_with_them(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [records.encode_hard_state(1, 7, 3)])
    for index in range(1, 101):
        await durable(wal, [entry(index, 1000)])
    await durable(wal, [])
    before = wal.live_bytes
    wal.append([records.encode_mark(1, 90, 1, b"c")], lambda: None)
    wal.release({1: 90})
    await wal.close()
    assert wal.live_bytes < before / 3
    assert wal.live_bytes == pytest.approx(sum(sizes(tmp_path)), abs=SMALL.segment_bytes)
    wal, found = await open_log(tmp_path)
    await wal.close()
    log = found[1]
    assert (log.term, log.vote, log.mark, log.end) == (7, 3, (90, 1, b"c"), 100)
    assert 80 < log.entries[0].index <= 91
    assert log.missing() is None


async def test_entries_that_the_engine_has_are_not_kept_in_memory(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [entry(index) for index in range(1, 51)])
    await durable(wal, [records.encode_mark(1, 40, 1, b"c")])
    await wal.close()
    wal, found = await open_log(tmp_path, applied={1: 30})
    await wal.close()
    assert [index for index, *_ in found[1].entries] == list(range(30, 51))


async def test_a_segment_size_may_change(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [entry(1)])
    await wal.close()
    larger = WalConfig(segment_bytes=4 * SMALL.segment_bytes, reserve_bytes=4096)
    for config, index in ((larger, 2), (SMALL, 3), (SMALL, 4)):
        wal, _ = await open_log(tmp_path, config=config)
        await durable(wal, [entry(index)])
        await wal.close()
    wal, found = await open_log(tmp_path)
    await wal.close()
    assert found[1].end == 4


async def test_progress_reaches_the_total(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    for index in range(1, 31):
        await durable(wal, [entry(index, 1000)])
    await wal.close()
    told: list[tuple[int, int]] = []
    owner = Owner()
    wal, _ = await open_wal(
        tmp_path,
        cluster_id="c",
        node_id="n1",
        config=SMALL,
        on_fatal=owner.on_fatal,
        on_disk_full=owner.on_disk_full,
        progress=lambda done, total: told.append((done, total)),
    )
    await wal.close()
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 30_000
    assert told == sorted(told)


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    header = SegmentHeader(1, 1, 5, 8192, "c", "n1", version=records.FORMAT_VERSION + 1)
    (tmp_path / segment_name(1)).write_bytes(records.encode_segment_header(header))
    with pytest.raises(DataDirectoryError, match="format 2"):
        await open_log(tmp_path)


async def test_a_log_whose_segments_are_gone_is_missed(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [entry(1)])
    await wal.close()
    (tmp_path / segment_name(1)).unlink()
    with pytest.raises(CorruptionError, match="the log is gone"):
        await open_log(tmp_path)


async def test_a_log_that_is_gone_is_missed_if_the_engine_applied_something(
    tmp_path: Path,
) -> None:
    with pytest.raises(CorruptionError, match="the log is gone"):
        await open_log(tmp_path / "new", applied={1: 3})
    wal, _ = await open_log(tmp_path / "new", applied={1: 0})
    await wal.close()


async def test_a_stranger_among_the_segments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001 copy.wal").touch()
    with pytest.raises(CorruptionError, match=r"copy\.wal"):
        await open_log(tmp_path)


async def test_no_room_for_a_first_segment(tmp_path: Path) -> None:
    files = FaultyFiles()

    def full(operation: str, target: object) -> None:
        if operation == "allocate":
            raise no_space()

    files.fault = full
    with pytest.raises(DiskFull):
        await open_log(tmp_path, files=files)
    wal, _ = await open_log(tmp_path)
    await wal.close()


async def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    files = FaultyFiles()

    def fail(operation: str, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    files.fault = fail
    with pytest.raises(DataDirectoryError, match="Permission denied"):
        await open_log(tmp_path, files=files)
