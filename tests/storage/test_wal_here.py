"""What the loop writes itself, and when it leaves that to the thread."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import TYPE_CHECKING

import pytest
from storage_support import FaultyFiles, Owner, durable, no_space, open_log

from kvstore.config import WalConfig
from kvstore.errors import Internal
from kvstore.storage import records
from kvstore.storage import wal as wal_module
from kvstore.storage.segments import ZEROED_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.wal import Wal

LARGE = WalConfig(segment_bytes=1 << 20, live_bytes_max=1 << 22, reserve_bytes=2048)


@pytest.fixture(autouse=True)
def _is_never_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "BUSY_S", 0.0)


def entry(index: int, size: int = 16) -> bytes:
    return records.encode_entry(1, index, 1, 0, bytes(size))


class WatchedFiles(FaultyFiles):
    """Notes which thread synced."""

    def __init__(self) -> None:
        super().__init__()
        self.syncers: list[bool] = []
        """Whether it was the loop's, for each sync."""

    def sync_data(self, fd: int) -> None:
        super().sync_data(fd)
        self.syncers.append(threading.current_thread() is threading.main_thread())


async def opened(path: Path, owner: Owner | None = None) -> tuple[Wal, WatchedFiles]:
    """A log whose thread has made all that it needs, and rests."""
    files = WatchedFiles()
    log, _ = await open_log(path, owner, files=files, config=LARGE)
    await at_rest(log)
    files.syncers.clear()
    return log, files


async def at_rest(log: Wal) -> None:
    """Have the thread do something, and wait until it is done with all that follows."""
    await durable(log, [records.encode_hard_state(2, 1, 0)] * (wal_module.HERE_BYTES_MAX // 16))
    with log._writer._turn:
        assert log._writer._segments.is_ready_for(1)


async def test_alone_and_small_it_is_written_by_the_loop(tmp_path: Path) -> None:
    log, files = await opened(tmp_path)
    await durable(log, [entry(1)])
    assert files.syncers == [True]
    await log.close()
    log, logs = await open_log(tmp_path)
    assert [index for index, *_ in logs[1].entries] == [1]
    await log.close()


async def test_it_does_not_take_the_time_to_write_zeros_ahead(tmp_path: Path) -> None:
    log, files = await opened(tmp_path)
    await durable(log, [entry(1, 2 * ZEROED_BYTES)])
    with log._writer._turn:
        files.operations.clear()
    await durable(log, [entry(2)])
    assert files.operations == ["write", "sync_data"]
    assert files.syncers == [False, True]
    await at_rest(log)
    assert files.operations.count("write") > len(files.syncers)  # the thread does
    await log.close()


async def test_what_is_to_be_sent_leaves_first(tmp_path: Path) -> None:
    """uvloop writes to sockets at the end of an iteration, what a callback sends in the next."""
    log, files = await opened(tmp_path)
    seen: list[int] = []
    loop = asyncio.get_running_loop()

    def send() -> None:
        loop.call_soon(lambda: seen.append(len(files.syncers)))

    loop.call_soon(send)
    done = asyncio.Event()
    log.append([entry(1)], done.set)
    await asyncio.sleep(0)
    assert files.syncers == []
    await done.wait()
    assert seen == [0]
    await log.close()


async def test_all_of_one_iteration_is_one_batch_in_order(tmp_path: Path) -> None:
    log, files = await opened(tmp_path)
    order: list[int] = []
    for index in range(1, 4):
        log.append([entry(index)], lambda index=index: order.append(index))
    await durable(log, [])
    assert order == [1, 2, 3]
    assert files.syncers == [True]
    await log.close()


@pytest.mark.parametrize("late", [1, 2])
async def test_what_is_too_much_goes_to_the_thread_in_order(tmp_path: Path, late: int) -> None:
    """Whichever of the appends is the large one."""
    log, files = await opened(tmp_path)
    order: list[int] = []
    for index in range(1, 4):
        size = wal_module.HERE_BYTES_MAX if index == late else 16
        log.append([entry(index, size)], lambda index=index: order.append(index))
    await durable(log, [])
    assert order == [1, 2, 3]
    assert True not in files.syncers
    await log.close()


async def test_while_something_is_under_way_all_goes_to_the_thread(tmp_path: Path) -> None:
    log, files = await opened(tmp_path)
    done = asyncio.Event()
    log.append([entry(1, wal_module.HERE_BYTES_MAX)], lambda: None)
    log.append([entry(2)], done.set)
    await done.wait()
    assert True not in files.syncers
    await at_rest(log)
    await durable(log, [entry(3)])
    assert files.syncers[-1]
    await log.close()


async def test_a_busy_log_is_left_to_the_thread_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, files = await opened(tmp_path)
    await durable(log, [entry(1)])
    monkeypatch.setattr(wal_module, "BUSY_S", 1e9)
    await durable(log, [entry(2)])
    assert files.syncers == [True, True]
    await durable(log, [entry(3, wal_module.HERE_BYTES_MAX)])
    await durable(log, [entry(4)])
    assert files.syncers == [True, True, False, False]
    await log.close()


async def test_a_slow_disk_is_left_to_the_thread_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, files = await opened(tmp_path)
    monkeypatch.setattr(wal_module, "HERE_S_MAX", -1.0)  # nothing is quick enough
    monkeypatch.setattr(wal_module, "PAUSE_FACTOR", 1e9)
    await durable(log, [entry(1)])
    await durable(log, [entry(2)])
    assert files.syncers == [True, False]
    await log.close()


async def test_a_failed_sync_is_fatal_and_acknowledges_nothing(tmp_path: Path) -> None:
    owner = Owner()
    log, files = await opened(tmp_path, owner)

    def fail(operation: str, target: object) -> None:
        if operation == "sync_data":
            raise OSError(errno.EIO, "broken")

    files.fault = fail
    acknowledged: list[int] = []
    log.append([entry(1)], lambda: acknowledged.append(1))
    await owner.until(lambda: bool(owner.fatal))
    log.append([entry(2)], lambda: acknowledged.append(2))
    await log.close()
    assert isinstance(owner.fatal[0], Internal)
    assert acknowledged == []


async def test_without_room_the_thread_takes_over_and_nothing_is_lost(tmp_path: Path) -> None:
    log, files = await opened(tmp_path)
    failures = iter([True])

    def fail_once(operation: str, target: object) -> None:
        if operation == "write" and next(failures, False):
            raise no_space()

    files.fault = fail_once
    await durable(log, [entry(1)])
    assert files.syncers[-1] is False
    await durable(log, [entry(2)])
    await log.close()
    log, logs = await open_log(tmp_path)
    assert [index for index, *_ in logs[1].entries] == [1, 2]
    await log.close()


async def test_close_writes_what_waits_for_the_end_of_the_iteration(tmp_path: Path) -> None:
    log, _ = await opened(tmp_path)
    done: list[int] = []
    log.append([entry(1)], lambda: done.append(1))
    await log.close()
    await asyncio.sleep(0)
    assert done == [1]
