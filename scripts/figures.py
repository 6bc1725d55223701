"""Measures what the README claims: `python scripts/figures.py start|failover|freeze|idle`.

Each figure comes from a fresh cluster of real processes with default settings, in a temporary
directory on free ports. Run it on a quiet machine; it prints medians and what was seen at
worst, and ends with code 1 if any operation failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

import kvstore
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.node import stop
from kvstore.cli.launcher.process import State
from kvstore.cli.launcher.ready import wait_until_led, wait_until_serving
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvstore.cli.launcher.cluster import Cluster

WAIT_S = 30.0
VALUE = bytes(range(256))
SETTLE_S = 6.0
"""After a restart leadership moves back to where it belongs; then the next kill."""


@contextmanager
def fresh_cluster(nodes: int = 3) -> Iterator[Cluster]:
    """So many nodes, not started yet; all are killed at the end."""
    with tempfile.TemporaryDirectory(prefix="kvstore-figures-") as directory:
        wanted = Wanted(nodes=nodes, base_port=0)
        with clusters.opened(Path(directory) / "kv", wanted) as cluster:
            try:
                yield cluster
            finally:
                stop(cluster.nodes, grace_s=0.0)


async def start(cluster: Cluster, timeout_s: float = WAIT_S) -> float:
    """Start all nodes; seconds until every shard has a leader."""
    began = time.monotonic()
    started = cluster.start_dead()
    await wait_until_led(cluster, started, timeout_s=timeout_s, progress=lambda _: None)
    return time.monotonic() - began


def endpoints(cluster: Cluster) -> str:
    """Every node's address, as the client takes them."""
    return ",".join(node.files.address for node in cluster.nodes)


async def measure_start(runs: int) -> None:
    """From nothing to "every shard has a leader"."""
    seconds = []
    for _ in range(runs):
        with fresh_cluster() as cluster:
            seconds.append(await start(cluster))
    print(f"start of 3 nodes: median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s")


async def measure_failover(runs: int) -> None:
    """SIGKILL of a leader to the next acknowledged write on its shard."""
    await _measure_outage(runs, "kill -9", signal.SIGKILL)


async def measure_freeze(runs: int) -> None:
    """SIGSTOP of a leader to the next acknowledged write on its shard."""
    await _measure_outage(runs, "freeze", signal.SIGSTOP)


async def _measure_outage(runs: int, name: str, number: signal.Signals) -> None:
    outages_ms = []
    with fresh_cluster() as cluster:
        await start(cluster)
        shards = cluster.layout.spec.shards
        async with kvstore.connect(endpoints(cluster), timeout_s=WAIT_S) as store:
            await asyncio.sleep(SETTLE_S)
            for run in range(runs):
                shard = run % shards
                key = next(
                    k
                    for k in map("key-{}".format, count())
                    if shard_of(k.encode(), shards) == shard
                )
                leader = (await store.locate(key)).leader
                assert leader is not None
                victim = cluster.node(leader)
                outages_ms.append(await _outage_ms(store, key, victim.pid(), number))
                if number == signal.SIGKILL:
                    victim.wait_for(State.DEAD)
                    victim.start()
                else:
                    victim.send(signal.SIGCONT)
                await wait_until_serving(cluster, victim, timeout_s=WAIT_S, progress=lambda _: None)
                await asyncio.sleep(SETTLE_S)
    print(
        f"{name} of a leader, {runs} times: next acknowledged write after "
        f"median {statistics.median(outages_ms):.0f} ms, max {max(outages_ms):.0f} ms"
    )


async def _outage_ms(
    store: kvstore.Client, key: str, pid: int | None, number: signal.Signals
) -> float:
    """Write without pause; from the signal to the first answer to a write begun after it."""
    assert pid is not None
    for _ in range(50):
        await store.put(key, VALUE)
    os.kill(pid, number)
    began = time.monotonic()
    await store.put(key, VALUE)
    return (time.monotonic() - began) * 1000


async def measure_idle(seconds: int) -> None:
    """CPU and memory of nodes that have nothing to do."""
    with fresh_cluster() as cluster:
        await start(cluster)
        await asyncio.sleep(SETTLE_S)
        pids = [pid for node in cluster.nodes if (pid := node.pid()) is not None]
        before = [cpu_s(pid) for pid in pids]
        await asyncio.sleep(seconds)
        used = [cpu_s(pid) - start for pid, start in zip(pids, before, strict=True)]
        memory = [_rss_mib(pid) for pid in pids]
    print(
        f"idle, {seconds} s: {100 * sum(used) / seconds:.2f} % of one core for 3 nodes together, "
        f"at most {max(memory):.0f} MiB in a process"
    )


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no memory figure for process {pid}")


FIGURES = {
    "start": (measure_start, 5),
    "failover": (measure_failover, 30),
    "freeze": (measure_freeze, 10),
    "idle": (measure_idle, 30),
}


def main() -> int:
    """Measure one figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("amount", nargs="?", type=int, help="runs, or seconds for idle")
    chosen = parser.parse_args()
    measure, amount = FIGURES[chosen.figure]
    try:
        uvloop.run(measure(chosen.amount or amount))
    except kvstore.KVError as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
