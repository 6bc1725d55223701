"""RocksDB through our seam; and the facts about ``rocksdict`` that the seam is built on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import rocksdict
from engine_support import SMALL, put
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.config import MIB, EngineConfig
from kvstore.errors import CorruptionError, DataDirectoryError, DiskFull, Internal
from kvstore.storage import rocks
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.rocks import RocksEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    engine = RocksEngine(tmp_path / "engine", SMALL)
    yield engine
    engine.close()


# -- the same behaviour as the engine in memory ---------------------------------------------

keys = st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 4 for byte in key))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, st.binary(max_size=4)),
        st.tuples(st.just("delete"), keys, st.just(b"")),
        st.tuples(st.just("delete_range"), keys, keys),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(batches=st.lists(operations, max_size=6), limit=st.integers(0, 5), room=st.integers(0, 12))
def test_it_behaves_as_the_engine_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[str, bytes, bytes]]],
    limit: int,
    room: int,
) -> None:
    rocks, memory = RocksEngine(tmp_path_factory.mktemp("e"), SMALL), MemoryEngine()
    for number, written in enumerate(batches):
        for engine in (rocks, memory):
            batch = engine.batch()
            for name, key, value in written:
                if name == "delete":
                    batch.delete(key)
                elif name == "put":
                    batch.put(key, value)
                elif key < value:
                    batch.delete_range(key, value)
            engine.write(batch)
        if number % 2:
            rocks.flush()
    everything = [b"", b"\xff"]
    assert list(rocks.snapshot_rows(*everything)) == list(memory.snapshot_rows(*everything))
    assert rocks.scan(b"\x00", b"\x02", limit, room) == memory.scan(b"\x00", b"\x02", limit, room)
    asked = [b"\x00", b"\x01\x02", b"none"]
    assert rocks.get_many(asked) == memory.get_many(asked) == [rocks.get(key) for key in asked]
    rocks.close()


def test_its_settings_hold_whenever_it_is_opened(tmp_path: Path) -> None:
    """RocksDB writes down its own, without filters and cache, and rocksdict would prefer those."""
    for memtable_bytes in (MIB, 2 * MIB):
        config = EngineConfig(memtable_bytes=memtable_bytes, block_cache_bytes=3 * MIB)
        RocksEngine(tmp_path / "engine", config).close()
        told = (tmp_path / "engine" / "LOG").read_text()
        assert "filter_policy: bloomfilter" in told
        assert re.findall(r"capacity : (\d+)", told) == [str(3 * MIB)]
        size = memtable_bytes // rocks.MEMTABLE_PARTS
        assert f"Options.write_buffer_size: {size}" in told


def test_a_scan_gives_one_row_however_large(engine: RocksEngine) -> None:
    put(engine, {b"a": bytes(1000), b"b": b"", b"c": b""})
    assert engine.scan(b"a", b"z", 10, 1) == [(b"a", bytes(1000))]
    assert engine.scan(b"b", b"z", 10, 2) == [(b"b", b""), (b"c", b"")]
    assert engine.scan(b"a", b"z", 0, 10) == []


# -- what the seam is built on --------------------------------------------------------------


def test_rows_are_those_of_the_moment_they_were_asked_for(engine: RocksEngine) -> None:
    before = {b"k%03d" % number: b"1" for number in range(300)}
    put(engine, before)
    rows = engine.snapshot_rows(b"k", b"l")
    batch = engine.batch()
    batch.delete_range(b"k", b"k2")
    batch.put(b"k250", b"2")
    batch.put(b"k999", b"2")
    engine.write(batch)
    engine.flush()
    seen: list[dict[bytes, bytes]] = []
    thread = threading.Thread(target=lambda: seen.append(dict(rows)))
    thread.start()
    thread.join()
    assert seen == [before]


def test_every_row_up_to_the_bound_is_given_and_none_beyond(engine: RocksEngine) -> None:
    """Also when the caller keeps no reference to the bound: other bytes take its place."""
    for prefix in (b"\x00\x03\x03", b"\x00\x04\x03", b"\xfe\xfe\xfe"):
        put(engine, {prefix + b"%05d" % number: b"1" for number in range(100)})
    for start, end in ((b"\x00\x03", b"\x00\x04"), (b"\xfe", b"\xff"), (b"\x00\x04", b"\xf0")):
        assert len(list(engine.snapshot_rows(start, bytes(bytearray(end))))) == 100
        assert len(engine.scan(start, bytes(bytearray(end)), 1000, 1 << 20)) == 100


def test_why_rocksdicts_own_snapshot_is_not_used(tmp_path: Path) -> None:
    """Should this fail one day, ``RocksEngine.snapshot_rows`` may become simpler."""
    db = rocksdict.Rdict(str(tmp_path), rocksdict.Options(raw_mode=True))
    db[b"a"] = b"1"
    snapshot = db.snapshot()
    db[b"b"] = b"2"
    iterator = snapshot.iter()
    iterator.seek_to_last()
    assert iterator.key() == b"b"
    db.close()


def test_a_batch_can_be_written_again(engine: RocksEngine) -> None:
    batch = engine.batch()
    batch.put(b"a", b"1")
    engine.write(batch)
    batch.delete(b"a")
    engine.write(batch)
    assert engine.get(b"a") is None


def test_the_loop_goes_on_while_it_flushes(engine: RocksEngine) -> None:
    """``flush`` lets go of the interpreter, so the thread that counts gets on meanwhile."""
    put(engine, {os.urandom(16): os.urandom(200) for _ in range(3000)})
    counted, done = 0, False

    def count() -> None:
        nonlocal counted
        while not done:
            counted += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # so a thread goes on only when the other lets go
    thread = threading.Thread(target=count)
    try:
        thread.start()
        before = counted
        engine.flush()
        after = counted
    finally:
        done = True
        thread.join()
        sys.setswitchinterval(interval)
    assert after > before


# -- crashes --------------------------------------------------------------------------------


def test_what_is_flushed_survives_a_crash(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from kvstore.config import EngineConfig;"
        "from kvstore.storage.rocks import RocksEngine;"
        "engine = RocksEngine(pathlib.Path(sys.argv[1]), EngineConfig());"
        "one = engine.batch(); one.put(b'a', b'1'); one.put(b'b', b'1'); engine.write(one);"
        "engine.flush();"
        "two = engine.batch(); two.put(b'a', b'2'); two.put(b'b', b'2'); engine.write(two);"
        "os._exit(9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == 9
    engine = RocksEngine(tmp_path, SMALL)
    assert engine.get_many([b"a", b"b"]) == [b"1", b"1"]
    engine.close()


def test_one_at_a_time(tmp_path: Path, engine: RocksEngine) -> None:
    with pytest.raises(DataDirectoryError, match="in use"):
        RocksEngine(tmp_path / "engine", SMALL)
    assert engine.size_bytes >= 0


def damaged(directory: Path) -> Path:
    """An engine with one bit flipped in the middle of its only table file."""
    engine = RocksEngine(directory, SMALL)
    put(engine, {b"k%05d" % number: os.urandom(50) for number in range(2000)})
    engine.flush()
    engine.close()
    (table,) = directory.glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    return table


def test_damage_is_told_and_never_an_early_end(tmp_path: Path) -> None:
    table = damaged(tmp_path)
    engine = RocksEngine(tmp_path, SMALL)
    asked = [b"k%05d" % number for number in range(2000)]
    with pytest.raises(CorruptionError, match=table.name):
        list(engine.snapshot_rows(b"k", b"l"))
    with pytest.raises(CorruptionError, match=table.name):
        engine.scan(b"k", b"l", 10_000, 1 << 30)
    with pytest.raises(CorruptionError, match=table.name):
        engine.get_many(asked)
    with pytest.raises(CorruptionError, match=table.name):
        [engine.get(key) for key in asked]
    engine.close()


@pytest.mark.parametrize("pattern", ["MANIFEST-*", "*.sst", "CURRENT"])
def test_a_lost_file_is_told_when_it_is_opened(tmp_path: Path, pattern: str) -> None:
    damaged(tmp_path)
    for path in tmp_path.glob(pattern):
        path.unlink()
    with pytest.raises((CorruptionError, Internal)):
        RocksEngine(tmp_path, SMALL)


# -- a full disk ----------------------------------------------------------------------------

FULL_DISK = """
import os, pathlib, subprocess, sys, time
from kvstore.config import MIB, EngineConfig
from kvstore.errors import DiskFull
from kvstore.storage.rocks import RocksEngine

mount = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", mount], check=True)
engine = RocksEngine(pathlib.Path(mount) / "engine", EngineConfig(memtable_bytes=1 << 20))
written = 0
while True:
    batch = engine.batch()
    for number in range(100):
        batch.put(b"%08d" % (written + number), os.urandom(1000))
    try:
        engine.write(batch)
    except DiskFull:
        break
    written += 100
assert written > 1000, written
assert len(engine.get(b"%08d" % (written - 1))) == 1000
assert engine.get(b"%08d" % written) is None
try:
    engine.flush()
except DiskFull:
    print("full")
subprocess.run(["mount", "-o", "remount,size=100m", mount], check=True)
deadline = time.monotonic() + 60
while True:
    try:
        engine.write(batch)
        engine.flush()
        break
    except DiskFull:
        assert time.monotonic() < deadline
        time.sleep(0.1)
assert all(engine.get(b"%08d" % number) for number in range(written + 100))
engine.close()
print("room again")
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
def test_a_full_disk_refuses_writes_and_nothing_else_until_there_is_room(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "full\nroom again\n"), ended.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IO error: No space left on device: While appending to file: x.sst", DiskFull),
        ("IO error: Disk quota exceeded: While appending to file: x.sst", DiskFull),
        ("Corruption: block checksum mismatch: in x.sst offset 7 size 9", CorruptionError),
        ("IO error: Input/output error: While fsync: x.sst", Internal),
        ("IO error: more\n  than one line", Internal),
    ],
)
def test_failures_keep_their_kind(
    engine: RocksEngine, text: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __getattr__(self, name: str) -> object:
            def fail(*_: object) -> None:
                raise Exception(text)  # what rocksdict raises

            return fail

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_db", Failing())
        for write in (engine.flush, lambda: engine.write(engine.batch())):
            with pytest.raises(expected):
                write()
        for read in (engine.get, engine.get_many, lambda key: engine.snapshot_rows(key, key)):
            with pytest.raises(CorruptionError):
                read(b"")


@pytest.mark.parametrize(
    "reason", ["lock: /engine/LOCK: Permission denied", "/engine/000012.sst: Too many open files"]
)
def test_what_may_not_be_opened_is_neither_damaged_nor_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise Exception(f"IO error: while open a file for {reason}")

    monkeypatch.setattr(rocks, "Rdict", fails)
    with pytest.raises(DataDirectoryError, match=f"cannot be opened: .*{reason}") as caught:
        RocksEngine(tmp_path / "engine", EngineConfig())
    assert not caught.value.is_repairable
    assert "in use" not in str(caught.value)


def test_a_flush_makes_durable_what_waits_in_several_memtables(
    engine: RocksEngine, tmp_path: Path
) -> None:
    """Some are merged before they are written: as one file, or it would not all be there."""
    rows = {b"%06d" % number: bytes(1000) for number in range(300)}
    for key, value in rows.items():
        put(engine, {key: value})  # more than two memtables, fewer than are merged
    engine.flush()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "engine", copy, ignore=shutil.ignore_patterns("LOCK"))
    again = RocksEngine(copy, SMALL)
    assert dict(again.snapshot_rows(b"", b"\xff")) == rows
    again.close()
