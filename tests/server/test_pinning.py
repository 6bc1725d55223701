"""How a node remembers which directory a peer has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from server_support import until

from kvstore.errors import Refused
from kvstore.ids import NodeId
from kvstore.server import fatal, pinning
from kvstore.server.pinning import Pinning
from kvstore.storage.identity_file import Pin

if TYPE_CHECKING:
    from kvstore.storage.identity import Identity

N2 = NodeId("n2")


class Disk:
    """Fails so many times with ``error`` before it takes a pin."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.tries = 0
        self.pinned = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failures, self._error = failures, error

    def pin(self, node: NodeId, data_id: int, life: int) -> None:
        assert (node, data_id, life) == (N2, 7, 5)
        self.tries += 1
        if self.tries <= self._failures:
            raise self._error
        self._loop.call_soon_threadsafe(self.pinned.set)


@pytest.fixture(autouse=True)
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    died: list[BaseException] = []
    monkeypatch.setattr(fatal, "die", died.append)
    return died


def only_this_test_runs() -> bool:
    return len(asyncio.all_tasks()) == 1


async def test_a_peer_is_remembered_although_the_disk_was_full_at_first(
    monkeypatch: pytest.MonkeyPatch, deaths: list[BaseException]
) -> None:
    monkeypatch.setattr(pinning, "RETRY_S", 0.001)
    disk = Disk(2, OSError("no room"))
    Pinning(cast("Identity", disk)).remember(N2, Pin(7, 5))
    async with asyncio.timeout(10):
        await disk.pinned.wait()
    await until(only_this_test_runs)
    assert (disk.tries, deaths) == (3, [])


async def test_what_was_overtaken_by_a_repair_is_left(deaths: list[BaseException]) -> None:
    disk = Disk(1, Refused("it has a later life"))
    Pinning(cast("Identity", disk)).remember(N2, Pin(7, 5))
    await until(only_this_test_runs)
    assert (disk.tries, deaths) == (1, [])


async def test_whoever_stops_writes_nothing_more() -> None:
    disk = Disk(1000, OSError("no room"))
    remembering = Pinning(cast("Identity", disk))
    remembering.remember(N2, Pin(7, 5))
    await until(lambda: disk.tries > 0)
    remembering.stop()
    await until(only_this_test_runs)
    assert disk.tries == 1
