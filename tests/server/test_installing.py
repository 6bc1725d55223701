"""A snapshot is put in force step by step, so that others have their turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from server_support import Rig, settle
from snapshot_rig import Work, chunk, engine_at_50, streamed, work_on

from kvstore.ids import GroupId
from kvstore.storage import snapshots

if TYPE_CHECKING:
    from pathlib import Path

STEP_BYTES = 8


@pytest.fixture
async def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """An installation has begun, of which each row is a step."""
    monkeypatch.setattr(snapshots, "INSTALL_BATCH_BYTES", STEP_BYTES)
    work = work_on(Rig(), tmp_path)
    work.rig.hear(chunk(streamed(engine_at_50())))
    await settle()
    work.threads.run()
    await settle()
    assert work.rig.host.installing
    return work


async def test_other_work_comes_between_two_steps(work: Work) -> None:
    order: list[str] = []
    work.threads.run()
    work.threads.submit(lambda: order.append("another"))
    await settle()
    while work.threads.work:
        work.threads.run()
        order.append("step")
        await settle()
    assert order.index("another") == 0
    assert order.count("step") >= 2
    assert work.rig.host.machine.applied_index == 50


async def test_it_rests_after_each_step(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[int] = []

    def rest_s(size: int) -> float:
        rests.append(size)
        return 0.0

    monkeypatch.setattr(work.transfers, "_rest_s", rest_s)
    await work.run()
    assert len(rests) == 2, "one for each row"
    assert all(size >= STEP_BYTES for size in rests)


async def test_a_group_that_leaves_in_between_is_not_installed_any_further(work: Work) -> None:
    work.threads.run()
    before = dict(work.rig.engine._values)
    work.rig.driver.remove(GroupId(1))
    await settle()
    assert not work.threads.work
    assert work.rig.engine._values == before
    assert work.rig.fatal == []


async def test_an_installation_that_stopped_between_two_steps_is_done_again(work: Work) -> None:
    work.threads.run()
    assert work.storage.finish_pending() == [(GroupId(1), chunk(b"").meta)]
