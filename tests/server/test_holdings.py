"""Groups come to a running node and leave it: in which order, and whatever is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from server_support import OWN, Asked, FakeEngine, Rig, settle, until

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig
from kvstore.errors import CorruptionError, NotLeader, Unavailable
from kvstore.ids import GroupId, NodeId, ReplicaId, ShardId, replica_id
from kvstore.kv import commands
from kvstore.kv.engine import Space, shard_range, space_prefix
from kvstore.server import holdings as module
from kvstore.server.groups import Holding, find_leftovers, load_machines
from kvstore.server.holdings import Holdings
from kvstore.server.pacing import Pace
from kvstore.server.pending import Read, Write
from kvstore.server.replicas import ReplicaNodes
from kvstore.server.snapshot_work import SnapshotTransfers
from kvstore.server.start import Stored, known_map
from kvstore.server.upkeep import LogKeeper
from kvstore.sharding import changes
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.storage import map_file, records, stays
from kvstore.storage.files import OsFiles
from kvstore.storage.identity import open_identity
from kvstore.storage.replay import RecoveredLog
from kvstore.storage.snapshots import SnapshotStorage
from kvstore.wire.map_codec import decode_map, encode_map

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

N4 = NodeId("n4")
SHARD = ShardId(1)
GROUP = GroupId(2)
FOUNDERS = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in (1, 2, 3))
CLUSTER = ClusterConfig(id="c", nodes=FOUNDERS, shards=4)
FIRST = changes.succeed(bootstrap(CLUSTER), changes.admit(bootstrap(CLUSTER), N4, "h:4", 1.0, ""))


def coming(before: ShardMap, group: GroupId = GROUP) -> ShardMap:
    gone = before.members(group)[0].node
    return changes.succeed(before, changes.begin(before, group, N4, gone))


def there(before: ShardMap) -> ShardMap:
    return changes.succeed(before, changes.finish(before, before.changes[0]))


def gone(before: ShardMap) -> ShardMap:
    begun = changes.begin(before, GROUP, NodeId("n1"), N4)
    return changes.succeed(before, changes.finish(begun, begun.changes[0]))


def put(key: bytes, value: bytes) -> bytes:
    return commands.encode_batch(0, 0, 0, 0, [(commands.PUT, key, value)])


class Held:
    """The holdings of ``n4`` on a log, an engine and a driver that a test can look into."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.rig = Rig(own=ReplicaId(4))
        self.rig.driver.hosts.clear()
        self.engine = self.rig.engine
        self.identity = open_identity(data_dir, cluster_id="c", node_id=N4)
        self.storage = SnapshotStorage(cast("Any", self.engine), data_dir / "snapshots")
        self.thread = ThreadPoolExecutor(1)
        transfers = SnapshotTransfers(
            self.rig.driver,
            self.storage,
            self.rig.log,
            pace=Pace(1 << 30),
            thread=self.thread,
            clock=lambda: self.rig.now,
            on_fatal=self.rig.fatal.append,
        )
        config = NodeConfig(N4, data_dir, CLUSTER, joining=NodeAddress(N4, "h:4"))
        holding = Holding({}, CLUSTER.shards, {}, ReplicaNodes())
        self.holdings = Holdings(
            config,
            self.identity,
            Stored(
                cast("Any", self.engine), self.storage, cast("Any", self.rig.log), None, holding, {}
            ),
            self.rig.driver,
            transfers,
            thread=self.thread,
            clock=lambda: self.rig.now,
            rng=random.Random(1),
        )

    @property
    def replica_records(self) -> list[int]:
        """Which replicas the log was told of, in order."""
        told = [record for append in self.rig.log.appends for record in append.records]
        return [
            records.decode_replica(records.payload_of(record))
            for record in told
            if records.peek(record)[0] == records.RecordType.REPLICA
        ]

    def rows(self) -> list[tuple[bytes, bytes]]:
        return self.engine.scan(*shard_range(SHARD), 100, 1 << 20)

    def put_row(self) -> None:
        batch = self.engine.batch()
        batch.put(space_prefix(SHARD, Space.DATA) + b"k", b"v")
        self.engine.write(batch)

    async def until_it_holds(self, *groups: GroupId) -> None:
        await until(lambda: self.rig.driver.hosts.keys() == set(groups))
        await settle()


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    it = Held(tmp_path / "n4")
    running = asyncio.create_task(it.holdings.run())
    yield it
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    it.thread.shutdown()
    it.identity.release()
    assert it.rig.fatal == []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.001)


async def test_a_group_comes_map_first_then_log_then_engine(held: Held) -> None:
    replica = replica_id(4, 0, 1)
    held.put_row()
    held.rig.log.is_prompt = False
    held.holdings.follow(coming(FIRST))
    await until(lambda: bool(held.rig.log.held))
    body = map_file.load(held.data_dir)
    assert body is not None
    assert decode_map(body) == coming(FIRST)
    assert held.identity.has_map
    assert held.replica_records == [replica]
    assert held.rows(), "nothing is touched before the log knows"
    assert not held.rig.driver.hosts
    held.rig.log.is_prompt = True
    held.rig.log.become_durable()
    await held.until_it_holds(GROUP)
    assert stays.groups_held(held.engine).get(GROUP) == replica
    assert held.rows() == []
    host = held.rig.driver.hosts[GROUP]
    assert host.core.replica == replica
    assert host.core.config.voters == (), "it has yet to be told who the members are"


async def test_it_leaves_and_nothing_of_it_stays(held: Held) -> None:
    last = there(coming(FIRST))
    held.holdings.follow(last)
    await held.until_it_holds(GROUP)
    host = held.rig.driver.hosts[GROUP]
    held.put_row()
    ((key, row),) = held.rows()
    held.engine.row_cache.put(key, row)
    held.holdings.follow(gone(last))
    await held.until_it_holds()
    await until(lambda: held.rows() == [])
    assert host.has_left
    await until(lambda: stays.groups_held(held.engine).get(GROUP) is None)
    await until(lambda: held.engine.row_cache.get(key) is None)
    assert held.replica_records == [replica_id(4, 0, 1), 0]
    asked = Asked()
    host.read(Read(lambda: asked.reply(b"stale"), asked))
    assert asked.answers == 1
    assert asked.errors, "whoever asks a host that has left is told so"


async def test_whoever_waits_is_told_when_the_group_leaves(held: Held) -> None:
    last = there(coming(FIRST))
    held.holdings.follow(last)
    await held.until_it_holds(GROUP)
    asked = Asked()
    host = held.rig.driver.hosts[GROUP]
    host._reads.append(Read(lambda: asked.reply(b""), asked))
    held.holdings.follow(gone(last))
    await held.until_it_holds()
    assert asked.answers == 1


async def test_it_comes_again_as_another(held: Held) -> None:
    left = gone(there(coming(FIRST)))
    again = there(coming(left))
    for shard_map, groups in [(there(coming(FIRST)), [GROUP]), (left, []), (again, [GROUP])]:
        held.holdings.follow(shard_map)
        await held.until_it_holds(*groups)
    assert held.rig.driver.hosts[GROUP].core.replica == replica_id(4, 0, 3)
    assert stays.groups_held(held.engine).get(GROUP) == replica_id(4, 0, 3)
    assert held.replica_records == [replica_id(4, 0, 1), 0, replica_id(4, 0, 3)]


async def test_a_map_that_was_overtaken_is_not_looked_at(held: Held) -> None:
    early = coming(FIRST)
    held.holdings.follow(early)
    held.holdings.follow(coming(early, GroupId(3)))
    held.holdings.follow(early)
    await held.until_it_holds(GROUP, GroupId(3))
    body = map_file.load(held.data_dir)
    assert body == encode_map(coming(early, GroupId(3)))


async def test_what_finds_no_room_is_tried_again(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    held.engine.fill()
    held.holdings.follow(coming(FIRST))
    await until(lambda: "cannot be followed yet" in caplog.text)
    assert not held.rig.driver.hosts
    held.engine.failing = None
    await held.until_it_holds(GROUP)
    held.put_row()
    held.engine.fill()
    held.holdings.follow(gone(there(coming(FIRST))))
    await until(lambda: 0 in held.replica_records)
    assert held.rows()
    held.engine.failing = None
    await until(lambda: held.rows() == [])


async def test_nothing_is_done_by_a_map_that_cannot_be_written_down(
    held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = held.data_dir / map_file.MAP_FILE
    in_the_way.mkdir()
    (in_the_way / "something").touch()
    held.holdings.follow(coming(FIRST))
    await until(lambda: "cannot be followed yet" in caplog.text)
    assert held.replica_records == []
    (in_the_way / "something").unlink()
    in_the_way.rmdir()
    await held.until_it_holds(GROUP)


async def test_a_flush_says_nothing_of_a_group_that_has_left_meanwhile() -> None:
    rig = Rig(shards=2)
    for host in rig.hosts.values():
        await rig.lead(host)
    keeper = LogKeeper(rig.driver, rig.log, rig.engine, live_bytes_max=1)
    before = len(rig.log.appends)
    flushing = asyncio.create_task(keeper.flush())
    await asyncio.sleep(0)
    rig.driver.remove(GroupId(2))
    await flushing
    marked = [records.peek(r)[1] for append in rig.log.appends[before:] for r in append.records]
    assert marked == [1]
    assert [set(released) for released in rig.log.released] == [{1}]


async def test_what_becomes_durable_for_a_group_that_has_left_counts_for_nothing() -> None:
    rig = Rig()
    await rig.lead()
    rig.log.is_prompt = False
    host = rig.host
    asked = Asked()
    host.write(Write(1, put(b"k", b"v"), asked))
    rig.driver.wake(host)
    await settle()
    assert rig.log.held
    rig.driver.remove(GroupId(1))
    sent = len(rig.peers.frames)
    rig.log.become_durable()
    await settle()
    assert isinstance(asked.error, Unavailable | NotLeader)
    assert asked.error.may_have_applied
    assert len(rig.peers.frames) == sent
    assert rig.fatal == []


# -- what a start finds ---------------------------------------------------------------------------

R4 = replica_id(4, 0, 2)
HOLDING = Holding({GROUP: R4, GroupId(1): OWN}, 4, {}, ReplicaNodes())


def log_of(replica: int) -> RecoveredLog:
    return RecoveredLog(replica=replica)


def test_a_start_that_finds_all_as_it_should_be_has_nothing_to_do() -> None:
    engine = FakeEngine()
    stays.begin(engine, GROUP, R4)
    found = find_leftovers(HOLDING, {GROUP: log_of(R4)}, engine)
    assert (found.begun, found.unstamped, found.left) == ({}, {}, ())
    assert load_machines(HOLDING, engine).keys() == {GROUP, GroupId(1)}


@pytest.mark.parametrize("logged", [None, replica_id(4, 0, 1)])
def test_a_group_that_had_not_quite_come_begins_again(logged: int | None) -> None:
    engine = FakeEngine()
    logs = {} if logged is None else {GROUP: log_of(logged)}
    found = find_leftovers(HOLDING, logs, engine)
    assert found.begun == {GROUP: R4}
    assert GROUP not in load_machines(HOLDING, engine)


def test_rows_that_a_crash_took_back_are_void_and_the_log_is_not() -> None:
    engine = FakeEngine()
    stays.begin(engine, GROUP, replica_id(4, 0, 1))
    found = find_leftovers(HOLDING, {GROUP: log_of(R4)}, engine)
    assert found.unstamped == {GROUP: R4}
    assert found.begun == {}


def test_what_should_have_gone_goes() -> None:
    engine = FakeEngine()
    stays.begin(engine, GroupId(7), replica_id(4, 0, 1))
    found = find_leftovers(HOLDING, {GROUP: log_of(R4), GroupId(9): log_of(0)}, engine)
    assert found.left == (GroupId(7), GroupId(9))


def test_a_map_that_is_older_than_what_is_stored_is_refused() -> None:
    engine = FakeEngine()
    later = replica_id(4, 0, 3)
    for logs in ({GROUP: log_of(later)}, {}):
        if not logs:
            stays.begin(engine, GROUP, later)
        with pytest.raises(CorruptionError, match="out of date"):
            find_leftovers(HOLDING, logs, engine)


def test_a_map_that_is_gone_is_missed(tmp_path: Path) -> None:
    config = NodeConfig(N4, tmp_path, CLUSTER, joining=NodeAddress(N4, "h:4"))
    assert known_map(config, FIRST, must_exist=False) == FIRST
    with pytest.raises(CorruptionError, match="is gone"):
        known_map(config, FIRST, must_exist=True)


def test_a_map_is_not_acted_on_before_the_disk_has_it_for_good(tmp_path: Path) -> None:
    config = NodeConfig(N4, tmp_path, CLUSTER, joining=NodeAddress(N4, "h:4"))
    synced: list[Path] = []

    class Noting(OsFiles):
        def sync_directory(self, path: Path) -> None:
            synced.append(path)

    files = Noting()
    assert known_map(config, FIRST, must_exist=False, files=files) == FIRST
    assert synced == []
    map_file.save(OsFiles(), tmp_path, encode_map(coming(FIRST)))
    assert known_map(config, FIRST, must_exist=True, files=files) == coming(FIRST)
    assert synced == [tmp_path]


def test_only_founders_know_whom_they_were_founded_with() -> None:
    founding = bootstrap(CLUSTER)
    holding = Holding.of(NodeId("n1"), founding, founding)
    assert set(holding.initial(GroupId(0)).voters) == {r.id for r in founding.meta}
    moved = replace(holding, replicas={GROUP: R4})
    assert moved.initial(GROUP).voters == ()
