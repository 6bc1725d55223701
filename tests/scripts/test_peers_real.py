"""The real peers, for a moment; skipped where they are not installed."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from bench.measured import LOAD
from bench.peers.bars import GET_ONE, PUT_MANY, PUT_ONE
from bench.peers.etcd import Etcd
from bench.peers.redis import OneRedis
from bench.peers.sync_obj import PySyncObj
from bench.resources import is_told

from kvstore.errors import KVError

if TYPE_CHECKING:
    from bench.peers.store import Peer

PEERS: list[Peer] = [Etcd(), OneRedis(), PySyncObj()]
MOMENT_S = 0.1
START_WAIT_S = 60.0


def there(peer: Peer) -> Peer:
    if (line := peer.missing()) is not None:
        pytest.skip(f"{peer.name} is not installed: {line}")
    return peer


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_puts_and_gets_of_a_real_peer_are_measured(peer: Peer) -> None:
    cells = (PUT_ONE, PUT_MANY, GET_ONE)
    async with there(peer).up() as store:
        runs = [await store.run(cell, MOMENT_S, MOMENT_S) for cell in cells]
    for run in runs:
        assert run.operations == run.latency.count > 0
        assert 0 < run.latency.percentile_s(50) <= run.latency.percentile_s(99)
        if is_told():
            assert set(run.cpu_s) == {*run.memory_bytes, LOAD}
            assert sum(run.cpu_s.values()) > 0


async def test_a_server_that_dies_gives_no_figure() -> None:
    async with there(OneRedis()).up() as store:
        os.kill(store.pid, 9)
        with pytest.raises(KVError):
            await store.run(PUT_ONE, MOMENT_S, MOMENT_S)


async def test_a_cancelled_load_leaves_no_server() -> None:
    etcd, pids, is_up = there(Etcd()), [], asyncio.Event()

    async def work() -> None:
        async with etcd.up() as store:
            pids.extend(store.pids.values())
            is_up.set()
            await store.run(PUT_ONE, 30.0, 30.0)

    task = asyncio.create_task(work())
    await asyncio.wait_for(is_up.wait(), START_WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pids) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
