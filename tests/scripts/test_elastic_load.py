"""The load keeps its books right, whatever the store does to it."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import pytest
from elasticity.ledger import Findings, key_of
from elasticity.load import Load, all_over

import kvstore
from kvstore.client.key_value import KeyValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEYS = 50
SHARDS = 4
RATE = 5000.0
WAIT_S = 30.0


class Store:
    """As much of a client as the load uses, and what it is told to do wrong."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.calls = 0
        self.fails = False
        self._goal = 0
        self._is_reached = asyncio.Event()

    def count(self) -> None:
        self.calls += 1
        if self.calls == self._goal:
            self._is_reached.set()

    async def put(self, key: bytes, value: bytes) -> int:
        self.count()
        if self.fails:
            raise kvstore.Unavailable("no majority", may_have_applied=True)
        self.held[key] = value
        return self.calls

    async def get(self, key: bytes) -> KeyValue | None:
        self.count()
        value = self.held.get(key)
        return None if value is None else KeyValue(key, value, 1)

    async def scan(self) -> AsyncIterator[KeyValue]:
        for key, value in sorted(self.held.items()):
            yield KeyValue(key, value, 1)

    async def go_on(self, calls: int) -> None:
        """Wait for so many more."""
        self._goal = self.calls + calls
        self._is_reached.clear()
        async with asyncio.timeout(WAIT_S):
            await self._is_reached.wait()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def load(store: Store) -> Load:
    filled = Load(cast("kvstore.Client", store), KEYS, RATE, SHARDS)
    await filled.fill()
    return filled


async def go_on(load: Load, store: Store) -> dict[str, Any]:
    """Some operations of the steady load; what they came to."""
    began = time.monotonic()
    await load.go()
    await store.go_on(4 * KEYS)
    await load.rest()
    return await load.window(began, time.monotonic())


def test_the_order_visits_every_key_once_in_each_round() -> None:
    for keys in (1, 2, 50, 97):
        order = all_over(keys)
        for _ in range(2):
            assert sorted(islice(order, keys)) == list(range(keys))


async def test_what_was_written_is_found(load: Load, store: Store) -> None:
    found = await go_on(load, store)
    assert found["operations"] >= 4 * KEYS
    assert found["errors"] == {}
    assert set(found["pauses_ms"]) <= set(range(SHARDS))
    assert await load.check() == {
        **Findings(KEYS).to_json(),
        "wrong_reads": 0,
    }


async def test_nothing_begins_at_rest(load: Load, store: Store) -> None:
    await go_on(load, store)
    calls = store.calls
    await load.check()
    assert store.calls == calls


async def test_a_lost_key_is_noticed_by_the_scan_and_by_reads(load: Load, store: Store) -> None:
    await go_on(load, store)
    del store.held[key_of(7)]
    said = await load.check()
    assert (said["keys"], said["lost"], said["wrong_reads"]) == (KEYS - 1, 1, 0)

    class Forgetful(Store):
        async def get(self, key: bytes) -> KeyValue | None:
            self.count()
            return None

    forgetful = Forgetful()
    wrong = Load(cast("kvstore.Client", forgetful), KEYS, RATE, SHARDS)
    await wrong.fill()
    await go_on(wrong, forgetful)
    assert (await wrong.check())["wrong_reads"] > 0


async def test_errors_are_counted_and_what_may_have_happened_is_allowed(
    load: Load, store: Store
) -> None:
    store.fails = True
    found = await go_on(load, store)
    assert found["errors"].keys() == {"Unavailable"}
    said = await load.check()
    assert (said["lost"], said["foreign"]) == (0, 0)
    assert said["unknown"] > 0
