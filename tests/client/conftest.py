from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import PATIENT, QUICK, FakeCluster

from kvstore.client import Client, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


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
async def patient_kv(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with connect(cluster.endpoints, options=PATIENT) as client:
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
