"""How a client ends: what its callers hear, and that nothing goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fake_kv_cluster import QUICK, FakeCluster, until

from kvstore import InvalidArgument, Unavailable, connect
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kvstore import Client

A_MINUTE = replace(QUICK, timeout_s=60.0, dial_timeout_s=60.0, attempt_timeout_s=60.0)


@pytest.mark.parametrize(
    "inquire",
    [
        lambda kv: kv.shard_map(),
        lambda kv: kv.locate("k"),
        lambda kv: kv.node_statuses(),
    ],
)
async def test_closing_ends_what_is_asked_of_nodes(
    cluster: FakeCluster, inquire: Callable[[Client], Coroutine[Any, Any, object]]
) -> None:
    async with connect(cluster.endpoints, options=A_MINUTE) as kv:
        for node in cluster.nodes.values():
            node.freeze()
        asked = asyncio.create_task(inquire(kv))
        await asyncio.sleep(0)
        await kv.close()
        with pytest.raises(Unavailable, match="the client is closed") as caught:
            async with asyncio.timeout(10):
                await asked
        assert not caught.value.retryable
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for node in cluster.nodes.values():
        node.thaw()
    await until(lambda: not any(node.connections for node in cluster.nodes.values()))


async def test_closing_ends_an_opening(cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.freeze()
    client = connect(cluster.endpoints, options=A_MINUTE)
    opening = asyncio.create_task(client.open())
    await until(lambda: all(node.connections for node in cluster.nodes.values()))
    with pytest.raises(InvalidArgument, match="opened once"):
        await client.open()
    await client.close()
    with pytest.raises(Unavailable, match="the client is closed"):
        async with asyncio.timeout(10):
            await opening
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_whoever_gives_an_inquiry_up_leaves_nothing(cluster: FakeCluster) -> None:
    async with connect(cluster.endpoints, options=A_MINUTE) as kv:
        before = asyncio.all_tasks()
        for node in cluster.nodes.values():
            node.tells_map = False
        asked = asyncio.create_task(kv.shard_map())
        known = cluster.total(Kind.SHARD_MAP)
        await until(lambda: cluster.total(Kind.SHARD_MAP) > known)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert asyncio.all_tasks() <= before


def test_another_event_loop_is_told_to_connect_anew() -> None:
    cluster = FakeCluster()
    client = connect("unused:1", options=QUICK)

    async def first() -> Client:
        await cluster.start()
        client = connect(cluster.endpoints, options=QUICK)
        await client.open()
        await client.put("k", b"v")
        return client

    async def second() -> None:
        for call in (client.put("k", b"v"), client.get("k"), client.shard_map(), client.close()):
            with pytest.raises(InvalidArgument, match="another event loop"):
                await call
        with pytest.raises(InvalidArgument, match="another event loop"):
            await anext(client.scan())

    async def third() -> None:
        await client.close()
        await cluster.stop()

    with asyncio.Runner() as runner:
        client = runner.run(first())
        asyncio.run(second())
        runner.run(third())
