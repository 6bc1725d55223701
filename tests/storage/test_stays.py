"""As which replica the engine holds a group, on every engine and after every crash."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest

from kvstore.config import EngineConfig
from kvstore.ids import META_GROUP, GroupId, ReplicaId, replica_id, shard_of_group
from kvstore.kv.engine import KEYS_END, Engine, Space, shard_range, space_prefix, stamp_key
from kvstore.storage import stays
from kvstore.storage.memory import MemoryEngine
from kvstore.storage.rocks import RocksEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = EngineConfig(memtable_bytes=1 << 20, block_cache_bytes=1 << 20, background_jobs=2)
GROUP, NEIGHBOUR, LAST = GroupId(4), GroupId(5), GroupId((1 << 16) - 2)
EARLIER, LATER = replica_id(3, 0, 1), replica_id(3, 1 << 31, 2)


@pytest.fixture(params=["memory", "rocks"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "rocks":
        rocks = RocksEngine(tmp_path / "engine", SMALL)
        yield rocks
        rocks.close()
    else:
        yield MemoryEngine()


def put(engine: Engine, group: GroupId, *names: bytes) -> None:
    """Rows of the group in every space that there is."""
    batch = engine.batch()
    for space in Space:
        for name in names:
            batch.put(space_prefix(shard_of_group(group), space) + name, b"value of " + name)
    engine.write(batch)


def rows(engine: Engine, group: GroupId) -> list[bytes]:
    """The names of its rows."""
    prefix_bytes = len(space_prefix(shard_of_group(group), Space.DATA))
    found = engine.scan(*shard_range(shard_of_group(group)), 10_000, 1 << 30)
    return sorted({key[prefix_bytes:] for key, _ in found})


def test_what_begins_holds_no_row_and_says_whose_it_is(engine: Engine) -> None:
    put(engine, GROUP, b"", b"a", b"\xff" * 9)
    put(engine, NEIGHBOUR, b"a")
    assert stays.groups_held(engine).get(GROUP) is None
    for replica in (EARLIER, LATER):
        stays.begin(engine, GROUP, replica)
        assert stays.groups_held(engine).get(GROUP) == replica
        assert rows(engine, GROUP) == []
        put(engine, GROUP, b"b")
        assert rows(engine, GROUP) == [b"b"]
    assert stays.groups_held(engine).get(NEIGHBOUR) is None
    assert rows(engine, NEIGHBOUR) == [b"a"]


def test_the_stamp_is_a_big_endian_number(engine: Engine) -> None:
    stays.begin(engine, GROUP, LATER)
    assert engine.get(stamp_key(GROUP)) == LATER.to_bytes(8, "big")


def test_what_is_forgotten_leaves_nothing_and_may_be_forgotten_again(engine: Engine) -> None:
    stays.begin(engine, GROUP, EARLIER)
    put(engine, GROUP, b"a", b"b")
    stays.begin(engine, NEIGHBOUR, LATER)
    put(engine, NEIGHBOUR, b"a")
    for _ in range(2):
        stays.forget(engine, GROUP)
        assert stays.groups_held(engine).get(GROUP) is None
        assert rows(engine, GROUP) == []
    stays.forget(engine, GroupId(77))
    assert stays.groups_held(engine) == {NEIGHBOUR: LATER}
    assert stays.groups_with_rows(engine) == [NEIGHBOUR]
    stays.forget(engine, NEIGHBOUR)
    assert engine.scan(b"", KEYS_END, 10, 1 << 20) == []


def test_all_that_is_held_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta group and the last shard too; with rows and without, stamped and not."""
    monkeypatch.setattr(stays, "_PAGE_ROWS", 2)
    assert stays.groups_held(engine) == {}
    assert stays.groups_with_rows(engine) == []
    stamped = [META_GROUP, GroupId(1), GROUP, GroupId(256), LAST]
    for number, group in enumerate(stamped):
        stays.begin(engine, group, replica_id(3, number, 1))
    founded = [GroupId(2), GroupId(300)]
    for group in (*stamped[::2], *founded):
        put(engine, group, b"a", b"\xff\xff")
    held = stays.groups_held(engine)
    assert held == {group: replica_id(3, number, 1) for number, group in enumerate(stamped)}
    assert list(held) == sorted(held)
    assert stays.groups_with_rows(engine) == sorted([*stamped[::2], *founded])


def test_a_row_in_any_one_space_is_found(engine: Engine) -> None:
    for number, space in enumerate(Space, 1):
        batch = engine.batch()
        batch.put(space_prefix(shard_of_group(GroupId(number)), space), b"")
        engine.write(batch)
    assert stays.groups_with_rows(engine) == [GroupId(number) for number in range(1, 6)]


# -- crashes ----------------------------------------------------------------------------------


def seen_after_a_crash(engine: RocksEngine, copy: Path) -> tuple[ReplicaId | None, list[bytes]]:
    """What another process finds if this one ends here."""
    # What runs in the background would remove files while they are copied.
    engine._db.set_options({"disable_auto_compactions": "true"})
    shutil.copytree(engine._path, copy)
    again = RocksEngine(copy, SMALL)
    found = stays.groups_held(again).get(GROUP), rows(again, GROUP)
    again.close()
    return found


def test_rows_and_stamp_come_back_together_from_a_real_engine(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path / "engine", SMALL)
    names = [b"%05d" % number for number in range(500)]
    stays.begin(engine, GROUP, EARLIER)
    put(engine, GROUP, *names)
    engine.flush()
    stays.begin(engine, GROUP, LATER)
    put(engine, GROUP, *names[100:200])
    put(engine, GROUP, b"new")
    later = sorted([*names[100:200], b"new"])
    assert (stays.groups_held(engine).get(GROUP), rows(engine, GROUP)) == (LATER, later)
    assert seen_after_a_crash(engine, tmp_path / "1") == (EARLIER, names)
    engine.flush()
    assert (stays.groups_held(engine).get(GROUP), rows(engine, GROUP)) == (LATER, later)
    assert seen_after_a_crash(engine, tmp_path / "2") == (LATER, later)
    put(engine, GROUP, *names[:50])
    assert seen_after_a_crash(engine, tmp_path / "3") == (LATER, later)
    stays.forget(engine, GROUP)
    assert seen_after_a_crash(engine, tmp_path / "4") == (LATER, later)
    engine.flush()
    assert seen_after_a_crash(engine, tmp_path / "5") == (None, [])
    engine.close()
    again = RocksEngine(tmp_path / "engine", SMALL)
    assert again.scan(b"", KEYS_END, 10, 1 << 20) == []
    again.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_real_engine_is_never_between_two_replicas(seed: int, tmp_path: Path) -> None:
    """Begun, written to, forgotten and flushed at random: after a crash one of the states."""
    rng = random.Random(seed)
    engine = RocksEngine(tmp_path / "engine", SMALL)
    names: set[bytes] = set()
    replica: ReplicaId | None = None
    states: list[tuple[ReplicaId | None, list[bytes]]] = [(None, [])]
    for number in range(1, 60):
        draw = rng.random()
        if draw < 0.2:
            replica, names = replica_id(3, 0, number), set()
            stays.begin(engine, GROUP, replica)
        elif draw < 0.3:
            replica, names = None, set()
            stays.forget(engine, GROUP)
        else:
            some = {b"%02d" % rng.randrange(40) for _ in range(10)}
            names |= some
            put(engine, GROUP, *some)
        states.append((replica, sorted(names)))
        assert (stays.groups_held(engine).get(GROUP), rows(engine, GROUP)) == states[-1]
        if rng.random() < 0.15:
            engine.flush()
            states = states[-1:]
        if rng.random() < 0.15:
            assert seen_after_a_crash(engine, tmp_path / str(number)) in states
    engine.close()
