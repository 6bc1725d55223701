"""The engine's files damaged while it is closed: refused in one line, or right, or older.

*Older* is the one thing that RocksDB cannot tell: a manifest that is cut between two of its
records is the manifest of an earlier flush. What is then there is exactly what was flushed
by then, with the applied index of that time, and the node holds it against its log: entries
that are in neither are missed (``tests/server/test_server_recovery.py``).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from kvstore.config import EngineConfig
from kvstore.errors import CorruptionError
from kvstore.storage.rocks import RocksEngine

CONFIG = EngineConfig(block_cache_bytes=1 << 20, memtable_bytes=1 << 20)
FLUSHES = 3
ROWS = 200
APPLIED = b"applied"

Rows = dict[bytes, bytes]
Damage = Callable[[Path], object]
Damaged = Callable[[str, Damage], Rows | CorruptionError]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Rows]]:
    """A closed engine, and what it held after each flush."""
    directory = tmp_path_factory.mktemp("engine") / "source"
    engine, rng, rows = RocksEngine(directory, CONFIG), random.Random(1), Rows()
    states = [Rows()]
    for number in range(FLUSHES):
        new = {b"k%d-%05d" % (number, row): rng.randbytes(40) for row in range(ROWS)}
        rows |= new | {APPLIED: b"%d" % number}
        batch = engine.batch()
        for key in (*new, APPLIED):
            batch.put(key, rows[key])
        engine.write(batch)
        engine.flush()
        states.append(dict(rows))
    engine.close()
    return directory, states


def read(directory: Path, keys: Rows) -> Rows | CorruptionError:
    """Everything, by scan and by key; the two must agree."""
    try:
        engine = RocksEngine(directory, CONFIG)
    except CorruptionError as error:
        return error
    try:
        scanned = dict(engine.scan(b"", b"\xff", 10**6, 1 << 30))
        got = dict(zip(keys, engine.get_many(list(keys)), strict=True))
        assert {key: value for key, value in got.items() if value is not None} == scanned
        return scanned
    except CorruptionError as error:
        return error
    finally:
        engine.close()


@pytest.fixture
def damaged(source: tuple[Path, list[Rows]], tmp_path: Path) -> Damaged:
    """Do something to the one file that matches in a copy, and read that."""
    directory, states = source
    numbers = count()

    def read_damaged(pattern: str, damage: Damage) -> Rows | CorruptionError:
        # Each in a directory of its own: an error may keep an iterator, and that a lock.
        copy = Path(shutil.copytree(directory, tmp_path / str(next(numbers))))
        damage(sorted(copy.glob(pattern))[0])
        end = read(copy, states[-1])
        if isinstance(end, CorruptionError):
            assert "\n" not in str(end)
            assert str(copy) in end.file
            assert end.offset >= 0
        return end

    return read_damaged


def flip(bit: int) -> Damage:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)

    return damage


def cut(size: int) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def places(source: tuple[Path, list[Rows]], pattern: str, count: int) -> list[int]:
    size = sorted(source[0].glob(pattern))[0].stat().st_size
    return sorted(random.Random(2).sample(range(size), min(count, size)))


def test_a_flipped_bit_of_a_table_names_the_file(
    source: tuple[Path, list[Rows]], damaged: Damaged
) -> None:
    refused = 0
    for offset in places(source, "*.sst", 40):
        end = damaged("*.sst", flip(offset * 8 + offset % 8))
        if isinstance(end, CorruptionError):
            assert end.file.endswith(".sst")
            refused += 1
        else:
            assert end == source[1][-1], "a bit of no meaning, or a wrong value"
    assert refused > 20


def test_a_flipped_bit_of_the_manifest(source: tuple[Path, list[Rows]], damaged: Damaged) -> None:
    for offset in places(source, "MANIFEST-*", 25):
        end = damaged("MANIFEST-*", flip(offset * 8 + offset % 8))
        assert isinstance(end, CorruptionError), offset
        assert "MANIFEST-" in str(end)


@pytest.mark.parametrize("kind", [flip, cut])
def test_damage_to_the_pointer_at_the_manifest(
    source: tuple[Path, list[Rows]], damaged: Damaged, kind: Callable[[int], Damage]
) -> None:
    for place in places(source, "CURRENT", 16):
        end = damaged("CURRENT", kind(place * 8 if kind is flip else place))
        assert isinstance(end, CorruptionError), place


def test_a_table_cut_short_names_the_file_and_where_it_ends(
    source: tuple[Path, list[Rows]], damaged: Damaged
) -> None:
    for size in places(source, "*.sst", 15):
        end = damaged("*.sst", cut(size))
        assert isinstance(end, CorruptionError), size
        assert (Path(end.file).suffix, end.offset) == (".sst", size)


def test_a_manifest_cut_short_gives_an_earlier_flush_or_is_refused(
    source: tuple[Path, list[Rows]], damaged: Damaged
) -> None:
    """Never a mixture: what was written together is there together."""
    ends = [damaged("MANIFEST-*", cut(size)) for size in places(source, "MANIFEST-*", 40)]
    states = source[1]
    for end in ends:
        assert isinstance(end, CorruptionError) or end in states
    assert any(end == states[1] for end in ends)


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_file_that_is_gone(damaged: Damaged, pattern: str) -> None:
    assert isinstance(damaged(pattern, Path.unlink), CorruptionError)


@pytest.mark.parametrize("pattern", ["OPTIONS-*", "IDENTITY", "LOG", "rocksdict-config.json"])
def test_what_nothing_depends_on(
    source: tuple[Path, list[Rows]], damaged: Damaged, pattern: str
) -> None:
    for damage in (flip(40), cut(3), cut(0), Path.unlink):
        assert damaged(pattern, damage) == source[1][-1]
