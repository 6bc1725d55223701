"""The machine goes down at any operation of the log, again and again, and loses what it may.

Rules checked after every crash: what was acknowledged is there; a batch is there whole or not
at all; nothing else is there; and the log never refuses to open.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from storage_support import SMALL, Crash, CrashingDisk

from kvstore.storage import records
from kvstore.storage.records import Record, read_record
from kvstore.storage.recovery import recover
from kvstore.storage.replay import RecoveredLog, Replay

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.segments import Segments

GROUPS = (1, 2, 3)


@dataclass
class History:
    """Batches in the order they were written; the last may not be acknowledged."""

    acknowledged: list[list[bytes]] = field(default_factory=list)
    attempted: list[bytes] | None = None

    def states(self) -> list[dict[int, RecoveredLog]]:
        """What recovery may find: without and with the batch that was in flight."""
        found = [replayed(self.acknowledged)]
        if self.attempted is not None:
            found.append(replayed([*self.acknowledged, self.attempted]))
        return found


def decoded(record: bytes) -> Record:
    found = read_record(memoryview(record), 0, len(record))
    assert found is not None
    return found


def replayed(batches: list[list[bytes]]) -> dict[int, RecoveredLog]:
    replay = Replay({})
    for batch in batches:
        for record in batch:
            assert replay.take(decoded(record)) is None
    return replay.logs


class Driver:
    """Writes batches of random records, and releases what they mark."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.history = History()
        self.stays = 0

    def batch(self) -> list[bytes]:
        """Continues each group's log as the history has it."""
        rng = self.rng
        logs = replayed(self.history.acknowledged)
        found: list[bytes] = []
        for group in GROUPS:
            log = logs.get(group, RecoveredLog())
            if rng.random() < 0.03:
                found.append(self.replica(group, log))
                log = RecoveredLog()
            marked = log.mark.index if log.mark else 0
            if rng.random() < 0.2:
                found.append(records.encode_hard_state(group, log.term + 1, rng.randint(0, 3)))
            if rng.random() < 0.1 and log.end > marked:
                found.append(records.encode_truncation(group, rng.randint(marked + 1, log.end)))
            elif rng.random() < 0.5 and log.end > marked:
                found.append(records.encode_mark(group, log.end, log.entries[-1].term, b"config"))
            else:
                size = rng.choice((0, 5, 300, 2000))
                payload = bytes(size) if rng.random() < 0.2 else rng.randbytes(size)
                found.append(records.encode_entry(group, log.end + 1, log.term, 0, payload))
        return found

    def replica(self, group: int, log: RecoveredLog) -> bytes:
        """It comes, comes again or leaves; which of them is also a matter of what it did last."""
        self.stays += 1
        is_leaving = log.replica and self.rng.random() < 0.5
        return records.encode_replica(group, 0 if is_leaving else self.stays)

    def run(self, segments: Segments, batches: int) -> None:
        for _ in range(batches):
            batch = self.batch()
            size = sum(map(len, batch))
            self.history.attempted = batch
            if not segments.has_room(size, urgent=False):
                segments.rotate(size)
            segments.write(batch, size)
            self.history.acknowledged.append(batch)
            self.history.attempted = None
            segments.note(batch)
            segments.prepare()
            if self.rng.random() < 0.2:
                logs = replayed(self.history.acknowledged)
                segments.release({group: log.mark.index for group, log in logs.items() if log.mark})


async def open_segments(
    directory: Path, files: CrashingDisk
) -> tuple[Segments, dict[int, RecoveredLog]]:
    return await recover(
        directory,
        files,
        SMALL,
        cluster_id="c",
        node_id="n1",
        applied={},
        progress=lambda done, total: None,
    )


def check(found: dict[int, RecoveredLog], history: History) -> None:
    """Entries that were released with their segments need not be there."""
    matching = [state for state in history.states() if all_equal(found, state)]
    assert matching, "what was recovered is neither with nor without the last batch"
    if history.attempted is not None and matching[0] != history.states()[0]:
        history.acknowledged.append(history.attempted)
    history.attempted = None


def all_equal(found: dict[int, RecoveredLog], wanted: dict[int, RecoveredLog]) -> bool:
    if found.keys() != wanted.keys():
        return False
    for group, log in found.items():
        other = wanted[group]
        if replace(log, entries=[]) != replace(other, entries=[]):
            return False
        if log.entries != other.entries[len(other.entries) - len(log.entries) :]:
            return False
        marked = log.mark.index if log.mark else 0
        if log.end > marked and (not log.entries or log.entries[0].index > marked + 1):
            return False
    return True


@pytest.mark.parametrize("seed", range(80))
def test_a_crash_at_any_operation_loses_only_what_was_not_acknowledged(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    driver = Driver(rng)
    disk = CrashingDisk(tmp_path, rng)
    for _ in range(8):
        disk.start(rng.randint(0, 120), by_failed_sync=rng.random() < 0.3)
        try:
            segments, found = asyncio.run(open_segments(tmp_path, disk))
            check(found, driver.history)
            driver.run(segments, 60)
        except Crash:
            if rng.random() < 0.4:
                disk.kill()
            else:
                disk.lose_power()
