"""A snapshot is put in force step by step, so that others have their turns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from server_support import Rig, settle
from snapshot_rig import Work, chunk, engine_at_50, streamed, work_on

from kvstore.ids import GroupId, ReplicaId, ShardId
from kvstore.kv.engine import Space, shard_range, space_prefix
from kvstore.server import snapshot_work
from kvstore.storage import snapshots

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP_BYTES = 8


async def installing(rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """An installation has begun, of which each row is a step."""
    monkeypatch.setattr(snapshots, "INSTALL_BATCH_BYTES", STEP_BYTES)
    work = work_on(rig, path)
    work.rig.hear(replace(chunk(streamed(engine_at_50())), receiver=rig.own))
    await settle()
    work.threads.run()
    await settle()
    assert work.rig.host.installing
    return work


@pytest.fixture
async def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Of a voter."""
    return await installing(Rig(), tmp_path, monkeypatch)


async def test_other_work_comes_between_two_steps(work: Work) -> None:
    order: list[str] = []
    work.threads.run()
    work.threads.submit(lambda: order.append("another"))
    await settle()
    assert len(work.threads.work) == 2, "the next step, behind the other work"
    while work.threads.work:
        work.threads.run()
        order.append("step")
        await settle()
    assert order[0] == "another"
    assert order.count("step") >= 2
    assert work.rig.host.machine.applied_index == 50


class Rests:
    """Notes after how many seconds the next step comes, and lets it come at once."""

    def __init__(self, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        loop = work.rig.driver.loop
        monkeypatch.setattr(work.transfers, "_rest_s", lambda size: size * 100.0)
        monkeypatch.setattr(work.rig.driver, "loop", self)
        self.run_in_executor = loop.run_in_executor
        self.call_soon = loop.call_soon

    def call_later(self, delay_s: float, work: Callable[..., object], *arguments: object) -> None:
        self.seconds.append(delay_s)
        self.call_soon(work, *arguments)


async def test_a_newcomer_rests_after_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomer = await installing(Rig(own=ReplicaId(9)), tmp_path, monkeypatch)
    rests = Rests(newcomer, monkeypatch)
    await newcomer.run()
    assert len(rests.seconds) == 2, "one for each row"
    assert all(seconds >= STEP_BYTES * 100.0 for seconds in rests.seconds)


async def test_a_newcomer_that_has_rested_for_long_hurries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newcomer = await installing(Rig(own=ReplicaId(9)), tmp_path, monkeypatch)
    rests = Rests(newcomer, monkeypatch)
    newcomer.rig.now += snapshot_work.RESTS_S_MAX
    await newcomer.run()
    assert rests.seconds == [0.0, 0.0]


async def test_a_voter_does_not_rest(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = Rests(work, monkeypatch)
    await work.run()
    assert rests.seconds == [0.0, 0.0]


async def test_a_group_that_leaves_in_between_is_not_installed_any_further(work: Work) -> None:
    work.threads.run()
    before = dict(work.rig.engine._values)
    work.rig.driver.remove(GroupId(1))
    await settle()
    assert not work.threads.work
    assert work.rig.engine._values == before
    assert work.rig.fatal == []


async def test_an_installation_that_stopped_between_two_steps_is_done_again(work: Work) -> None:
    rows = shard_range(ShardId(0))
    whole = list(engine_at_50().snapshot_rows(*rows))
    old = work.rig.engine.batch()
    old.put(space_prefix(ShardId(0), Space.DATA) + b"zz", b"of before")
    work.rig.engine.write(old)
    work.threads.run()
    assert list(work.rig.engine.snapshot_rows(*rows)) != whole
    assert work.storage.finish_pending() == [(GroupId(1), chunk(b"").meta)]
    assert list(work.rig.engine.snapshot_rows(*rows)) == whole
