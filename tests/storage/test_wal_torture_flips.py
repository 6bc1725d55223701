"""One flipped bit anywhere: refused with file and offset, and never a changed value.

The one record that can be spared closes a segment: the next segment proves what it said. In
the very last batch a flip is refused too: it leaves no sector of zeros, so nothing tore it
(the exception, a value that holds such zeros, is in ``test_wal_torture_cuts.py``).

``WAL_TORTURE=all`` flips every bit of the whole log, which takes some minutes.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from torture_layout import Field, field_names
from torture_log import Written, judge, used_bytes

from kvstore.errors import CorruptionError, StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from torture_log import Case, State

BITS_SAMPLED = 2000
ALL_BITS = os.environ.get("WAL_TORTURE") == "all"


def flipped(data: bytes, bit: int) -> bytes:
    found = bytearray(data)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def one_of_each_field(written: Written, segment: Path, rng: random.Random) -> list[Field]:
    """For every kind of field one that the segment has."""
    fields = written.layout(segment)
    rng.shuffle(fields)
    return sorted({field.name: field for field in fields}.values())


def check(written: Written, segment: str, bit: int, where: str) -> StartupError | None:
    """Flip it, and hold the end to the rule."""
    contents = written.contents()
    end = judge({**contents, segment: flipped(contents[segment], bit)})
    if isinstance(end, CorruptionError):
        assert not where.startswith("CLOSE"), (segment, bit, where)
        return end
    assert where.startswith("CLOSE"), (segment, bit, where, "a flipped bit was believed")
    assert end == written.final
    return None


def test_one_bit_in_every_field_of_every_kind_of_record_in_every_segment(
    written: Written,
) -> None:
    rng = random.Random(1)
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    *_, last = written.segments()
    for segment in written.segments():
        for field in one_of_each_field(written, segment, rng):
            bit = rng.randrange(field.start * 8, field.end * 8)
            check(written, segment.name, bit, field.name)
            seen[segment == last].add(field.name)
    closing = {name for name in field_names() if name.startswith("CLOSE")}
    assert seen[False] == field_names()
    assert seen[True] == field_names() - closing, "the last segment is not closed"


def bits_of(written: Written) -> Iterator[tuple[Path, Field, int]]:
    """All bits of the log, or a fresh draw that covers it evenly."""
    fields = [
        (segment, field) for segment in written.segments() for field in written.layout(segment)
    ]
    total = sum(field.end - field.start for _, field in fields) * 8
    step = 1 if ALL_BITS else total // BITS_SAMPLED
    skip = random.Random(2).randrange(step)
    for segment, field in fields:
        for bit in range(field.start * 8, field.end * 8):
            if skip == 0:
                yield segment, field, bit
                skip = step
            skip -= 1


def test_bits_everywhere(written: Written) -> None:
    tried = 0
    for segment, field, bit in bits_of(written):
        check(written, segment.name, bit, field.name)
        tried += 1
    assert tried >= BITS_SAMPLED


def test_every_bit_of_the_last_batch(written: Written) -> None:
    segment = written.segments()[-1]
    start, end = written.batch_starts()[-1], used_bytes(segment.read_bytes())
    for bit in range(start * 8, end * 8):
        error = check(written, segment.name, bit, "the last batch")
        assert isinstance(error, CorruptionError)
        assert error.offset >= start


def test_a_flip_is_refused_where_it_is(written: Written) -> None:
    """The offset is that of the batch or record that holds the bit, in that very file."""
    rng = random.Random(3)
    for segment in written.segments():
        starts = [f.start for f in written.layout(segment) if f.name == "BATCH.length"]
        for number, start in enumerate(starts[1:], 1):
            end = starts[number + 1] if number + 1 < len(starts) else start + 30
            error = check(written, segment.name, rng.randrange(start * 8, end * 8), "a batch")
            assert isinstance(error, CorruptionError)
            assert error.file.endswith(segment.name)
            assert start <= error.offset < end


async def test_flips_on_a_real_disk(case: Case) -> None:
    rng = random.Random(4)
    for segment in case.written.segments():
        data = segment.read_bytes()
        for field in rng.sample(one_of_each_field(case.written, segment, rng), 4):
            directory = case.copy()
            bit = rng.randrange(field.start * 8, field.end * 8)
            (directory / segment.name).write_bytes(flipped(data, bit))
            if field.name.startswith("CLOSE"):
                await case.is_complete(directory)
            else:
                await case.is_refused(directory, f"{segment.name} {field}")


def test_a_bit_behind_the_end_is_dropped_and_told(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands where nothing was ever acknowledged, so nothing is lost with it."""
    contents = written.contents()
    name = max(contents)
    data = contents[name]
    used = used_bytes(data)
    for bit in (*range(used * 8, used * 8 + 400, 7), len(data) * 8 - 1):
        caplog.clear()
        assert judge({**contents, name: flipped(data, bit)}) == written.final
        assert f"{name}: a torn write at offset {used}" in caplog.text


def test_two_flips_are_no_better_than_one(written: Written) -> None:
    rng = random.Random(5)
    contents = written.contents()
    names = sorted(contents)
    for _ in range(100):
        damaged = dict(contents)
        for name in rng.sample(names, 2):
            damaged[name] = flipped(damaged[name], rng.randrange(used_bytes(damaged[name]) * 8))
        end: State | StartupError = judge(damaged)
        assert isinstance(end, CorruptionError) or end == written.final
