"""Measures the membership of real processes: `python scripts/membership_figures.py kill`.

`kill`: how soon a node that was killed is dead in every view, and alive again once restarted.
`starved`: whom a node wrongs that gets a tenth of its processor while the cluster is busy.
`idle`: what a node costs when there is nothing to do.

Clusters are fresh, with default settings, in a temporary directory on free ports. Run it on a
quiet machine; it ends with code 1 if anything failed, and then shows no figure for it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING

import uvloop
from figures import SETTLE_S, VALUE, cpu_s, endpoints, fresh_cluster, start
from membership_watch import WAIT_S, Follower, Views

import kvstore
from kvstore.cli.launcher.process import State
from kvstore.cli.launcher.ready import wait_until_serving
from kvstore.errors import KVError
from kvstore.sharding.ring import shard_of
from kvstore.swim.ready import EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.cli.launcher.cluster import Cluster
    from kvstore.cli.launcher.node import Node
    from kvstore.wire.membership import EventRow

START_WAIT_S = 180.0
"""Up to 25 processes begin at once."""
STARVED_NODES = 5
CLIENTS = 4
IN_FLIGHT = 64
SHARE = 0.1
"""Of the time the starved node may run ..."""
STOPPED_S = 0.18
"""... and is stopped for so long between."""
RUN_S_MIN, RUN_S_MAX = 0.005, 0.04


async def settled(cluster: Cluster) -> Views:
    """Start; everybody knows everybody, and leadership has moved to where it belongs."""
    await start(cluster, START_WAIT_S)
    views = Views(cluster)
    await views.until_all_alive()
    await asyncio.sleep(SETTLE_S)
    return views


async def measure_kill(nodes: int, runs: int) -> None:
    """SIGKILL to "dead" in all other views; start of the process to "alive" in them."""
    dead_s, alive_s = [], []
    with fresh_cluster(nodes) as cluster:
        views = await settled(cluster)
        for run in range(runs):
            victim = cluster.nodes[run % nodes]
            others = [node.id for node in cluster.nodes if node is not victim]
            began = time.monotonic()
            victim.send(signal.SIGKILL)
            await views.until(others, [victim.id], "dead")
            dead_s.append(time.monotonic() - began)
            victim.wait_for(State.DEAD)
            began = time.monotonic()
            victim.start()
            await views.until(others, [victim.id], "alive")
            alive_s.append(time.monotonic() - began)
            await wait_until_serving(cluster, victim, timeout_s=WAIT_S, progress=lambda _: None)
            await views.until_all_alive()
            await asyncio.sleep(SETTLE_S)
    print(
        f"kill -9 of one of {nodes} nodes, {runs} times: dead in every view after "
        f"median {statistics.median(dead_s):.2f} s, max {max(dead_s):.2f} s; restarted, alive in "
        f"every view after median {statistics.median(alive_s):.2f} s, max {max(alive_s):.2f} s",
        flush=True,
    )


async def measure_starved(minutes: float) -> None:
    """Puts and gets without pause, and the last of the nodes starves."""
    done: Counter[str] = Counter()
    with fresh_cluster(STARVED_NODES) as cluster:
        views = await settled(cluster)
        followers = [Follower(cluster, node) for node in cluster.nodes]
        for follower in followers:
            await follower.take()
            follower.events.clear()
        pids = _pids(cluster)
        before, began = _used_s(pids), time.monotonic()
        share = await _strain(cluster, followers, 60 * minutes, done)
        seconds = time.monotonic() - began
        *others, own = (used / seconds for used in _used_s(pids, before))
        await views.until_all_alive()
        for follower in followers:
            await follower.take()
    starved = cluster.nodes[-1].id
    print(
        f"{STARVED_NODES} nodes, {seconds:.0f} s of full load; {starved} could run "
        f"{share:.1%} of the time and used {own:.1%} of a core, the others "
        f"{statistics.fmean(others):.1%} each\n"
        f"operations: {done['puts']:,} puts, {done['gets']:,} gets, none failed"
    )
    _show_wronged(starved, [(by.node, event) for by in followers for event in by.events])


async def _strain(
    cluster: Cluster, followers: Sequence[Follower], seconds: float, done: Counter[str]
) -> float:
    """Load, starve and follow for so long; the share of it that the starved could run."""
    ended = threading.Event()
    async with AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(kvstore.connect(endpoints(cluster), timeout_s=WAIT_S))
            for _ in range(CLIENTS)
        ]
        starving = asyncio.create_task(asyncio.to_thread(_starve, cluster.nodes[-1], ended))
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        keys = _keys(cluster.layout.spec.shards)
        working = [
            asyncio.create_task(_work(stores[number % CLIENTS], key, ended, done))
            for number, key in enumerate(keys)
        ]
        tasks = [starving, *following, *working]
        try:
            failed, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in failed:  # None ends by itself.
                task.result()
            ended.set()
            await asyncio.gather(*working)
            return await starving
        finally:
            ended.set()
            for task in (*following, *working):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _keys(shards: int) -> list[str]:
    """One for each worker, evenly over the shards: so none waits for a slow one but its own."""
    named = map("key-{}".format, count())
    return [
        next(key for key in named if shard_of(key.encode(), shards) == number % shards)
        for number in range(IN_FLIGHT)
    ]


async def _work(
    store: kvstore.Client, key: str, ended: threading.Event, done: Counter[str]
) -> None:
    while not ended.is_set():
        await store.put(key, VALUE)
        done["puts"] += 1
        await store.get(key)
        done["gets"] += 1


def _starve(node: Node, ended: threading.Event) -> float:
    """Stop and continue the process until ``ended``; the share of the time that it could run."""
    ran_s, began = 0.0, time.monotonic()
    try:
        while not ended.is_set():
            node.send(signal.SIGCONT)
            at = time.monotonic()
            # We may be late to stop it; so it has less the next time.
            owed_s = (SHARE * (at + STOPPED_S - began) - ran_s) / (1 - SHARE)
            time.sleep(min(max(RUN_S_MIN, owed_s), RUN_S_MAX))
            node.send(signal.SIGSTOP)
            ran_s += time.monotonic() - at
            ended.wait(STOPPED_S)
    finally:
        node.send(signal.SIGCONT)
    return ran_s / (time.monotonic() - began)


def _show_wronged(starved: str, seen: Sequence[tuple[str, EventRow]]) -> None:
    """What was said of the healthy and of the starved.

    Raises:
        KVError: a healthy node was declared dead.
    """
    suspected = [event for _, event in seen if event.kind == EventKind.SUSPECTED.value]
    died = [event for _, event in seen if event.kind == EventKind.DIED.value]
    healthy = [event for event in suspected if event.node != starved]
    by_starved = [event for event in healthy if event.accuser == starved]
    wronged = [event for event in died if event.node != starved]
    print(
        f"healthy nodes: declared dead {_lives(wronged)} times, "
        f"suspected {_lives(healthy)} times, of these {_lives(by_starved)} by {starved}\n"
        f"{starved}: suspected {_lives([e for e in suspected if e.node == starved])} times, "
        f"declared dead {_lives([e for e in died if e.node == starved])} times",
        flush=True,
    )
    if wronged:
        told = ", ".join(
            f"{event.node} (incarnation {event.incarnation}) as {by} saw it"
            for by, event in seen
            if event in wronged
        )
        raise KVError(f"healthy nodes were declared dead: {told}")


def _lives(events: Sequence[EventRow]) -> int:
    """Each is told by several: of so many incarnations of nodes."""
    return len({(event.node, event.incarnation) for event in events})


async def measure_idle(nodes: int, seconds: int) -> None:
    """Processor time of nodes that have nothing to do."""
    with fresh_cluster(nodes) as cluster:
        views = await settled(cluster)
        pids = _pids(cluster)
        before = _used_s(pids)
        await asyncio.sleep(seconds)
        shares = [used / seconds for used in _used_s(pids, before)]
        await views.until_all_alive()
    print(
        f"idle, {nodes} nodes, {seconds} s: each uses "
        f"median {statistics.median(shares):.2%}, max {max(shares):.2%} of a core",
        flush=True,
    )


def _pids(cluster: Cluster) -> list[int]:
    """Of all nodes; raises KVError if one is not there."""
    pids = {node.id: node.pid() for node in cluster.nodes}
    gone = [node for node, pid in pids.items() if pid is None]
    if gone:
        raise KVError(f"{', '.join(gone)} ended by itself")
    return [pid for pid in pids.values() if pid is not None]


def _used_s(pids: Sequence[int], before: Sequence[float] = ()) -> list[float]:
    used = [cpu_s(pid) for pid in pids]
    return [now - then for now, then in zip(used, before, strict=True)] if before else used


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


async def _measure(options: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    match options.figure:
        case "kill":
            for nodes in options.nodes:
                await measure_kill(nodes, options.runs)
        case "starved":
            await measure_starved(options.minutes)
        case _:
            for nodes in options.nodes:
                await measure_idle(nodes, options.seconds)


def main() -> int:
    """Measure one figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    figures = parser.add_subparsers(dest="figure", required=True)
    kill = figures.add_parser("kill")
    kill.add_argument("--nodes", type=numbers, default=[5, 25], metavar="N,N")
    kill.add_argument("--runs", type=int, default=10)
    figures.add_parser("starved").add_argument("--minutes", type=float, default=10.0)
    idle = figures.add_parser("idle")
    idle.add_argument("--nodes", type=numbers, default=[3, 5, 25], metavar="N,N")
    idle.add_argument("--seconds", type=int, default=60)
    try:
        uvloop.run(_measure(parser.parse_args()))
    except KVError as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("stopped\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
