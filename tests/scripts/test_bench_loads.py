"""Each load asks for what its name says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest
from bench.keys import KEY_BYTES, key_of
from bench.loads import HOT_KEYS, SCAN_ROWS, load_of, write_share
from bench.measured import Cell
from bench_stand_ins import Store

from kvstore.errors import InvalidArgument, KVError

if TYPE_CHECKING:
    from kvstore import Client
    from kvstore.client.key_value import KeyValue

KEYS = 2000
TIMES = 1000


@pytest.fixture
def store() -> Store:
    store = Store()
    store.held = {key_of(number): b"" for number in range(KEYS)}
    return store


async def repeat(store: Store, cell: Cell, *, times: int = TIMES) -> list[object]:
    load = load_of(cell, KEYS, seed=1)
    return [await load.operation(cast("Client", store)) for _ in range(times)]


async def test_puts_write_values_of_the_size_that_was_asked_for(store: Store) -> None:
    before = store.held.copy()
    await repeat(store, Cell("put", 1, 1, value_bytes=40))
    written = {key: value for key, value in store.held.items() if value}
    assert store.held.keys() == before.keys()
    assert len(written) > KEYS // 4
    assert {(len(key), len(value)) for key, value in written.items()} == {(KEY_BYTES, 40)}
    assert len(set(written.values())) > len(written) // 2


@pytest.mark.parametrize(
    ("operation", "reads"),
    [("get", 1.0), ("mix", 0.9), ("ycsb-a", 0.5), ("ycsb-b", 0.95), ("ycsb-c", 1.0)],
)
async def test_reads_and_writes_are_mixed_as_they_should(
    store: Store, operation: str, reads: float
) -> None:
    assert None not in await repeat(store, Cell(operation, 1, 1))
    assert store.calls["get"] / TIMES == pytest.approx(reads, abs=0.04)
    assert store.calls.total() == TIMES
    assert write_share(operation) == pytest.approx(1 - reads)


async def test_ycsb_asks_for_a_few_keys_most_of_the_time() -> None:
    async def hottest(operation: str) -> float:
        asked: Counter[bytes] = Counter()

        class Noting(Store):
            async def get(self, key: bytes) -> KeyValue | None:
                asked[key] += 1
                return await super().get(key)

        await repeat(Noting(), Cell(operation, 1, 1))
        return max(asked.values()) / TIMES

    assert await hottest("ycsb-c") > 0.08
    assert await hottest("get") < 0.02


async def test_a_scan_takes_all_its_rows(store: Store) -> None:
    assert await repeat(store, Cell("scan", 1, 1), times=5) == [SCAN_ROWS] * 5


async def test_a_scan_that_finds_too_little_has_failed(store: Store) -> None:
    store.held = dict(list(store.held.items())[: SCAN_ROWS - 1])
    with pytest.raises(KVError, match="rows, not 1,000"):
        await repeat(store, Cell("scan", 1, 1), times=1)


async def test_swaps_are_of_few_keys_and_counted(store: Store) -> None:
    store.held.clear()
    load = load_of(Cell("cas", 1, 1), KEYS, seed=1)
    for _ in range(TIMES):
        assert await load.operation(cast("Client", store)) is True
    assert len(store.held) == HOT_KEYS
    assert load.counts == {"swapped": TIMES}


async def test_a_swap_that_came_too_late_is_no_failure(store: Store) -> None:
    class Contended(Store):
        async def compare_and_swap(self, key: bytes, expected: bytes | None, value: bytes) -> bool:
            await self.put(key, b"of somebody else")
            return await super().compare_and_swap(key, expected, value)

    load = load_of(Cell("cas", 1, 1), KEYS, seed=1)
    assert await load.operation(cast("Client", Contended())) is False
    assert load.counts == {"overtaken": 1}
    assert write_share("cas") is None


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no load 'dance'"):
        load_of(Cell("dance", 1, 1), KEYS, seed=1)
    with pytest.raises(InvalidArgument, match=r"1,000 needs as many keys, not 10"):
        load_of(Cell("scan", 1, 1), 10, seed=1)
