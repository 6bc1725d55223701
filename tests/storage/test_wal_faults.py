"""Disks that fill up or fail; the order in which what was appended is done; what is released."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from kvstore.config import WalConfig
from kvstore.errors import Internal
from kvstore.ids import GroupId, LogIndex
from kvstore.storage import records
from kvstore.storage.files import OsFiles
from kvstore.storage.wal import open_wal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvstore.storage.files import Files
    from kvstore.storage.replay import RecoveredLog
    from kvstore.storage.wal import Wal

CONFIG = WalConfig(segment_bytes=4096, live_bytes_max=1 << 20, reserve_bytes=2048)
DEADLINE_S = 10


class Watch:
    """Opens a log and notes what it reports."""

    def __init__(self) -> None:
        self.full: list[bool] = []
        self.fatal: list[BaseException] = []
        self.done: list[int] = []
        self._changed = asyncio.Event()

    async def open(
        self, directory: Path, files: Files | None = None, config: WalConfig = CONFIG
    ) -> tuple[Wal, dict[int, RecoveredLog]]:
        wal, logs = await open_wal(
            directory,
            cluster_id="c",
            node_id="n1",
            config=config,
            on_fatal=lambda error: self._note(self.fatal, error),
            on_disk_full=lambda full: self._note(self.full, full),
            files=files,
        )
        return wal, {int(group): log for group, log in logs.items()}

    def ran(self, number: int) -> Callable[[], None]:
        return lambda: self._note(self.done, number)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _note(self, notes: list[int] | list[bool] | list[BaseException], what: object) -> None:
        notes.append(what)  # type: ignore[arg-type]
        self._changed.set()


def entry(index: int, size: int = 100, group: int = 1) -> bytes:
    return records.encode_entry(group, index, 1, 0, bytes([index % 255 + 1]) * size)


def indexes(logs: dict[int, RecoveredLog], group: int = 1) -> list[int]:
    return [found.index for found in logs[group].entries] if group in logs else []


class FullDisk(OsFiles):
    """No room for new files while ``full``."""

    def __init__(self) -> None:
        self.full = False

    def allocate(self, fd: int, size: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().allocate(fd, size)


class FailingSync(OsFiles):
    """``fdatasync`` fails once, after ``good`` that did not, and claims success thereafter."""

    def __init__(self, good: int, code: int) -> None:
        self.syncs = -good
        self.code = code

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        if self.syncs == 1:
            raise OSError(self.code, os.strerror(self.code))
        super().sync_data(fd)


async def test_a_full_disk_holds_what_does_not_fit_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    watch, disk = Watch(), FullDisk()
    wal, _ = await watch.open(tmp_path, disk)
    wal.append([entry(1)], watch.ran(1))
    await watch.until(lambda: watch.done == [1])
    disk.full = True
    for index in range(2, 100):
        wal.append([entry(index)], watch.ran(index))
    await watch.until(lambda: watch.full == [True])
    before = len(watch.done)
    assert before < 99
    disk.full = False
    await watch.until(lambda: len(watch.done) == 99)
    await watch.until(lambda: watch.full == [True, False])
    assert watch.done == list(range(1, 100))
    await wal.close()
    wal, logs = await watch.open(tmp_path)
    assert indexes(logs) == list(range(1, 100))
    assert not watch.fatal
    await wal.close()


async def test_votes_get_through_a_full_disk_ahead_of_what_is_held(tmp_path: Path) -> None:
    watch, disk = Watch(), FullDisk()
    wal, _ = await watch.open(tmp_path, disk)
    wal.append([entry(1)], watch.ran(1))
    await watch.until(lambda: watch.done == [1])
    disk.full = True
    wal.append([entry(2, size=3000)], watch.ran(2))
    wal.append([entry(3, size=3000)], watch.ran(3))
    for term in range(1, 21):
        vote = [records.encode_hard_state(1, term, 2)]
        wal.append(vote, watch.ran(100 + term), urgent=True)
    await watch.until(lambda: watch.done[-1] == 120)
    assert 3 not in watch.done
    await wal.close()
    assert 3 not in watch.done, "what was held must not be acknowledged"
    wal, logs = await watch.open(tmp_path)
    assert (logs[1].term, logs[1].vote) == (20, 2)
    assert indexes(logs) == ([1, 2] if 2 in watch.done else [1])
    await wal.close()


async def test_a_replica_is_held_on_a_full_disk_and_no_vote_of_another_group_is_void(
    tmp_path: Path,
) -> None:
    """What the earlier replica appended stays before it, what the later one does behind it."""
    watch, disk = Watch(), FullDisk()
    wal, _ = await watch.open(tmp_path, disk)
    wal.append([records.encode_replica(1, 11), records.encode_hard_state(1, 5, 1)], watch.ran(1))
    await watch.until(lambda: watch.done == [1])
    disk.full = True
    for number in range(2, 5):
        wal.append([entry(number - 1, size=3000)], watch.ran(number))
    wal.append([records.encode_replica(1, 12)], watch.ran(5))
    for term in range(1, 11):
        wal.append([records.encode_hard_state(2, term, 2)], watch.ran(100 + term), urgent=True)
    await watch.until(lambda: watch.done[-1] == 110)
    assert 5 not in watch.done
    disk.full = False
    await watch.until(lambda: 5 in watch.done)
    wal.append([records.encode_hard_state(1, 1, 2)], watch.ran(6))
    await watch.until(lambda: watch.done[-1] == 6)
    await wal.close()
    wal, logs = await watch.open(tmp_path)
    assert (logs[1].replica, logs[1].term, logs[1].vote, indexes(logs)) == (12, 1, 2, [])
    assert (logs[2].term, logs[2].vote) == (10, 2)
    await wal.close()


async def test_votes_get_through_when_only_an_oversized_append_is_held(tmp_path: Path) -> None:
    """The spare for the next segment is there, but too small for what waits."""
    watch, disk = Watch(), FullDisk()
    wal, _ = await watch.open(tmp_path, disk)
    for index in range(1, 13):
        wal.append([entry(index, size=200)], watch.ran(index))
    await watch.until(lambda: len(watch.done) == 12)
    wal.append([entry(13, size=600)], watch.ran(13))
    await watch.until(lambda: len(watch.done) == 13)
    disk.full = True
    wal.append([entry(14, size=10_000)], watch.ran(14))
    for term in range(1, 11):
        vote = [records.encode_hard_state(1, term, 2)] * 2
        wal.append(vote, watch.ran(100 + term), urgent=True)
        await watch.until(lambda: watch.done[-1] == 100 + term)  # noqa: B023  awaited at once
    assert "reserve" not in os.listdir(tmp_path)
    disk.full = False
    await watch.until(lambda: watch.done[-1] == 14)
    wal.append([entry(15)], watch.ran(15))
    await watch.until(lambda: watch.done[-1] == 15)
    await wal.close()
    assert not watch.fatal
    wal, logs = await watch.open(tmp_path)
    assert indexes(logs) == list(range(1, 16))
    assert logs[1].term == 10
    await wal.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_failed_sync_is_fatal_and_acknowledges_nothing(tmp_path: Path, code: int) -> None:
    watch = Watch()
    wal, _ = await watch.open(tmp_path, FailingSync(good=1, code=code))
    wal.append([entry(1)], watch.ran(1))
    await watch.until(lambda: watch.done == [1])
    wal.append([entry(2)], watch.ran(2))
    await watch.until(lambda: bool(watch.fatal))
    wal.append([entry(3)], watch.ran(3))
    wal.append([], watch.ran(4))
    await wal.close()
    assert watch.done == [1]
    assert len(watch.fatal) == 1
    assert isinstance(watch.fatal[0], Internal)


class SlowSync(OsFiles):
    """A sync waits until it is let go; ``waiting`` is set while one does."""

    def __init__(self) -> None:
        self.syncs = 0
        self.waiting = threading.Event()
        self.go = threading.Event()

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        self.waiting.set()
        assert self.go.wait(DEADLINE_S)
        super().sync_data(fd)


async def test_what_gathers_during_a_sync_is_one_batch_and_runs_in_order(tmp_path: Path) -> None:
    watch, disk = Watch(), SlowSync()
    wal, _ = await watch.open(tmp_path, disk)
    wal.append([entry(1)], watch.ran(1))
    assert await asyncio.to_thread(disk.waiting.wait, DEADLINE_S)
    for index in range(2, 12):
        wal.append([entry(index)], watch.ran(index))
    wal.append([], watch.ran(12))
    await asyncio.sleep(0)
    assert watch.done == [], "nothing is done before its sync"
    disk.go.set()
    await watch.until(lambda: len(watch.done) == 12)
    assert watch.done == list(range(1, 13))
    assert disk.syncs == 2
    wal.append([], watch.ran(13))
    assert watch.done[-1] == 12, "never from within append"
    await watch.until(lambda: watch.done[-1] == 13)
    await wal.close()


async def test_close_finishes_what_was_appended(tmp_path: Path) -> None:
    watch = Watch()
    wal, _ = await watch.open(tmp_path)
    for index in range(1, 200):
        wal.append([entry(index)], watch.ran(index))
    await wal.close()
    assert watch.done == list(range(1, 200))
    await wal.close()
    wal, logs = await watch.open(tmp_path)
    assert indexes(logs) == list(range(1, 200))
    await wal.close()


async def test_release_deletes_only_what_is_covered_and_marked(tmp_path: Path) -> None:
    watch = Watch()
    wal, _ = await watch.open(tmp_path)
    wal.append([records.encode_hard_state(1, 7, 3), entry(1, group=2)], watch.ran(0))
    for index in range(1, 101):
        wal.append([entry(index)], watch.ran(index))
        await watch.until(lambda: len(watch.done) == index + 1)  # noqa: B023  awaited at once
    before = names(tmp_path)

    async def release(covered: dict[int, int], number: int) -> list[str]:
        """A release is over at the latest when what is appended after its batch is durable."""
        wal.release({GroupId(group): LogIndex(index) for group, index in covered.items()})
        wal.append([records.encode_hard_state(1, 7, 3)], watch.ran(number))
        await watch.until(lambda: watch.done[-1] == number)
        wal.append([records.encode_hard_state(1, 7, 3)], watch.ran(number + 1))
        await watch.until(lambda: watch.done[-1] == number + 1)
        return names(tmp_path)

    assert await release({1: 90, 2: 1}, 1010) == before, "nothing is marked yet"
    marks = [records.encode_mark(1, 90, 1, b"one"), records.encode_mark(2, 1, 1, b"two")]
    wal.append(marks, watch.ran(1020))
    assert await release({1: 90}, 1030) == before, "group 2 still needs the first one"
    after = await release({1: 90, 2: 1}, 1040)
    assert len(after) < len(before)
    assert after == before[-len(after) :]
    assert wal.live_bytes < 100 * 200
    await wal.close()
    wal, logs = await watch.open(tmp_path)
    found = indexes(logs)
    assert found == list(range(found[0], 101))
    assert 1 < found[0] <= 91
    assert (logs[1].term, logs[1].vote, logs[1].mark) == (7, 3, (90, 1, b"one"))
    assert logs[2].mark == (1, 1, b"two")
    await wal.close()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.wal"))
