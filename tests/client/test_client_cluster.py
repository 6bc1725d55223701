"""Finding the cluster, and what it says of itself."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import QUICK, FakeCluster, FakeNode, until

from kvstore import connect
from kvstore.errors import DeadlineExceeded, Overloaded, Refused, Unavailable
from kvstore.ids import NodeId
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from kvstore import Client


@pytest.fixture
def dead_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


async def test_one_endpoint_is_enough(cluster: FakeCluster) -> None:
    async with connect(cluster.node(2).address, options=QUICK) as kv:
        await asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(100)))
    assert all(node.received[Kind.WRITE] for node in cluster.nodes.values())


async def test_dead_and_frozen_endpoints_among_others(
    cluster: FakeCluster, dead_address: str
) -> None:
    cluster.node(1).freeze()
    cluster.elect(cluster.node(2).id)
    endpoints = [dead_address, cluster.node(1).address, cluster.node(3).address]
    async with connect(endpoints, options=QUICK) as kv:
        await kv.put("k", b"v")
    assert cluster.shard_of(b"k").applied[b"k"] == 1


async def test_each_node_is_connected_to_once(cluster: FakeCluster) -> None:
    async with connect(cluster.endpoints, options=QUICK) as kv:
        await asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(100)))
        await until(lambda: all(node.hellos for node in cluster.nodes.values()))
        await asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(100)))
        assert [len(node.connections) for node in cluster.nodes.values()] == [1, 1, 1]


async def test_nobody_there(dead_address: str) -> None:
    with pytest.raises(Unavailable, match="refused") as caught:
        async with connect(dead_address, timeout_s=1, options=QUICK):
            pass
    assert caught.value.retryable
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_why_the_only_node_that_answers_refuses_is_told(
    cluster: FakeCluster, dead_address: str
) -> None:
    node = cluster.node(1)
    node.map_error = Unavailable("n1 was removed from this cluster: ask another node")
    with pytest.raises(Unavailable, match=r"refused.*; n1 was removed from this cluster: ask"):
        async with connect([dead_address, node.address], timeout_s=1, options=QUICK):
            pass
    assert node.received[Kind.SHARD_MAP] > 1, "it may be starting"
    node.map_error = None
    async with connect(node.address, options=QUICK) as kv:
        await kv.put("k", b"v")


async def test_a_cluster_that_is_still_starting(cluster: FakeCluster) -> None:
    await cluster.stop()
    client = connect(cluster.endpoints, options=QUICK)
    opening = asyncio.create_task(client.open())
    await asyncio.sleep(0)
    await cluster.start()
    await opening
    await client.put("k", b"v")
    await client.close()
    assert cluster.shard_of(b"k").applied[b"k"] == 1


async def test_another_cluster(cluster: FakeCluster) -> None:
    with pytest.raises(Refused, match="fake"):
        async with connect(cluster.endpoints, cluster_id="mine", options=QUICK):
            pass
    async with connect(cluster.endpoints, cluster_id="fake", options=QUICK) as kv:
        await kv.put("k", b"v")


async def test_a_node_of_another_cluster_among_the_endpoints(cluster: FakeCluster) -> None:
    stranger = FakeCluster(nodes=1)
    await stranger.start()
    stranger.node(1).cluster_id = "another"
    try:
        client = connect(
            [stranger.node(1).address, cluster.node(1).address], cluster_id="fake", options=QUICK
        )
        async with client:
            await client.put("k", b"v")
        assert cluster.shard_of(b"k").applied[b"k"] == 1
        assert not stranger.shard_of(b"k").applied[b"k"]
    finally:
        await stranger.stop()


async def test_cancelled_while_opening(cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.freeze()
    client = connect(cluster.endpoints, options=QUICK)
    opening = asyncio.create_task(client.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_shard_map_and_locate(kv: Client, cluster: FakeCluster) -> None:
    shard_map = await kv.shard_map()
    assert shard_map.shards == len(cluster.shards)
    assert [node.id for node in shard_map.nodes] == cluster.ids
    location = await kv.locate("user:1")
    shard = cluster.shard_of(b"user:1")
    assert location == (b"user:1", shard.id, tuple(cluster.ids), shard.leader)
    shard.leader = None
    assert (await kv.locate("user:1")).leader is None


async def test_statuses_when_a_majority_is_gone(kv: Client, cluster: FakeCluster) -> None:
    await cluster.node(1).kill()
    cluster.node(3).freeze()
    first, second, third = await kv.node_statuses(timeout_s=1)
    assert (first.node, first.status) == ("n1", None)
    assert isinstance(first.error, Unavailable)
    assert second.error is None
    assert second.status == {"node": {"id": "n2", "state": "serving"}, "shards": []}
    assert isinstance(third.error, DeadlineExceeded)
    assert third.address == cluster.node(3).address


async def test_statuses_when_everybody_is_gone(kv: Client, cluster: FakeCluster) -> None:
    await cluster.stop()
    statuses = await kv.node_statuses(timeout_s=0.1)
    assert [status.status for status in statuses] == [None] * 3
    with pytest.raises(Unavailable):
        await kv.shard_map(timeout_s=1)


async def test_a_newer_shard_map_is_found_when_the_leader_is_not(
    kv: Client, cluster: FakeCluster
) -> None:
    await kv.put("k", b"1")
    newcomer = FakeNode(NodeId("n4"), cluster)
    await newcomer.start()
    cluster.nodes[newcomer.id] = newcomer
    cluster.ids[:] = [newcomer.id, *cluster.ids[1:]]
    await cluster.nodes.pop(NodeId("n1")).kill()
    cluster.version += 1
    cluster.elect(newcomer.id)
    await asyncio.gather(*(kv.put(f"k{i}", b"2") for i in range(20)))
    assert [node.id for node in (await kv.shard_map()).nodes] == ["n2", "n3", "n4"]
    assert newcomer.received[Kind.WRITE]


async def test_a_full_client_makes_calls_wait_their_turn(cluster: FakeCluster) -> None:
    leader = cluster.leader_of(b"k")
    async with connect(cluster.endpoints, options=replace(QUICK, operations_max=2)) as kv:
        leader.freeze()
        held = [asyncio.create_task(kv.put("k", b"v")) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await kv.put("k", b"v", timeout_s=0.05)
        assert not caught.value.may_have_applied
        leader.thaw()
        await asyncio.gather(*held)
        assert cluster.shard_of(b"k").applied[b"k"] == 5
        assert max(leader.batch_sizes) <= 2
