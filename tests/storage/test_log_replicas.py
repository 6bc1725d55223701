"""A group that comes, leaves and comes again: whose records count, and what holds a segment."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from crc32c import crc32c
from storage_support import SMALL, durable, open_log
from torture_log import judge
from torture_log import open_log as open_tortured

from kvstore.errors import CorruptionError
from kvstore.storage import records
from kvstore.storage.files import OsFiles
from kvstore.storage.ledger import Ledger
from kvstore.storage.records import RecordType
from kvstore.storage.recovery import Recovery
from kvstore.storage.replay import Mark, RecoveredLog
from kvstore.storage.scan import SegmentScan
from kvstore.storage.segment_files import SegmentFiles
from kvstore.storage.segments import Segments

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.storage.segment_files import Segment
    from kvstore.storage.wal import Wal

FIRST, SECOND, THIRD = (stay << 16 | 4 for stay in (1, 2, 3))
LARGE = 1000
"""Of such entries a segment holds a few."""


def entry(index: int, group: int = 1, size: int = LARGE) -> bytes:
    return records.encode_entry(group, index, 1, 0, bytes([index % 255 + 1]) * size)


def mark(index: int, group: int = 1) -> bytes:
    return records.encode_mark(group, index, 1, b"config")


def replica(number: int, group: int = 1) -> bytes:
    return records.encode_replica(group, number)


async def write(wal: Wal, *written: bytes) -> None:
    """Each in a batch of its own."""
    for record in written:
        await durable(wal, [record])


def entries(first: int, last: int, group: int = 1) -> list[bytes]:
    return [entry(index, group) for index in range(first, last + 1)]


async def reopened(directory: Path) -> dict[int, RecoveredLog]:
    wal, found = await open_log(directory)
    await wal.close()
    return found


def indexes(log: RecoveredLog) -> list[int]:
    return [found.index for found in log.entries]


def segment_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.wal"))


# -- whose records count ----------------------------------------------------------------------


async def test_what_the_earlier_replica_wrote_is_void(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, records.encode_hard_state(1, 9, 3), *entries(1, 20), mark(15))
    await write(wal, replica(SECOND), records.encode_hard_state(1, 1, 2), *entries(1, 3))
    await wal.close()
    log = (await reopened(tmp_path))[1]
    assert (log.replica, log.term, log.vote, log.mark, log.end) == (SECOND, 1, 2, None, 3)
    assert indexes(log) == [1, 2, 3]


async def test_a_group_that_has_left_is_gone_until_it_comes_again(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), *entries(1, 20), entry(1, group=2), replica(0))
    await wal.close()
    assert (await reopened(tmp_path)).keys() == {2}
    wal, _ = await open_log(tmp_path)
    await write(wal, *entries(2, 12, group=2), replica(SECOND))
    await wal.close()
    found = await reopened(tmp_path)
    assert found[1] == RecoveredLog(replica=SECOND)
    assert indexes(found[2]) == list(range(1, 13))


async def test_segments_that_begin_with_the_replica_make_nothing_void(tmp_path: Path) -> None:
    """Neither for whoever reads them all, nor for the log that goes on from there."""
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), records.encode_hard_state(1, 3, 2), *entries(1, 30), mark(2))
    for last in (40, 50, 60):
        await wal.close()
        wal, found = await open_log(tmp_path)
        assert (found[1].replica, found[1].term, found[1].mark) == (FIRST, 3, Mark(2, 1, b"config"))
        assert indexes(found[1]) == list(range(1, last - 9))
        await write(wal, *entries(last - 9, last))
    wal.release({1: 60})
    await wal.close()
    assert len(segment_names(tmp_path)) > 8
    assert indexes((await reopened(tmp_path))[1]) == list(range(1, 61))


async def test_a_segment_that_is_the_first_one_left_says_it_all(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, *entries(1, 10), replica(FIRST), records.encode_hard_state(1, 3, 2))
    await write(wal, *entries(1, 30), replica(THIRD, group=2), mark(29))
    wal.release({1: 29})
    await write(wal, mark(29))
    await wal.close()
    assert segment_names(tmp_path)[0] > "0000000000000004.wal"
    found = await reopened(tmp_path)
    log = found[1]
    assert replace(log, entries=[]) == RecoveredLog(
        term=3, vote=2, mark=Mark(29, 1, b"config"), end=30, replica=FIRST
    )
    assert 20 < indexes(log)[0] <= 30
    assert found[2] == RecoveredLog(replica=THIRD)


async def test_an_append_may_hold_the_replica_and_what_it_begins_with(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await durable(wal, [entry(1, size=9), entry(2, size=9), replica(FIRST), entry(1, size=9)])
    await durable(wal, [entry(2, size=9), replica(SECOND), replica(0), replica(THIRD), mark(70)])
    await durable(wal, [entry(71)])
    await wal.close()
    log = (await reopened(tmp_path))[1]
    assert (log.replica, log.mark, indexes(log)) == (THIRD, Mark(70, 1, b"config"), [71])


async def test_what_an_earlier_replica_applied_lets_no_entry_go(tmp_path: Path) -> None:
    """The engine may be back at the rows of that one, and then needs them all."""
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), mark(90), replica(SECOND), *entries(1, 10), mark(8))
    await wal.close()
    for held, first in (({1: FIRST}, 1), ({}, 1), ({1: SECOND}, 8)):
        wal, found = await open_log(tmp_path, applied={1: 90}, held=held)
        await wal.close()
        assert indexes(found[1]) == list(range(first, 11))


# -- what holds a segment ---------------------------------------------------------------------


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("comes_again", [False, True])
async def test_void_entries_hold_no_segment(
    is_reopened: bool, comes_again: bool, tmp_path: Path
) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), *entries(1, 20), *entries(1, 20, group=2))
    before = segment_names(tmp_path)
    await write(wal, mark(20, group=2))
    wal.release({2: 20})
    await write(wal, mark(20, group=2))
    assert segment_names(tmp_path)[0] == before[0], "group 1 still needs it"
    await write(wal, *([replica(SECOND), *entries(1, 3)] if comes_again else [replica(0)]))
    if is_reopened:
        await wal.close()
        wal, _ = await open_log(tmp_path)
    wal.release({2: 20})
    await write(wal, mark(20, group=2))
    await wal.close()
    after = segment_names(tmp_path)
    assert after[0] > before[-2]
    found = await reopened(tmp_path)
    assert (found[2].mark, found[2].end) == (Mark(20, 1, b"config"), 20)
    if comes_again:
        assert (found[1].replica, indexes(found[1])) == (SECOND, [1, 2, 3])
    else:
        assert 1 not in found


async def test_what_the_earlier_replica_had_covered_releases_nothing(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), entry(1), mark(900), replica(SECOND), *entries(1, 30))
    wal.release({1: 900})
    await wal.close()
    assert indexes((await reopened(tmp_path))[1]) == list(range(1, 31))


async def test_a_void_part_whose_beginning_was_released_is_not_missed(tmp_path: Path) -> None:
    """The first segment that is left tells of an end and a mark, with nothing in between."""
    wal, _ = await open_log(tmp_path)
    await write(wal, *entries(1, 2), mark(2), *entries(3, 20), replica(SECOND), *entries(1, 2))
    wal.release({})
    await write(wal, mark(1))
    await wal.close()
    (first, *_) = segment_names(tmp_path)
    scan = SegmentScan(memoryview((tmp_path / first).read_bytes()), first)
    checkpoint = [(record.type, record.index) for _, record in next(scan.batches())]
    assert (RecordType.MARK, 2) in checkpoint
    assert max(checkpoint) > (RecordType.LOG_END, 10)
    assert RecordType.REPLICA not in dict(checkpoint)
    log = (await reopened(tmp_path))[1]
    assert (log.replica, indexes(log), log.missing()) == (SECOND, [1, 2], None)


async def test_what_the_present_replica_lacks_is_missed(tmp_path: Path) -> None:
    wal, _ = await open_log(tmp_path)
    await write(wal, *entries(1, 10), replica(SECOND), *entries(1, 30))
    await wal.close()
    for name in segment_names(tmp_path)[:4]:
        (tmp_path / name).unlink()
    with pytest.raises(CorruptionError, match=r"entries 1 to \d+ of group 1 are missing"):
        await open_log(tmp_path)


class UnsyncedFiles(OsFiles):
    """No test of these loses power."""

    def sync(self, fd: int) -> None: ...

    def sync_data(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


class Writer:
    """Writes random batches, and knows of each segment which entries in it are not void."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.rng = rng
        self.directory = directory
        made = SegmentFiles(directory, UnsyncedFiles(), SMALL, cluster_id="c", node_id="n1")
        self.segments = Segments(
            made, UnsyncedFiles(), Ledger({}), segment_bytes=SMALL.segment_bytes
        )
        self.ends: dict[int, int] = {}
        self.marks: dict[int, int] = {}
        self.replicas: dict[int, int] = {}
        self.alive: dict[int, dict[int, int]] = {}

    def batch(self) -> None:
        written: list[bytes] = []
        changes: list[tuple[int, int]] = []
        for number in range(self.rng.randint(1, 6)):
            group = self.rng.randint(1, 3)
            if self.rng.random() < 0.06:
                new = self.rng.randint(1, 1 << 40) * self.rng.randint(0, 1)
                self.replicas[group] = new
                written.append(replica(new, group))
                changes.append((group, 0))
                self.ends[group] = self.marks[group] = 0
            elif self.rng.random() < 0.03 and self.replicas.get(group):
                written.append(replica(self.replicas[group], group))
            elif self.rng.random() < 0.3 and self.ends.get(group):
                self.marks[group] = self.ends[group]
                written.append(mark(self.ends[group], group))
            else:
                self.ends[group] = self.ends.get(group, 0) + 1
                written.append(entry(self.ends[group], group, size=200 * number))
                changes.append((group, self.ends[group]))
        size = sum(map(len, written))
        if not self.segments.has_room(size, urgent=False):
            self.segments.rotate(size)
        self.segments.write(written, size)
        self.segments.note(written)
        active = max(int(name[:16]) for name in segment_names(self.directory))
        for group, index in changes:
            if index:
                self.alive.setdefault(active, {})[group] = index
            else:
                for segment in self.alive.values():
                    segment.pop(group, None)

    def held(self) -> dict[int, dict[int, int]]:
        """By segment the last entries that count; a model of its own."""
        there = {int(name[:16]) for name in segment_names(self.directory)}
        return {number: dict(self.alive.get(number, {})) for number in there}

    def release(self) -> list[int]:
        """What should be gone afterwards."""
        gone: list[int] = []
        for number, alive in sorted(self.held().items())[:-1]:
            if any(index > self.marks.get(group, 0) for group, index in alive.items()):
                break
            gone.append(number)
        self.segments.release(dict.fromkeys((1, 2, 3), 1 << 40))
        return gone


def known_of(segments: Segments) -> dict[int, dict[int, int]]:
    found: list[Segment] = [*segments._older, segments._active.segment]
    return {segment.number: segment.last_index for segment in found}


@pytest.mark.parametrize("seed", range(40))
def test_each_segment_knows_which_of_its_entries_count(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    writer = Writer(tmp_path, rng)
    for _ in range(60):
        writer.batch()
        assert known_of(writer.segments) == writer.held()
        if rng.random() < 0.1:
            before = writer.held().keys()
            gone = writer.release()
            assert writer.held().keys() == before - {*gone}
            assert known_of(writer.segments) == writer.held()
        if rng.random() < 0.1:
            writer.segments.close()
            writer.segments = read_again(tmp_path)
            assert known_of(writer.segments) == writer.held()
    assert writer.segments._active.segment.number > 5


def read_again(directory: Path) -> Segments:
    recovery = Recovery(directory, UnsyncedFiles(), SMALL, cluster_id="c", node_id="n1", applied={})
    for number, path in recovery.look():
        recovery.read(number, path, path.read_bytes())
    return recovery.finish()[0]


# -- crashes ----------------------------------------------------------------------------------


async def test_a_torn_batch_makes_nothing_void(tmp_path: Path) -> None:
    """Cut at every byte, the earlier replica's log is whole and its vote counts."""
    wal, _ = await open_tortured(tmp_path / "log")
    vote = records.encode_hard_state(1, 9, 3)
    await durable(wal, [replica(FIRST), vote, entry(1, size=9)])
    before = tmp_path.joinpath("log", "0000000000000001.wal").read_bytes()
    await durable(wal, [replica(SECOND), records.encode_hard_state(1, 1, 1), entry(1, size=700)])
    (path,) = (tmp_path / "log").glob("*.wal")
    after = path.read_bytes()
    await wal.close()
    start, end = len(before.rstrip(b"\0")), len(after.rstrip(b"\0"))
    earlier = {1: (9, 3, None, [(1, 1, 0, b"\x02" * 9)], FIRST)}
    for cut in range(start, end):
        assert judge({path.name: after[:cut] + bytes(len(after) - cut)}) == earlier
    assert judge({path.name: after}) == {1: (1, 1, None, [(1, 1, 0, b"\x02" * 700)], SECOND)}


async def test_a_crash_between_two_steps_of_coming_leaves_the_one_or_the_other(
    tmp_path: Path,
) -> None:
    """Whether the record was durable or not: written again it says the same."""
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), *entries(1, 20))
    await wal.close()
    wal, found = await open_log(tmp_path)
    assert found[1].replica == FIRST
    await write(wal, replica(SECOND))
    await wal.close()
    wal, found = await open_log(tmp_path)
    assert found[1] == RecoveredLog(replica=SECOND)
    await write(wal, replica(SECOND), entry(1), replica(SECOND))
    await wal.close()
    log = (await reopened(tmp_path))[1]
    assert (log.replica, indexes(log)) == (SECOND, [1])


async def test_a_record_of_an_unknown_type_is_refused_where_it_stands(tmp_path: Path) -> None:
    """So REPLICA was by the versions that did not know it."""
    head = struct.pack(">BIQQ", max(RecordType) + 1, 1, 0, 0)
    wal, _ = await open_log(tmp_path)
    await write(wal, replica(FIRST), struct.pack(">II", len(head), crc32c(head)) + head)
    await wal.close()
    with pytest.raises(CorruptionError, match=r"\.wal: offset \d+: a record of the unknown type 9"):
        await open_log(tmp_path)
