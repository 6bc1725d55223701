"""What holds for all tests of a node's parts."""

from __future__ import annotations

import pytest

from kvstore.server import applying


@pytest.fixture(autouse=True)
def followers_apply_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the loop turns: where a test waits for the loop it need not wait for time."""
    monkeypatch.setattr(applying, "FOLLOWER_LATER_S", 0.0)
