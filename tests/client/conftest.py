from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import FakeCluster

from kvstore.client import Client, ClientOptions, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

QUICK = ClientOptions(
    timeout_s=5.0,
    dial_timeout_s=0.2,
    attempt_timeout_s=0.1,
    attempt_timeout_s_max=0.4,
    breaker_open_s_min=0.01,
    breaker_open_s_max=0.05,
)
"""Short waits, so that a test of what happens after them is quick."""


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    fake = FakeCluster()
    await fake.start()
    yield fake
    await fake.stop()
    assert fake.violations == []


@pytest.fixture
async def kv(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with connect(cluster.endpoints, options=QUICK) as client:
        yield client
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def served() -> Iterator[FakeCluster]:
    """A fake cluster in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeCluster()
    asyncio.run_coroutine_threadsafe(fake.start(), loop).result()
    yield fake
    asyncio.run_coroutine_threadsafe(fake.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert fake.violations == []
