"""What a node does by itself: keep the log short, watch the disk, spread leaders."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from server_support import NODES, Rig, settle

from kvstore.errors import DiskFull, Internal
from kvstore.ids import GroupId, NodeId, ReplicaId
from kvstore.server import upkeep
from kvstore.server.admission import Admission
from kvstore.server.date_watch import DateWatch
from kvstore.server.shard_host import GATHER_S
from kvstore.server.upkeep import STEADY_S, DiskWatch, LeaderBalance, LogKeeper
from kvstore.storage import records
from kvstore.storage.records import RecordType

if TYPE_CHECKING:
    from kvstore.storage.rocks import RocksEngine
    from kvstore.storage.wal import Wal

GROUP = GroupId(1)


# -- the log's keeper --------------------------------------------------------------------------


def keeper_of(rig: Rig, *, live_bytes_max: int = 1000) -> LogKeeper:
    return LogKeeper(
        rig.driver,
        cast("Wal", rig.log),
        cast("RocksEngine", rig.engine),
        live_bytes_max=live_bytes_max,
    )


async def written() -> Rig:
    rig = Rig(voters=1)
    await rig.lead()
    rig.write()
    await settle()
    rig.log.appends.clear()
    return rig


async def test_the_log_is_left_alone_until_it_is_too_long() -> None:
    rig = await written()
    rig.log.live_bytes = 1000
    await keeper_of(rig).check()
    assert (rig.engine.flushes, rig.log.released) == (0, [])
    rig.log.live_bytes = 1001
    await keeper_of(rig).check()
    assert (rig.engine.flushes, rig.log.released) == (1, [{GROUP: 2}])


async def test_first_the_engine_then_the_mark_then_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = await written()
    order: list[str] = []
    monkeypatch.setattr(rig.engine, "flush", lambda: order.append("flush"))
    monkeypatch.setattr(rig.log, "append", lambda *_: order.append("marks"))
    monkeypatch.setattr(rig.log, "release", lambda _: order.append("release"))
    await keeper_of(rig).flush()
    assert order == ["flush", "marks", "release"]


async def test_what_is_applied_during_the_flush_is_not_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = await written()
    loop = asyncio.get_running_loop()

    def flush() -> None:
        asyncio.run_coroutine_threadsafe(_write_and_settle(rig), loop).result(10)

    monkeypatch.setattr(rig.engine, "flush", flush)
    await keeper_of(rig).flush()
    assert rig.host.core.applied_index == 3
    (mark,) = rig.log.appends[-1].records
    assert records.peek(mark)[:3] == (RecordType.MARK, GROUP, 2)
    assert rig.log.released == [{GROUP: 2}]


async def _write_and_settle(rig: Rig) -> None:
    rig.write()
    await settle()


async def test_a_group_that_is_being_replaced_or_has_nothing_is_passed_over() -> None:
    rig = await written()
    rig.host.begin_install()
    await keeper_of(rig).flush()
    assert rig.log.released == [{}]
    fresh = Rig()
    await keeper_of(fresh).flush()
    assert fresh.log.released == [{}]


async def test_without_room_the_log_stays_as_it_is_until_there_is() -> None:
    rig = await written()
    keeper = keeper_of(rig)
    rig.engine.flush_failing = DiskFull("no room")
    await keeper.flush()
    await keeper.flush()
    assert (rig.log.appends, rig.log.released) == ([], [])
    rig.engine.flush_failing = None
    await keeper.flush()
    assert rig.log.released == [{GROUP: 2}]


async def test_after_a_full_disk_the_engine_is_left_alone_to_recover() -> None:
    rig = await written()
    keeper = keeper_of(rig, live_bytes_max=-1)
    rig.engine.flush_failing = DiskFull("no room")
    await keeper.check()
    rig.engine.flush_failing = None
    for _ in range(upkeep.CHECKS_SKIPPED_WHEN_FULL):
        await keeper.check()
        assert rig.log.released == []
    await keeper.check()
    assert rig.log.released == [{GROUP: 2}]


async def test_an_engine_that_fails_otherwise_is_not_passed_over() -> None:
    rig = await written()
    rig.engine.flush_failing = Internal("broken")
    with pytest.raises(Internal):
        await keeper_of(rig).flush()
    assert rig.log.released == []


# -- the disk's watch --------------------------------------------------------------------------


class Disk:
    def __init__(self) -> None:
        self.free = 10_000
        self.admission = Admission(pending_bytes_max=1)
        self.watch = DiskWatch(lambda: self.free, self.admission, free_bytes_min=800)

    def is_full_at(self, free: int) -> bool:
        self.free = free
        self.watch.check()
        return self.admission.disk_full


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_writes_stop_below_the_bound_and_resume_with_room_to_spare(disk: Disk) -> None:
    assert not disk.is_full_at(800)
    assert disk.is_full_at(799)
    assert disk.is_full_at(800), "no flapping around the bound"
    assert disk.is_full_at(899)
    assert not disk.is_full_at(900)
    assert not disk.is_full_at(800)


@pytest.mark.parametrize("who", ["log_full", "engine_full"])
def test_log_and_engine_say_so_themselves(disk: Disk, who: str) -> None:
    getattr(disk.watch, who)(True)
    assert disk.admission.disk_full
    assert disk.is_full_at(10_000), "whatever the file system says"
    getattr(disk.watch, who)(False)
    assert not disk.admission.disk_full


def test_one_of_them_does_not_speak_for_the_other(disk: Disk) -> None:
    disk.watch.log_full(True)
    disk.watch.engine_full(True)
    disk.watch.log_full(False)
    assert disk.admission.disk_full
    disk.watch.engine_full(False)
    assert not disk.admission.disk_full


# -- the spread of leaders ---------------------------------------------------------------------


class Spread:
    """``n1`` leads; ``n2`` is preferred."""

    def __init__(self, rig: Rig, preferred: str = "n2") -> None:
        self.rig = rig
        self.since: dict[NodeId, float] = {NODES[ReplicaId(2)]: rig.now - 100}
        self.balance = LeaderBalance(
            rig.driver,
            {GROUP: NodeId(preferred)}.get,
            steady_since=self.since.get,
            clock=lambda: rig.now,
        )

    async def goes_to(self) -> int:
        """To whom leadership is being handed after a check."""
        self.balance.check()
        await settle()
        return self.rig.host.core.status(self.rig.now).transferring_to

    async def lead_for_a_while(self) -> None:
        assert await self.goes_to() == 0
        self.rig.now += STEADY_S


async def spread(preferred: str = "n2") -> Spread:
    rig = Rig()
    await rig.lead()
    return Spread(rig, preferred)


async def test_a_shard_goes_to_its_preferred_node() -> None:
    it = await spread()
    await it.lead_for_a_while()
    assert await it.goes_to() == 2


async def test_not_from_the_preferred_node() -> None:
    it = await spread(preferred="n1")
    await it.lead_for_a_while()
    assert await it.goes_to() == 0


async def test_not_by_a_follower() -> None:
    it = await spread()
    await it.lead_for_a_while()
    await it.rig.depose()
    assert await it.goes_to() == 0


async def test_not_to_a_node_that_is_away_or_has_just_come() -> None:
    it = await spread()
    await it.lead_for_a_while()
    it.since[NodeId("n2")] = it.rig.now - STEADY_S + 0.1
    assert await it.goes_to() == 0
    it.since.clear()
    assert await it.goes_to() == 0


async def test_not_straight_back_to_a_node_that_gave_it_up_to_stop() -> None:
    it = await spread()
    await it.lead_for_a_while()
    rig = it.rig
    await rig.depose()
    await rig.lead()
    assert await it.goes_to() == 0, "a new term: we have only just come to lead"
    rig.now += STEADY_S - 0.1
    assert await it.goes_to() == 0
    rig.now += 0.1
    await rig.acknowledge()
    assert await it.goes_to() == 2


async def test_not_to_a_replica_that_is_far_behind() -> None:
    it = await spread()
    rig = it.rig
    await it.lead_for_a_while()
    for _ in range(upkeep.CATCH_UP_ENTRIES_MAX + 1):
        rig.now += GATHER_S
        rig.write()
        await settle()
    assert await it.goes_to() == 0
    await rig.acknowledge()
    assert await it.goes_to() == 2


async def test_not_to_a_replica_without_a_vote() -> None:
    rig = Rig(voters=2)
    await rig.lead()
    rig.host.core.propose_config([ReplicaId(1)], [ReplicaId(2)], rig.now)
    rig.driver.wake(rig.host)
    await rig.acknowledge()
    await rig.acknowledge()
    it = Spread(rig)
    await it.lead_for_a_while()
    assert await it.goes_to() == 0


async def test_the_loops_run_each_of_them(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_INTERVAL_S", 0.001)
    monkeypatch.setattr(upkeep, "BALANCE_INTERVAL_S", 0.001)
    monkeypatch.setattr(upkeep, "WINDOW_S", 0.001)
    rig = await written()
    ran = {name: asyncio.Event() for name in ("keep", "watch", "date", "spread", "pace")}

    async def check() -> None:
        ran["keep"].set()

    keeper, balance = keeper_of(rig), Spread(rig).balance
    date = DateWatch(lambda: 0, lambda: 0.0, jump_ms_max=500)
    monkeypatch.setattr(date, "check", ran["date"].set)
    monkeypatch.setattr(keeper, "check", check)
    monkeypatch.setattr(disk.watch, "check", ran["watch"].set)
    monkeypatch.setattr(balance, "check", ran["spread"].set)
    loops = upkeep.periodic(keeper, disk.watch, date, balance, ran["pace"].set)
    tasks = [asyncio.create_task(work) for work in loops]
    async with asyncio.timeout(10):
        for event in ran.values():
            await event.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
