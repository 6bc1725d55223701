"""The simulated disk, engine and network do what the real ones may do, and no more."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from kvstore.storage.memory import MemoryEngine
from sim.disk import DiskCrash, Fault, Inode, SimDisk
from sim.engine import SimEngine
from sim.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Always(random.Random):
    """Chance that takes the largest of what is offered."""

    def choice(self, seq: Any) -> Any:
        return max(seq)

    def randint(self, a: int, b: int) -> int:
        return b

    def random(self) -> float:
        return 0.0


def file_of(disk: SimDisk, data: bytes) -> tuple[Path, int]:
    path = disk.path("/n/file")
    fd = disk.create(path)
    disk.write(fd, [data], 0)
    disk.sync(fd)
    disk.sync_directory(path.parent)
    return path, fd


def test_a_power_cut_takes_what_was_not_synced() -> None:
    disk = SimDisk(Always())
    path, fd = file_of(disk, b"synced")
    disk.write(fd, [b"UN", b"SYNCED"], 0)
    assert path.read_bytes() == b"UNSYNCED"
    disk.process_died()
    assert path.read_bytes() == b"UNSYNCED", "a killed process alone loses nothing"
    disk.lose_power()
    assert path.read_bytes() == b"synced"


def test_a_later_sync_covers_an_earlier_write() -> None:
    disk = SimDisk(Always())
    path, fd = file_of(disk, bytes(8))
    disk.write(fd, [b"abcd"], 0)
    disk.sync_data(fd)
    disk.lose_power()
    assert path.read_bytes() == b"abcd" + bytes(4)


def test_after_a_failed_sync_only_writing_again_helps() -> None:
    disk = SimDisk(Always())
    path, fd = file_of(disk, bytes(8))
    disk.write(fd, [b"abcd"], 0)
    disk.fault = Fault.SYNC
    with pytest.raises(OSError, match="failed to sync"):
        disk.sync_data(fd)
    disk.sync_data(fd)
    assert path.read_bytes()[:4] == b"abcd"
    disk.lose_power()
    assert path.read_bytes() == bytes(8)
    fd = disk.open(path)
    disk.write(fd, [b"abcd"], 0)
    disk.sync_data(fd)
    disk.lose_power()
    assert path.read_bytes()[:4] == b"abcd"


def test_names_go_back_to_the_last_sync_of_the_directory() -> None:
    disk = SimDisk(Always())
    path, _ = file_of(disk, b"x")
    disk.rename(path, path.with_name("renamed"))
    disk.create(path.with_name("new"))
    disk.lose_power()
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_write_is_torn_in_sectors() -> None:
    outcomes = set()
    for seed in range(40):
        inode = Inode(bytearray(2048))
        inode.write(100, bytes([1]) * 1500)
        inode.lose_power(random.Random(seed))
        parts = [inode.data[a:b] for a, b in itertools.pairwise((100, 512, 1024, 1536, 1600))]
        assert all(set(part) in ({0}, {1}) for part in parts), "a sector is kept or lost whole"
        assert not any(inode.data[:100] + inode.data[1600:]), "nothing else is touched"
        outcomes.add(tuple(part[0] for part in parts))
    assert {(0, 0, 0, 0), (1, 1, 1, 1)} < outcomes
    assert any(0 in outcome and 1 in outcome for outcome in outcomes), "one is lost, another kept"


def test_the_process_dies_at_the_operation_that_was_chosen() -> None:
    disk = SimDisk(random.Random(1))
    path, fd = file_of(disk, b"")
    disk.crash_in = 1
    disk.sync(fd)
    with pytest.raises(DiskCrash):
        disk.remove(path)
    assert path.exists()


def test_the_power_may_go_between_a_write_and_its_sync() -> None:
    disk = SimDisk(Always())
    path, fd = file_of(disk, b"synced")
    disk.crash_in, disk.crash_takes_power = 1, True
    disk.write(fd, [b"UNSYNCED"], 0)
    with pytest.raises(DiskCrash) as crash:
        disk.sync_data(fd)
    assert crash.value.is_power_lost
    disk.process_died()
    disk.lose_power()
    assert (path.read_bytes(), disk.writes_lost) == (b"synced", 1)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SYNC])
def test_any_operation_may_fail_once(fault: Fault) -> None:
    disk = SimDisk(random.Random(1))
    path, fd = file_of(disk, b"x")
    operations: dict[Fault, Callable[[], object]] = {
        Fault.WRITE: lambda: disk.write(fd, [b"y"], 0),
        Fault.METADATA: lambda: disk.rename(path, path.with_name("other")),
        Fault.DIRECTORY_SYNC: lambda: disk.sync_directory(path.parent),
    }
    disk.fault = fault
    with pytest.raises(OSError, match=f"failed to {fault.value}"):
        operations[fault]()
    assert disk.has_failed
    operations[fault]()


def test_a_full_disk_takes_nothing_new() -> None:
    disk = SimDisk(random.Random(1))
    _, fd = file_of(disk, bytes(10))
    disk.is_full = True
    disk.write(fd, [b"inside"], 0)
    with pytest.raises(OSError, match="no space"):
        disk.write(fd, [b"outside"], 8)
    with pytest.raises(OSError, match="no space"):
        disk.allocate(fd, 100)
    assert disk.free_bytes(disk.path("/")) == 0


def test_the_engine_keeps_a_beginning_of_what_was_not_flushed() -> None:
    for seed in range(40):
        disk = SimDisk(random.Random(seed))
        engine = SimEngine(disk, MemoryEngine())
        for number in range(6):
            batch = engine.batch()
            batch.put(b"key%d" % number, b"")
            engine.write(batch)
            if number == 2:
                engine.flush()
        kept = engine.after_crash(random.Random(seed)).scan(b"", b"z", 99, 1 << 20)
        assert [key for key, _ in kept] == [b"key%d" % number for number in range(len(kept))]
        assert 3 <= len(kept) <= 6


def test_equal_states_have_equal_fingerprints_however_they_came_about() -> None:
    disk = SimDisk(random.Random(1))
    one, other = SimEngine(disk, MemoryEngine()), SimEngine(disk, MemoryEngine())
    for engine, values in ((one, (b"a", b"b", b"c")), (other, (b"c",))):
        for value in values:
            batch = engine.batch()
            batch.put(b"\0\1key", value)
            batch.put(b"\0\1gone", value)
            batch.delete(b"\0\1gone")
            engine.write(batch)
    assert one.fingerprint(b"\0\1") == other.fingerprint(b"\0\1") != 0
    assert one.fingerprint(b"\0\2") == 0


def test_events_run_in_the_order_of_their_time() -> None:
    world, seen = World(1), []
    world.at(2.0, lambda: seen.append("late"))
    world.at(1.0, lambda: seen.append("first"))
    world.at(1.0, lambda: seen.append("second"))
    world.run(1.5)
    assert (seen, world.now) == (["first", "second"], 1.5)
    with pytest.raises(Violation, match="no progress"):
        world.run_until(lambda: False, 1.0, "pigs fly")
    assert seen[-1] == "late"
