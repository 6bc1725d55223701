"""Whole nodes in this process, and something odd around them: settings, dates, an early peer."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import kvstore
from kvstore.config import ClusterConfig, LimitsConfig, NodeAddress, NodeConfig
from kvstore.hlc import wall_ms_of
from kvstore.ids import META_GROUP, NodeId
from kvstore.server.controller import MAP_KEY
from kvstore.server.node import Node
from kvstore.storage import membership_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 60


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.01)


def configs(directory: Path, count: int) -> list[NodeConfig]:
    """Of a cluster of that many nodes on free ports."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    nodes = tuple(
        NodeAddress(NodeId(f"n{number}"), f"127.0.0.1:{probe.getsockname()[1]}")
        for number, probe in enumerate(probes, 1)
    )
    for probe in probes:
        probe.close()
    cluster = ClusterConfig("c", nodes, shards=2, replicas=count)
    return [NodeConfig(node.id, directory / node.id, cluster) for node in nodes]


async def test_small_limits_for_clients_do_not_keep_the_cluster_from_its_map(
    tmp_path: Path,
) -> None:
    (config,) = configs(tmp_path, 1)
    config = replace(config, limits=LimitsConfig(key_bytes_max=4, value_bytes_max=8))
    async with Node(config) as node, asyncio.timeout(WAIT_S):
        assert node._driver is not None
        meta = node._driver.hosts[META_GROUP]
        await until(lambda: meta.machine.get_many([MAP_KEY]) != [None])
        async with kvstore.connect(config.address.address, timeout_s=WAIT_S) as kv:
            with pytest.raises(kvstore.InvalidArgument):
                await kv.put("k", bytes(9))


async def test_a_node_whose_date_is_wrong_keeps_no_client_from_writing(tmp_path: Path) -> None:
    """A client takes its dates from whoever answers, also from one that the cluster turns away."""
    ahead_ms = 3_600_000
    async with AsyncExitStack() as running, asyncio.timeout(WAIT_S):
        nodes = [Node(config) for config in configs(tmp_path, 3)]
        nodes[2]._wall_ms = lambda: time.time_ns() // 1_000_000 + ahead_ms  # type: ignore[method-assign]
        for node in nodes:
            await running.enter_async_context(node)
        endpoints = ",".join(node._config.address.address for node in reversed(nodes))
        kv = await running.enter_async_context(kvstore.connect(endpoints, timeout_s=WAIT_S))
        loop = asyncio.get_running_loop()
        wrong_ms = time.time_ns() // 1_000_000 + ahead_ms
        await until(lambda: wall_ms_of(kv._cluster.estimate.at(loop.time())) >= wrong_ms)
        for number in range(20):
            await kv.put(f"k{number}", b"v")
        driver = nodes[0]._driver
        assert driver is not None
        written = [host.core.last_index for host in driver.hosts.values() if not host.is_meta]
        assert sum(written) < 60, "a session that is refused is not tried again and again"


async def test_whoever_is_heard_while_a_node_starts_finds_all_that_takes_his_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,) = configs(tmp_path, 1)
    node, load = Node(config), membership_file.load
    heard: list[bool] = []

    def slow_load(path: Path) -> object:
        assert node._driver is not None
        heard.append(getattr(node._driver, "snapshots", None) is not None)
        return load(path)

    monkeypatch.setattr(membership_file, "load", slow_load)
    async with node:
        assert heard == [True]
