"""The main job, for real: three processes, one killed, nothing lost. Run by `make demo`.

Starts a cluster in a temporary directory on free ports, writes and reads, kills the leader of
a shard with SIGKILL while a client keeps writing to that shard, restarts it, and checks every
write that was acknowledged. Exit code 0 only if all of that held. Leaves nothing running,
also when it is interrupted.
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
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import kvstore
from kvstore.sharding.ring import shard_of

KEYS = 300
WRITE_EVERY_S = 0.005
LOAD_BEFORE_S = 0.5
LOAD_AFTER_S = 1.0
FAILOVER_WAIT_S = 10.0
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
        victim, shard = located["leader"], located["shard"]
        nodes = {node["id"]: node for node in self.ask("cluster", "status")["nodes"]}
        pid = nodes[victim]["pid"]
        say(f"\nA client writes to shard {shard} every {WRITE_EVERY_S * 1000:.0f} ms.")
        say(f"{victim} leads that shard.\n\n$ kill -9 {pid}")
        shards = len(self.ask("status")["shards"])
        load = Load(store, shard, shards)
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

    async def check_everything(self, store: kvstore.Client) -> None:
        """Every acknowledged write must still be there."""
        found = await asyncio.gather(*map(store.get, self.acknowledged))
        check_all_equal(self.acknowledged, found)
        say(f"\nall {len(found)} acknowledged keys are there, every value as written")


class Load:
    """Writes to one shard at a steady pace, whether or not the last one was answered."""

    def __init__(self, store: kvstore.Client, shard: int, shards: int) -> None:
        self._store = store
        keys = (f"load-{i}" for i in count())
        self._keys = (key for key in keys if shard_of(key.encode(), shards) == shard)
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


def check_all_equal(expected: dict[str, bytes], found: list[kvstore.KeyValue | None]) -> None:
    """Compare what was acknowledged with what is there."""
    lost = [
        key
        for (key, value), item in zip(expected.items(), found, strict=True)
        if item is None or item.value != value
    ]
    if lost:
        raise Failed(f"{len(lost)} of {len(expected)} keys lost or changed, such as {lost[0]}")


def say(text: str) -> None:
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
    say("\nAll held: a leader was killed and no acknowledged write was lost.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
