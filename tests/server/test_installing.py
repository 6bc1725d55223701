"""A snapshot is put in force step by step, so that others have their turns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from server_support import Rig, settle
from snapshot_rig import Work, chunk, engine_at_50, streamed, work_on

from kvstore.ids import GroupId, ShardId
from kvstore.kv.engine import Space, shard_range, space_prefix
from kvstore.storage import snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.kv.state_machine import Loaded

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


async def test_the_loop_does_not_read_what_was_installed(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of sessions take part of a second, in which no group would be heard."""
    machine, in_thread = work.rig.host.machine, []
    load = machine.load

    def noted_load() -> Loaded:
        in_thread.append(work.threads.is_running)
        return load()

    monkeypatch.setattr(machine, "load", noted_load)
    while work.threads.work:
        work.threads.run()
        await settle()
    assert machine.applied_index == 50
    assert in_thread == [True]
