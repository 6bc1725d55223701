"""A cluster of processes through everything that may happen to its nodes."""

from __future__ import annotations

import asyncio
import time
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import TYPE_CHECKING

import pytest
from cluster_harness import WAIT_S, Load, RunningCluster, wait_for

import kvstore
from kvstore.cli.launcher.node import wait_dead
from kvstore.cli.launcher.process import State

if TYPE_CHECKING:
    from kvstore.cli.launcher.node import Node


async def test_what_is_written_is_read_through_any_node(cluster: RunningCluster) -> None:
    async with cluster.connect() as store:
        await asyncio.gather(*(store.put(f"key-{i:03}", b"%d" % i) for i in range(200)))
        keys = [item.key async for item in store.scan("key-", limit=150)]
        assert keys == [b"key-%03d" % i for i in range(150)]
    for node in cluster.nodes:
        async with cluster.connect() as store:
            item = await store.get("key-007")
            assert item is not None, node.id
            assert item.value == b"7"


async def test_a_killed_leader_is_replaced_under_load(cluster: RunningCluster) -> None:
    async with Load(cluster) as load:
        await load.go_on(200)
        victim = await cluster.leader_of(0)
        victim.kill()
        await load.go_on(200)

        async def others_lead() -> bool:
            return await cluster.leads_nothing(victim)

        await wait_for(others_lead, "every shard is led by another node")
    assert load.unknown == 0
    await load.check()


async def test_ten_kills_and_restarts_under_load_lose_nothing(cluster: RunningCluster) -> None:
    async with Load(cluster) as load:
        for turn in range(10):
            victim = cluster.nodes[turn % len(cluster.nodes)]
            await load.go_on(50)
            victim.kill()
            await load.go_on(50)
            await cluster.restart(victim)
        await load.go_on(50)
    assert len(load.acknowledged) >= 10 * 100
    await load.check()


async def test_a_paused_node_is_passed_over_and_comes_back(cluster: RunningCluster) -> None:
    async with Load(cluster) as load:
        await load.go_on(100)
        frozen = await cluster.leader_of(1)
        frozen.send(SIGSTOP)
        frozen.wait_for(State.PAUSED)
        await load.go_on(200)
        frozen.send(SIGCONT)

        async def answers() -> bool:
            return frozen.files.address in (await cluster.survey()).answers

        await wait_for(answers, "the node that was paused answers")
        await load.go_on(100)
    await load.check()


async def test_without_a_majority_nothing_is_acknowledged_and_all_comes_back(
    cluster: RunningCluster,
) -> None:
    survivor, *others = cluster.nodes
    async with Load(cluster) as load:
        await load.go_on(100)
        for node in others:
            node.kill()

        async def says_so() -> bool:
            view = (await cluster.survey()).view
            return view.reachable == 1 and view.led == 0

        await wait_for(says_so, "the survivor knows that it leads nothing")
        assert survivor.state() is State.RUNNING
        before = len(load.acknowledged)
        async with cluster.connect() as store:
            with pytest.raises((kvstore.Unavailable, kvstore.DeadlineExceeded)):
                await store.put("lonely", b"v", timeout_s=1)
        assert len(load.acknowledged) == before
        for node in others:
            node.start()
        await load.go_on(100)
    await load.check()


async def test_all_nodes_killed_at_once_keep_what_they_acknowledged(
    cluster: RunningCluster,
) -> None:
    async with Load(cluster) as load:
        await load.go_on(500)
        for node in cluster.nodes:
            node.kill()
        await cluster.start()
        await load.go_on(50)
    await load.check()


async def test_all_nodes_stopped_and_started_again(cluster: RunningCluster) -> None:
    async with Load(cluster) as load:
        await load.go_on(300)
    assert await cluster.stop() == []
    assert [node.state() for node in cluster.nodes] == [State.DEAD] * 3
    await cluster.start()
    await load.check()


async def test_sigterm_hands_leadership_over_and_ends_the_node(cluster: RunningCluster) -> None:
    leaving = await cluster.leader_of(0)
    async with Load(cluster) as load:
        await load.go_on(100)
        assert await _terminates(leaving)
        assert await cluster.leads_nothing(leaving)
        await load.go_on(100)
    assert load.unknown == 0
    await load.check()


async def test_sigterm_ends_a_node_without_a_majority_too(cluster: RunningCluster) -> None:
    last, *others = cluster.nodes
    for node in others:
        node.kill()
    assert await _terminates(last)


async def _terminates(node: Node) -> bool:
    """Whether ``node`` obeys."""
    node.send(SIGTERM)
    deadline = time.monotonic() + WAIT_S
    return not await asyncio.to_thread(wait_dead, [node], deadline)
