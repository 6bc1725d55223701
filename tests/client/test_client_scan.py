from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import Do, until
from hypothesis import given
from hypothesis import strategies as st

from kvstore import connect
from kvstore.client.arguments import prefix_end
from kvstore.client.scan import ShardCursor, merge
from kvstore.errors import DeadlineExceeded, InvalidArgument, Unavailable
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import ScanReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fake_kv_cluster import FakeCluster

    from kvstore import Client, KeyValue


async def keys_of(rows: AsyncIterator[KeyValue]) -> list[bytes]:
    return [row.key async for row in rows]


async def fill(kv: Client, count: int, prefix: str = "k") -> list[bytes]:
    keys = [f"{prefix}{number:05}".encode() for number in range(count)]
    await asyncio.gather(*(kv.put(key, b"v" + key) for key in keys))
    return keys


async def test_all_shards_in_key_order(kv: Client, cluster: FakeCluster) -> None:
    keys = await fill(kv, 3000)
    rows = [row async for row in kv.scan()]
    assert [row.key for row in rows] == keys
    assert all(row.value == b"v" + row.key and row.revision > 0 for row in rows)
    assert all(len(shard.rows) > 512 for shard in cluster.shards)  # several pages each


async def test_prefix(kv: Client) -> None:
    await asyncio.gather(*(kv.put(key, b"v") for key in ("us", "user", "user:1", "user:2", "usf")))
    assert await keys_of(kv.scan("user:")) == [b"user:1", b"user:2"]
    assert await keys_of(kv.scan("us")) == [b"us", b"user", b"user:1", b"user:2", b"usf"]
    assert await keys_of(kv.scan("x")) == []


async def test_start_and_end_narrow_the_prefix(kv: Client) -> None:
    keys = await fill(kv, 30)
    assert await keys_of(kv.scan("k", start="k00010", end="k00020")) == keys[10:20]
    assert await keys_of(kv.scan("k0001", start="k", end="z")) == keys[10:20]
    assert await keys_of(kv.scan(start="k00025")) == keys[25:]
    assert await keys_of(kv.scan(end="k00005")) == keys[:5]
    assert await keys_of(kv.scan(start="b", end="a")) == []


@pytest.mark.parametrize("limit", [0, 1, 7, 600, 3000, 5000])
async def test_limit(kv: Client, limit: int) -> None:
    keys = await fill(kv, 3000)
    assert await keys_of(kv.scan(limit=limit)) == keys[:limit]


async def test_a_small_limit_asks_for_little(kv: Client, cluster: FakeCluster) -> None:
    keys = await fill(kv, 3000)
    assert await keys_of(kv.scan(limit=5)) == keys[:5]
    assert sum(node.received[Kind.SCAN] for node in cluster.nodes.values()) == len(cluster.shards)


async def test_keys_only(kv: Client) -> None:
    await kv.put("k", b"v")
    assert [(row.key, row.value) async for row in kv.scan(keys_only=True)] == [(b"k", b"")]


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": -1},
        {"limit": "3"},
        {"limit": 1.5},
        {"limit": True},
        {"limit": float("nan")},
        {"keys_only": 1},
        {"timeout_s": 0},
        {"timeout_s": True},
        {"prefix": 7},
        {"end": 1},
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        connect("127.0.0.1:1").scan(**arguments)  # type: ignore[arg-type]


async def test_pages_are_retried(kv: Client, cluster: FakeCluster) -> None:
    keys = await fill(kv, 3000)
    for node in cluster.nodes.values():
        node.script += [Do.DROP_UNSERVED, Do.OVERLOADED, Do.SERVE, Do.DROP_SERVED]
    assert await keys_of(kv.scan()) == keys


async def test_a_shard_that_cannot_be_read_ends_the_scan(kv: Client, cluster: FakeCluster) -> None:
    await fill(kv, 100)
    cluster.elect(None, [cluster.shards[1]])
    with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
        await keys_of(kv.scan(timeout_s=0.1))
    assert not caught.value.may_have_applied


async def test_leaving_a_scan_early_leaves_nothing(kv: Client, cluster: FakeCluster) -> None:
    await fill(kv, 3000)
    for node in cluster.nodes.values():
        node.script += [Do.SERVE] * 3 + [Do.SERVE_SILENTLY] * 8
    rows = kv.scan()
    async for row in rows:
        assert row.key == b"k00000"
        break
    await rows.aclose()
    await kv.put("after", b"v")


async def test_a_scan_does_not_outlive_its_client(kv: Client) -> None:
    await fill(kv, 3000)
    rows = kv.scan()
    await anext(rows)
    await kv.close()
    with pytest.raises(Unavailable, match="closed"):
        await keys_of(rows)
    with pytest.raises(Unavailable, match="closed"):
        await keys_of(kv.scan())


async def test_a_page_that_failed_ahead_of_its_turn_is_asked_for_again() -> None:
    loop = asyncio.get_running_loop()
    pages: list[asyncio.Future[ScanReply]] = []

    def ask(start: bytes, rows: int) -> asyncio.Future[ScanReply]:
        pages.append(loop.create_future())
        return pages[-1]

    cursor = ShardCursor(ask, b"", page_rows=1, limit=None)
    pages[0].set_result(ScanReply([(b"a", b"1", 1)], True))  # type: ignore[list-item]
    assert await cursor.next() is not None
    pages[1].set_exception(Unavailable("for a moment"))
    following = asyncio.create_task(cursor.next())
    await until(lambda: len(pages) == 3)
    pages[2].set_result(ScanReply([(b"b", b"2", 2)], False))  # type: ignore[list-item]
    row = await following
    assert row is not None
    assert row.key == b"b"
    assert await cursor.next() is None


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_prefix_end_is_the_lowest_key_above_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    is_within = key >= prefix and (end is None or key < end)
    assert is_within == key.startswith(prefix)


@given(
    st.lists(st.sets(st.binary(min_size=1, max_size=3)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.none() | st.integers(0, 10),
)
def test_merge_against_sorting(shards: list[set[bytes]], page_rows: int, limit: int | None) -> None:
    seen: set[bytes] = set()
    distinct = []
    for shard in shards:
        distinct.append(sorted(shard - seen))
        seen |= shard

    async def scan() -> list[bytes]:
        loop = asyncio.get_running_loop()

        def cursor(keys: list[bytes]) -> ShardCursor:
            def ask(start: bytes, rows: int) -> asyncio.Future[ScanReply]:
                left = [key for key in keys if key >= start]
                page = loop.create_future()
                rows_of_page = [(key, b"", 1) for key in left[:rows]]
                page.set_result(ScanReply(rows_of_page, len(left) > rows))  # type: ignore[arg-type]
                return page

            return ShardCursor(ask, b"", page_rows=page_rows, limit=limit)

        return await keys_of(merge([cursor(keys) for keys in distinct], limit))

    assert asyncio.run(scan()) == sorted(seen)[:limit]
