"""Orders that pass each other between the loop and the thread."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest
from storage_support import Owner, durable, open_log
from test_wal_here import LARGE, at_rest, entry, opened

from kvstore.storage import records

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("by", ["thread", "loop"])
async def test_a_release_counts_after_the_marks_before_it(tmp_path: Path, by: str) -> None:
    """As ``LogKeeper.release`` does it: marks, then the release that rests on them."""
    log, _ = await opened(tmp_path)
    for index in range(1, 10):
        await durable(log, [entry(index, 200 * 1024)])  # more than one segment
    assert log.live_bytes > LARGE.segment_bytes
    await at_rest(log)
    log._here_from = 0.0 if by == "loop" else float("inf")
    before = log.live_bytes
    done = asyncio.Event()
    log.append([records.encode_mark(1, 9, 1, b"")], done.set)
    log.release({1: 9})
    while not log._writer.orders.empty():  # the loop is busy: the thread has its turn
        assert log._thread.is_alive()
    with log._writer._turn:
        pass
    async with asyncio.timeout(10):
        await done.wait()
    await log.close()
    assert log.live_bytes < before


async def test_after_a_failed_sync_nothing_is_written_not_even_at_the_end(tmp_path: Path) -> None:
    owner = Owner()
    log, files = await opened(tmp_path, owner)
    await durable(log, [entry(1)])
    writes: list[str] = []

    def fail(operation: str, target: object) -> None:
        if operation == "sync_data" and not owner_failed:
            owner_failed.append(1)
            raise OSError(errno.EIO, "broken")
        if owner_failed:
            writes.append(operation)

    owner_failed: list[int] = []
    files.fault = fail
    log.append([records.encode_entry(1, 2, 1, 0, b"x" * 2000)], lambda: None)
    await owner.until(lambda: bool(owner.fatal))
    writes.clear()
    await log.close()
    assert "write" not in writes
    reopened, _ = await open_log(tmp_path)  # the batch was whole but for its sync
    await reopened.close()


async def test_if_the_clock_fails_nothing_later_is_acknowledged(tmp_path: Path) -> None:
    """Else the log has a hole: what follows is durable, and by it what came before counts too."""
    owner = Owner()
    log, _ = await opened(tmp_path, owner)
    log._here_from = 0.0  # only the loop looks at the clock

    def fail() -> float:
        raise OSError(errno.EIO, "no schedstat")

    log._clock.now = fail  # type: ignore[method-assign]
    acknowledged: list[int] = []
    log.append([entry(1)], lambda: acknowledged.append(1))
    await owner.until(lambda: bool(owner.fatal))
    log.append([entry(2)], lambda: acknowledged.append(2))
    await log.close()
    assert len(owner.fatal) == 1
    assert acknowledged == []
