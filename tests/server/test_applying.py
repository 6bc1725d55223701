"""When what is committed is run: at once where clients wait, a little later elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server_support import Rig, command, settle

from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.messages import AppendRequest
from kvstore.server import applying

if TYPE_CHECKING:
    import pytest


def append(first: int, last: int, commit: int) -> AppendRequest:
    """Entries of a leader 3 in term 1, and how far they are committed."""
    return AppendRequest(
        ReplicaId(3),
        ReplicaId(1),
        Term(1),
        LogIndex(first - 1),
        Term(1 if first > 1 else 0),
        tuple(command(index) for index in range(first, last + 1)),
        LogIndex(commit),
    )


def let_the_timer_ring(rig: Rig) -> None:
    """As if ``FOLLOWER_LATER_S`` were over, which in these tests it never is."""
    rig.driver.guarded(rig.driver._applier._apply_followers)


async def test_a_follower_runs_later_and_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 3600.0)
    rig = Rig()
    for index in range(1, 4):
        rig.hear(append(index, index, commit=index))
        await settle()
    assert rig.host.machine.applied_index == 0
    let_the_timer_ring(rig)
    assert rig.host.machine.applied_index == 3
    assert rig.engine.writes == 1


async def test_a_leader_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 3600.0)
    rig = Rig()
    await rig.lead()
    asked = rig.write()
    await rig.acknowledge()
    assert len(asked.replies) == 1


async def test_who_comes_to_lead_runs_at_once_what_it_had_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 3600.0)
    rig = Rig()
    rig.hear(append(1, 2, commit=2))
    await settle()
    assert rig.host.machine.applied_index == 0
    await rig.lead()
    assert rig.host.machine.applied_index == rig.host.core.last_index


async def test_what_a_shard_that_left_had_to_run_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 3600.0)
    rig = Rig(shards=2)
    stays, leaves = rig.hosts.values()
    for host in (stays, leaves):
        rig.hear(append(1, 1, commit=1), host)
    await settle()
    group = next(group for group, host in rig.hosts.items() if host is leaves)
    rig.driver.remove(group)
    let_the_timer_ring(rig)
    assert stays.machine.applied_index == 1
    assert leaves.machine.applied_index == 0
