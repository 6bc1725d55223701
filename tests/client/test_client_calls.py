from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from fake_kv_cluster import until

import kvstore
from kvstore import InvalidArgument, KeyValue
from kvstore.wire.kinds import Kind

BAD = b"bad"

if TYPE_CHECKING:
    from fake_kv_cluster import FakeCluster

    from kvstore import Client


async def test_put_get_delete(kv: Client) -> None:
    revision = await kv.put("user:1", b"Ada")
    assert await kv.get("user:1") == KeyValue(b"user:1", b"Ada", revision)
    assert await kv.put(b"user:1", "Lovelace") > revision
    item = await kv.get("user:1")
    assert item is not None
    assert (type(item.key), item.value, type(item.revision)) == (bytes, b"Lovelace", int)
    assert await kv.delete("user:1") is True
    assert await kv.delete("user:1") is False
    assert await kv.get("user:1") is None


async def test_compare_and_swap(kv: Client) -> None:
    assert await kv.compare_and_swap("k", b"old", b"new") is False
    assert await kv.compare_and_swap("k", None, b"old") is True
    assert await kv.compare_and_swap("k", None, b"again") is False
    assert await kv.compare_and_swap("k", "old", "new") is True
    item = await kv.get("k")
    assert item is not None
    assert item.value == b"new"


async def test_empty_value_is_a_value(kv: Client) -> None:
    await kv.put("k", b"")
    item = await kv.get("k")
    assert item is not None
    assert item.value == b""


async def test_operations_of_one_tick_share_a_frame_per_shard(
    kv: Client, cluster: FakeCluster
) -> None:
    await asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(100)))  # leaders are known now
    sizes = [size for node in cluster.nodes.values() for size in node.batch_sizes]
    assert sum(sizes) == 100
    assert len(sizes) == len(cluster.shards)
    await asyncio.gather(*(kv.get(f"k{i}") for i in range(100)))
    reads = sum(node.received[Kind.READ] for node in cluster.nodes.values())
    assert reads == len(cluster.shards)


async def test_commands_of_every_kind_in_one_batch_get_their_own_results(kv: Client) -> None:
    await asyncio.gather(kv.put("a", b"1"), kv.put("b", b"1"))
    results = await asyncio.gather(
        kv.put("c", b"1"),
        kv.delete("a"),
        kv.delete("missing"),
        kv.compare_and_swap("b", b"1", b"2"),
        kv.compare_and_swap("d", b"1", b"2"),
        kv.get("nothing"),
    )
    assert results[0] > 0
    assert results[1:] == [True, False, True, False, None]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", b"v"),
        (b"", b"v"),
        ("k" * 8193, b"v"),
        ("\ud800", b"v"),
        (7, b"v"),
        ("k", None),
        ("k", 1.5),
        ("k", b"v" * ((8 << 20) + 1)),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    kv: Client, cluster: FakeCluster, key: Any, value: Any
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await kv.put(key, value)
    assert not caught.value.retryable
    assert not caught.value.may_have_applied
    assert all(node.received[Kind.WRITE] == 0 for node in cluster.nodes.values())


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), "1"])
async def test_timeout_must_make_sense(kv: Client, timeout_s: Any) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s"):
        await kv.get("k", timeout_s=timeout_s)
    with pytest.raises(InvalidArgument, match="timeout_s"):
        kvstore.connect("127.0.0.1:1", timeout_s=timeout_s)


@pytest.mark.parametrize("endpoints", ["", ",", "nonsense", "host:", "host:70000", []])
def test_endpoints_must_be_addresses(endpoints: Any) -> None:
    with pytest.raises(InvalidArgument):
        kvstore.connect(endpoints)


async def test_largest_value_and_key(kv: Client) -> None:
    key, value = b"\xff" * 8192, bytes(8 << 20)
    await kv.put(key, value)
    item = await kv.get(key)
    assert item is not None
    assert item.value == value


async def test_two_values_too_large_for_one_frame(kv: Client) -> None:
    value = bytes(8 << 20)
    with pytest.raises(InvalidArgument, match="together"):
        await kv.compare_and_swap("k", value, value)
    assert await kv.compare_and_swap("k", value, b"v") is False


async def test_a_frame_holds_at_most_a_mebibyte_unless_one_command_has_more(
    kv: Client, cluster: FakeCluster
) -> None:
    shard = cluster.shards[0]
    keys = [key for i in range(200) if cluster.shard_of(key := b"%d" % i) is shard][:8]
    await asyncio.gather(*(kv.put(key, bytes(300 << 10)) for key in keys))
    sizes = cluster.leader_of(keys[0]).batch_sizes
    assert sum(sizes) == 8
    assert max(sizes) == 3


async def test_one_bad_operation_fails_alone(kv: Client, cluster: FakeCluster) -> None:
    cluster.bad_keys = {b"k7", b"k70"}
    for call in (lambda key: kv.put(key, b"v"), kv.get):
        results = await asyncio.gather(*(call(f"k{i}") for i in range(100)), return_exceptions=True)
        bad = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
        assert bad == [7, 70]
        assert all(isinstance(results[i], InvalidArgument) for i in bad)


async def test_whoever_is_left_of_a_batch_that_is_refused_is_asked_for_alone(
    kv: Client, cluster: FakeCluster
) -> None:
    await kv.put(BAD, b"v")  # the leader is known now
    leader = cluster.leader_of(BAD)
    cluster.bad_keys = {BAD}
    leader.freeze()
    same = [key for i in range(100) if cluster.shard_of(key := b"%d" % i) is cluster.shard_of(BAD)]
    bad, good = asyncio.create_task(kv.get(BAD)), asyncio.create_task(kv.get(same[0]))
    await until(lambda: leader.is_asked)
    bad.cancel()
    leader.thaw()
    async with asyncio.timeout(10):
        assert await good is None
    assert bad.cancelled()
    assert kv._cluster.gate.operations == 0


async def test_answers_too_large_for_a_frame_are_asked_for_in_parts(
    kv: Client, cluster: FakeCluster
) -> None:
    await asyncio.gather(*(kv.put(f"k{i}", bytes(1000)) for i in range(64)))
    cluster.answer_bytes_max = 5000
    items = await asyncio.gather(*(kv.get(f"k{i}") for i in range(64)))
    assert all(item is not None and len(item.value) == 1000 for item in items)


async def test_calls_before_opening_and_after_closing(cluster: FakeCluster) -> None:
    client = kvstore.connect(cluster.endpoints)
    with pytest.raises(InvalidArgument, match="not open"):
        await client.get("k")
    async with client:
        await client.put("k", b"v")
    for call in (client.put("k", b"v"), client.get("k"), client.shard_map()):
        with pytest.raises(kvstore.Unavailable, match="closed") as caught:
            await call
        assert not caught.value.retryable
    await client.close()
    with pytest.raises(InvalidArgument):
        await client.open()


@pytest.mark.parametrize("endpoints", [b"host:1", [5], [b"host:1"], 5, None])
def test_endpoints_that_are_no_text(endpoints: Any) -> None:
    with pytest.raises(InvalidArgument, match="endpoints must be str, or several str"):
        kvstore.connect(endpoints)
