"""The main job, for real: three processes, one killed, one added, nothing lost. For `make demo`.

Starts a cluster in a temporary directory on free ports, writes and reads, kills the leader of
a shard with SIGKILL while a client keeps writing to that shard, restarts it, adds a fourth node
while a client goes on writing, and checks every write that was acknowledged and all replicas.
Exit code 0 only if all of that held. Leaves nothing running, also when it is interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import kvstore
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.sharding.shard_map import Replica, ShardMap

KEYS = 300
NODES_AFTER = 4
WRITE_EVERY_S = 0.005
LOAD_BEFORE_S = 0.5
LOAD_AFTER_S = 1.0
FAILOVER_WAIT_S = 10.0
MOVE_WAIT_S = 60.0
LOOK_EVERY_S = 0.1
SHOWCASE = "user:ada"


class Failed(Exception):
    """Something that must hold did not."""


class Demo:
    """One cluster, the commands it is driven with, and the writes it acknowledged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.acknowledged: dict[str, bytes] = {}

    def kv(self, *arguments: str, quiet: bool = False) -> str:
        """Run a `kv` command on this cluster and show it, unless quiet."""
        if not quiet:
            say(f"\n$ kv {' '.join(arguments)}")
        done = subprocess.run(
            [sys.executable, "-m", "kvstore.cli", *arguments],
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if name != "KV_ENDPOINTS"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failed(f"kv {' '.join(arguments)} ended with code {done.returncode}")
        if not quiet:
            say(done.stdout.partition("\nTry:")[0].rstrip())
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        """The JSON answer of a `kv` command."""
        return json.loads(self.kv(*arguments, "-o", "json", quiet=True))

    def endpoints(self) -> str:
        """Every node's address, as the client takes them."""
        return ",".join(node["address"] for node in self.ask("cluster", "status")["nodes"])

    def stop(self) -> None:
        """Stop whatever still runs; quiet, and fine when nothing does."""
        with suppress(Failed):
            if (self.directory / ".kv" / "cluster.toml").exists():
                self.kv("cluster", "down", quiet=True)

    async def run(self) -> None:
        """The whole story."""
        self.kv("cluster", "up", "--nodes", "3", "--base-port", "0")
        async with kvstore.connect(self.endpoints()) as store:
            await self.write_and_read(store)
            self.kv("put", SHOWCASE, "Lovelace")
            self.kv("get", SHOWCASE)
            self.kv("status")
            victim = await self.kill_a_leader(store)
            self.kv("cluster", "restart", victim)
            await self.check_everything(store)
            await self.add_a_node(store)
            await self.check_everything(store)
            say(f"\n$ kv verify\n{self.kv('verify', quiet=True).splitlines()[-1]}")
        self.kv("cluster", "down")

    async def write_and_read(self, store: kvstore.Client) -> None:
        """A few hundred keys, all at once, as a busy service would write them."""
        items = {f"key-{i:04}": f"value {i}".encode() for i in range(KEYS)}
        began = time.monotonic()
        await asyncio.gather(*(store.put(key, value) for key, value in items.items()))
        took_ms = (time.monotonic() - began) * 1000
        self.acknowledged |= items
        say(f"\n{KEYS} keys written, each on the disks of a majority: {took_ms:.0f} ms")
        found = await asyncio.gather(*map(store.get, items))
        check_all_equal(items, found)
        say(f"{KEYS} keys read back: all as written")

    async def kill_a_leader(self, store: kvstore.Client) -> str:
        """SIGKILL the leader of the showcase's shard under load; the node's name."""
        located = self.ask("locate", SHOWCASE)
        victim, shard = str(located["leader"]), located["shard"]
        nodes = {node["id"]: node for node in self.ask("cluster", "status")["nodes"]}
        pid = nodes[victim]["pid"]
        say(f"\nA client writes to shard {shard} every {WRITE_EVERY_S * 1000:.0f} ms.")
        say(f"{victim} leads that shard.\n\n$ kill -9 {pid}")
        shards = len(self.ask("status")["shards"])
        load = Load(store, "load", shard, shards)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(load.run())
            await asyncio.sleep(LOAD_BEFORE_S)
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            failover_ms = await load.next_acknowledged_ms(killed_at)
            say(f"the next acknowledged write to shard {shard} came after {failover_ms:.0f} ms")
            await asyncio.sleep(LOAD_AFTER_S)
            load.is_over = True
            await writing
        say(f"{len(load.acknowledged)} writes acknowledged before, during and after")
        self.acknowledged |= load.acknowledged
        return victim

    async def add_a_node(self, store: kvstore.Client) -> None:
        """A fourth node joins under load and gets its share of the keys."""
        say(f"\nA client writes to all shards every {WRITE_EVERY_S * 1000:.0f} ms.")
        say(f"keys: {self.keys_held()}")
        load = Load(store, "more")
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(load.run())
            before = await store.shard_map()
            await asyncio.to_thread(self.kv, "cluster", "add")
            say()
            await tell_moves(store, before)
            load.is_over = True
            await writing
        slowest = f"the slowest took {load.slowest_ms():.0f} ms"
        say(f"{len(load.acknowledged)} writes acknowledged meanwhile, none failed, {slowest}")
        self.acknowledged |= load.acknowledged
        self.kv("shards")
        say(f"\nkeys: {self.keys_held()}")

    def keys_held(self) -> str:
        """How many keys each node has a replica of."""
        held: Counter[str] = Counter()
        for shard in self.ask("shards")["shards"]:
            held.update(dict.fromkeys(shard["replicas"], shard["keys"]))
        return ", ".join(f"{node} has {keys}" for node, keys in sorted(held.items()))

    async def check_everything(self, store: kvstore.Client) -> None:
        """Every acknowledged write must still be there."""
        found = await asyncio.gather(*map(store.get, self.acknowledged))
        check_all_equal(self.acknowledged, found)
        say(f"\nall {len(found)} acknowledged keys are there, every value as written")


class Load:
    """Writes at a steady pace, to one shard or to all, whether or not the last was answered."""

    def __init__(
        self, store: kvstore.Client, name: str, shard: int | None = None, shards: int = 1
    ) -> None:
        self._store = store
        keys = (f"{name}-{i}" for i in count())
        self._keys = (k for k in keys if shard in (None, shard_of(k.encode(), shards)))
        self._answered = asyncio.Event()
        self._answers: list[tuple[float, float]] = []
        self.acknowledged: dict[str, bytes] = {}
        self.is_over = False

    async def run(self) -> None:
        """Write until told that it is over, then wait for what is still unanswered."""
        async with asyncio.TaskGroup() as tasks:
            while not self.is_over:
                tasks.create_task(self._write(next(self._keys)))
                await asyncio.sleep(WRITE_EVERY_S)

    async def _write(self, key: str) -> None:
        began = time.monotonic()
        value = f"written at {began}".encode()
        await self._store.put(key, value)
        self.acknowledged[key] = value
        self._answers.append((began, time.monotonic()))
        self._answered.set()

    def slowest_ms(self) -> float:
        """Of all that were acknowledged."""
        return max(ended - began for began, ended in self._answers) * 1000

    async def next_acknowledged_ms(self, since: float) -> float:
        """From ``since`` to the first answer to a write that began no earlier.

        An answer already under way when its sender was killed does not count.
        """
        async with asyncio.timeout(FAILOVER_WAIT_S):
            while True:
                answers = [ended for began, ended in self._answers if began >= since]
                if answers:
                    return (min(answers) - since) * 1000
                self._answered.clear()
                await self._answered.wait()


async def tell_moves(store: kvstore.Client, before: ShardMap) -> None:
    """Say which replicas have moved since the map ``before``, until all nodes hold as many."""
    async with asyncio.timeout(MOVE_WAIT_S):
        while True:
            after = await store.shard_map()
            for shard in range(after.shards):
                for path in paths(before.replicas[shard], after.replicas[shard]):
                    say(f"a replica of shard {shard} has moved {path}")
            held = Counter(replica.node for held in after.replicas for replica in held)
            is_even = max(held.values()) - min(held.values()) <= 1
            if is_even and len(held) == NODES_AFTER and not after.changes:
                return
            before = after
            await asyncio.sleep(LOOK_EVERY_S)


def paths(had: Sequence[Replica], has: Sequence[Replica]) -> list[str]:
    """``from n1 to n4``, for each that has taken another's place."""
    before, after = ([replica.node for replica in replicas] for replicas in (had, has))
    gone = [node for node in before if node not in after]
    come = [node for node in after if node not in before]
    return [f"from {old} to {new}" for old, new in zip(gone, come, strict=True)]


def check_all_equal(expected: dict[str, bytes], found: list[kvstore.KeyValue | None]) -> None:
    """Compare what was acknowledged with what is there."""
    lost = [
        key
        for (key, value), item in zip(expected.items(), found, strict=True)
        if item is None or item.value != value
    ]
    if lost:
        raise Failed(f"{len(lost)} of {len(expected)} keys lost or changed, such as {lost[0]}")


def say(text: str = "") -> None:
    """Show a line at once, also through a pipe."""
    print(text, flush=True)


def _stop_on(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo in a temporary directory and clean up whatever happens."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_on)
    with tempfile.TemporaryDirectory(prefix="kvstore-demo-") as directory:
        demo = Demo(Path(directory))
        try:
            asyncio.run(demo.run())
        except (Failed, kvstore.KVError, TimeoutError, ExceptionGroup) as error:
            say(f"\nFAILED: {error!r}")
            return 1
        except KeyboardInterrupt:
            say("\ninterrupted")
            return 130
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C
            demo.stop()
    say("\nAll held: a leader was killed, a node was added, no acknowledged write was lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
