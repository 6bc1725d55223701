"""The shard map on disk: the last one that was saved, or a refusal."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_support import Crash, CrashingDisk, FaultyFiles, no_space

from kvstore.errors import CorruptionError, DataDirectoryError
from kvstore.storage.files import OsFiles
from kvstore.storage.map_file import FORMAT_VERSION, MAP_FILE, load, save

if TYPE_CHECKING:
    from pathlib import Path

BODY = b"version 7: " + bytes(range(256))


@settings(max_examples=20)
@given(st.binary(max_size=300))
def test_what_was_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    data_dir = tmp_path_factory.mktemp("data")
    assert load(data_dir) is None
    save(OsFiles(), data_dir, b"an older one, and longer than most of those that replace it")
    save(OsFiles(), data_dir, body)
    assert load(data_dir) == body


def test_the_format_is_pinned(tmp_path: Path) -> None:
    save(OsFiles(), tmp_path, b"body")
    data = (tmp_path / MAP_FILE).read_bytes()
    assert data == b"KVMP\x01" + crc32c(b"\x01body").to_bytes(4, "big") + b"body"


def test_any_damage_is_told_with_file_and_offset(tmp_path: Path) -> None:
    save(OsFiles(), tmp_path, BODY)
    path = tmp_path / MAP_FILE
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))] + [whole + b"x"]
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CorruptionError) as refusal:
            load(tmp_path)
        assert refusal.value.file == str(path)
        assert 0 <= refusal.value.offset <= len(data)


def test_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    newer = bytes((FORMAT_VERSION + 1,))
    data = b"KVMP" + newer + crc32c(newer + BODY).to_bytes(4, "big") + BODY
    (tmp_path / MAP_FILE).write_bytes(data)
    with pytest.raises(DataDirectoryError, match="has format 2, this version knows") as refusal:
        load(tmp_path)
    assert not refusal.value.is_repairable


def test_what_cannot_be_read_is_lost_or_only_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MAP_FILE).mkdir()
    with pytest.raises(CorruptionError, match=f"{MAP_FILE}: offset 0: cannot be read"):
        load(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(DataDirectoryError, match=f"{MAP_FILE}: Permission denied") as refusal:
        load(tmp_path)
    assert not refusal.value.is_repairable


def test_without_room_the_old_one_stays(tmp_path: Path) -> None:
    files = FaultyFiles()
    save(files, tmp_path, b"old")

    def full(operation: str, target: object) -> None:
        if operation == "write":
            raise no_space()

    files.fault = full
    with pytest.raises(OSError, match="No space left"):
        save(files, tmp_path, b"new")
    assert load(tmp_path) == b"old"


@pytest.mark.parametrize("seed", range(10))
def test_a_crash_leaves_the_old_one_or_the_new_one(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    disk = CrashingDisk(tmp_path, rng)
    saved: list[bytes | None] = [None]
    for life in range(12):
        disk.start(rng.randint(0, 20))
        known = saved[-1]
        attempts = [known]
        try:
            for number in range(4):
                attempts.append(b"%d.%d " % (life, number) * rng.randint(0, 400))
                save(disk, tmp_path, attempts[-1])
                attempts = attempts[-1:]
        except Crash:
            pass
        disk.lose_power()
        found = load(tmp_path)
        assert found in attempts
        saved.append(found)
    assert len({*saved}) > 3
