"""Segments deleted, doubled, exchanged, and files that are not this log's."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from torture_log import (
    CLUSTER,
    CONFIG,
    NODE,
    append,
    check_refusal,
    judge,
    open_log,
    recover,
    state_of,
)

from kvstore.errors import CorruptionError, DataDirectoryError
from kvstore.storage import records
from kvstore.storage.records import SegmentHeader
from kvstore.storage.segment_files import segment_name

if TYPE_CHECKING:
    from pathlib import Path

    from torture_log import Case, State, Written


def beyond_marks(state: State) -> State:
    return {
        group: (term, vote, mark, [e for e in entries if not mark or e[0] > mark[0]], replica)
        for group, (term, vote, mark, entries, replica) in state.items()
    }


# -- deleted --------------------------------------------------------------------------------


async def test_a_deleted_segment_is_missed_by_name(case: Case) -> None:
    for segment in case.written.segments()[1:]:
        directory = case.copy()
        (directory / segment.name).unlink()
        error = await case.is_refused(directory, segment.name)
        assert f"{segment.name}: offset 0: this segment is missing" in str(error)


async def test_several_deleted_segments_are_missed(case: Case) -> None:
    names = [segment.name for segment in case.written.segments()]
    for missing in itertools.combinations(names[1:], 2):
        directory = case.copy()
        for name in missing:
            (directory / name).unlink()
        assert missing[0] in str(await case.is_refused(directory))


async def test_deleted_first_segments_take_nothing_beyond_the_marks(case: Case) -> None:
    """What they held up to the marks is the engine's to have or to miss: it may be released."""
    names = [segment.name for segment in case.written.segments()]
    ends = set()
    for count in range(1, len(names)):
        directory = case.copy()
        for name in names[:count]:
            (directory / name).unlink()
        end = await case.end(directory)
        ends.add(type(end))
        if isinstance(end, CorruptionError):
            assert "are missing before this segment" in str(end)
            assert names[count] in str(end)
        else:
            assert isinstance(end, dict)
            assert beyond_marks(end) == beyond_marks(case.written.final)
    assert CorruptionError in ends


async def test_all_segments_deleted(case: Case) -> None:
    """The reserve stays behind as a witness; else the engine's state is one."""
    directory = case.copy()
    for segment in directory.glob("*.wal"):
        segment.unlink()
    bare = shutil.copytree(directory, directory.with_name("bare"))
    error = await case.is_refused(directory)
    assert f"{segment_name(1)}: offset 0: the log is gone" in str(error)
    for path in bare.iterdir():
        path.unlink()
    with pytest.raises(CorruptionError, match="the log is gone, and with it votes and entries"):
        await open_log(bare, applied={1: 1})


# -- doubled and exchanged ------------------------------------------------------------------


async def test_a_copy_of_a_segment_under_the_next_number_is_refused(case: Case) -> None:
    segments = case.written.segments()
    for segment in segments:
        directory = case.copy()
        extra = directory / segment_name(len(segments) + 1)
        shutil.copy(segment, extra)
        error = await case.is_refused(directory, segment.name)
        assert f"{extra}: offset 0: this is segment {int(segment.stem)}" in str(error)


async def test_a_copy_of_a_segment_under_a_distant_number_is_refused(case: Case) -> None:
    segments = case.written.segments()
    for number in (0, len(segments) + 2, 10**15):
        directory = case.copy()
        shutil.copy(segments[1], directory / segment_name(number))
        await case.is_refused(directory, str(number))


def test_any_segment_with_the_content_of_another_is_refused(written: Written) -> None:
    contents = written.contents()
    for one, other in itertools.permutations(contents, 2):
        end = judge({**contents, one: contents[other]})
        assert isinstance(end, CorruptionError)
        assert f"{one}: offset 0: this is segment {int(other.removesuffix('.wal'))}" in str(end)


def test_any_two_segments_that_changed_names_are_refused(written: Written) -> None:
    contents = written.contents()
    for one, other in itertools.combinations(contents, 2):
        end = judge({**contents, one: contents[other], other: contents[one]})
        assert isinstance(end, CorruptionError)


async def test_an_older_state_of_a_segment_that_was_continued_is_refused(
    case: Case, tmp_path: Path
) -> None:
    """As from a backup: valid in itself, but what follows does not follow on it."""
    *_, last = case.written.segments()
    live = case.copy()
    older = last.read_bytes()
    wal, _ = await open_log(live)
    while len(list(live.glob("*.wal"))) == len(case.written.segments()):
        await append(wal, [records.encode_hard_state(9, 1, 1)] * 8)
    await wal.close()
    (live / last.name).write_bytes(older)
    error = await case.is_refused(live)
    assert f"{last.name}: offset " in str(error)
    assert "is damaged or missing" in str(error)


# -- not this log's -------------------------------------------------------------------------


async def test_files_that_are_no_segments_are_left_alone(case: Case) -> None:
    directory = case.copy()
    for name in ("notes.txt", "0000000000000001.wal.bak", ".hidden", "spare", "core"):
        (directory / name).write_bytes(b"anything")
    assert await recover(directory) == case.written.final
    assert (directory / "notes.txt").read_bytes() == b"anything"


@pytest.mark.parametrize("name", ["backup.wal", "1.wal", "00000000000000001.wal", "-1.wal"])
async def test_a_segment_of_another_name_is_refused(case: Case, name: str) -> None:
    directory = case.copy()
    shutil.copy(case.written.segments()[0], directory / name)
    error = await case.is_refused(directory, name)
    assert f"/{name}: offset 0: this is no segment's name" in str(error)


@pytest.mark.parametrize("content", [b"", b"\0", bytes(100), bytes(4096), b"text\n" * 50])
async def test_a_segment_that_holds_nothing_of_a_log_is_refused(case: Case, content: bytes) -> None:
    segments = case.written.segments()
    for number in (1, 3, len(segments), len(segments) + 1):
        directory = case.copy()
        (directory / segment_name(number)).write_bytes(content)
        error = await case.is_refused(directory, str(number))
        assert f"{segment_name(number)}: offset 0: this is no segment header" in str(error)


async def test_a_directory_in_the_place_of_a_segment_is_refused(case: Case) -> None:
    for segment in case.written.segments():
        directory = case.copy()
        (directory / segment.name).unlink()
        (directory / segment.name).mkdir()
        error = await case.is_refused(directory)
        assert f"{segment.name}: offset 0: cannot be read" in str(error)


def foreign(number: int, *, cluster: str = CLUSTER, node: str = NODE, version: int = 1) -> bytes:
    """A whole segment that is in order in itself."""
    header = SegmentHeader(number, number, 77, CONFIG.segment_bytes, cluster, node)
    first = records.encode_batch(77, number, [records.encode_hard_state(1, 99, 3)])
    data = records.encode_segment_header(replace(header, version=version)) + first
    return data + bytes(CONFIG.segment_bytes - len(data))


@pytest.mark.parametrize(
    ("strange", "why"),
    [
        ({"cluster": "elsewhere"}, "belongs to node n1 of cluster elsewhere"),
        ({"node": "n2"}, "belongs to node n2 of cluster the-cluster"),
        ({"version": 2}, "has format 2; this program knows 1"),
        ({"version": 0}, "has format 0; this program knows 1"),
        ({}, "batch"),
    ],
)
async def test_a_segment_of_another_log_is_refused(
    case: Case, strange: dict[str, str | int], why: str
) -> None:
    segments = case.written.segments()
    for number in (1, 3, len(segments), len(segments) + 1):
        directory = case.copy()
        data = foreign(number, **strange)  # type: ignore[arg-type]  # by name
        (directory / segment_name(number)).write_bytes(data)
        error = await case.is_refused(directory, str(number))
        assert why in str(error)


@pytest.mark.parametrize(("cluster", "node"), [("other", NODE), (CLUSTER, "n2")])
async def test_a_whole_log_of_another_is_refused(case: Case, cluster: str, node: str) -> None:
    with pytest.raises(DataDirectoryError, match=f"not to node {node} of cluster {cluster}") as no:
        await open_log(case.copy(), cluster=cluster, node=node)
    check_refusal(no.value)


# -- closed afterwards ----------------------------------------------------------------------


async def test_a_segment_that_a_crash_left_open_is_closed_so_that_the_next_is_missed(
    case: Case,
) -> None:
    *_, before, last = case.written.segments()
    directory = case.copy()
    data = before.read_bytes()
    opened = data[: -records.BATCH_HEAD_BYTES] + bytes(records.BATCH_HEAD_BYTES)
    (directory / before.name).write_bytes(opened)
    assert await recover(directory) == case.written.final
    assert (directory / before.name).read_bytes() == data
    (directory / last.name).unlink()
    await case.is_refused(directory)


async def test_the_state_is_read_the_same_in_any_number_of_starts(case: Case) -> None:
    directory = case.copy()
    for _ in range(5):
        wal, logs = await open_log(directory)
        assert state_of(logs) == case.written.final
        await wal.close()
