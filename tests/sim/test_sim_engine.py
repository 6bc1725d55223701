"""What a crash of the simulated engine leaves of a group that came anew."""

from __future__ import annotations

import random

from kvstore.ids import GroupId, replica_id, shard_of_group
from kvstore.kv.engine import Space, shard_range, space_prefix
from kvstore.storage import stays
from kvstore.storage.memory import MemoryEngine
from sim.disk import SimDisk
from sim.engine import SimEngine

GROUP = GroupId(4)
SHARD = shard_of_group(GROUP)
EARLIER, LATER = replica_id(3, 0, 1), replica_id(3, 0, 2)


def put(engine: SimEngine, name: bytes) -> None:
    batch = engine.batch()
    batch.put(space_prefix(SHARD, Space.DATA) + name, b"")
    engine.write(batch)


def test_rows_and_stamp_are_of_one_replica_or_the_other() -> None:
    seen = set()
    for seed in range(40):
        engine = SimEngine(SimDisk(random.Random(seed)), MemoryEngine())
        stays.begin(engine, GROUP, EARLIER)
        put(engine, b"old")
        engine.flush()
        stays.begin(engine, GROUP, LATER)
        put(engine, b"new")
        left = engine.after_crash(random.Random(seed))
        rows = left.scan(*shard_range(SHARD), 10, 1 << 20)
        seen.add((stays.groups_held(left).get(GROUP), tuple(key[3:] for key, _ in rows)))
    assert seen == {(EARLIER, (b"old",)), (LATER, ()), (LATER, (b"new",))}


def test_the_stamps_are_in_no_shards_fingerprint() -> None:
    engine = SimEngine(SimDisk(random.Random(1)), MemoryEngine())
    prefix = space_prefix(SHARD, Space.DATA)[:2]
    put(engine, b"a")
    assert engine.fingerprint(prefix) != 0
    stays.begin(engine, GROUP, LATER)
    assert engine.fingerprint(prefix) == 0
