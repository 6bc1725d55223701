"""A group that leaves with entries still to run costs nothing any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server_support import Rig, settle
from test_applying import append

from kvstore.server import applying

if TYPE_CHECKING:
    import pytest


async def test_a_shard_that_left_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 3600.0)
    rig = Rig()
    rig.hear(append(1, 1, commit=1))
    await settle()
    applier = rig.driver._applier
    assert applier._followers
    look = applier._apply_followers
    looks = 0

    def counted() -> None:
        nonlocal looks
        looks += 1

    rig.driver.remove(next(iter(rig.hosts)))
    monkeypatch.setattr(applier, "_apply_followers", counted)
    rig.driver.guarded(look)  # as the timer would
    await settle()
    assert looks == 0
    assert not applier._followers
