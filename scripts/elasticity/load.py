"""The client that goes on all the while: ``python -m elasticity.load ENDPOINTS KEYS RATE``.

A process of its own, so that nothing else that is measured or driven can hold it up. It does what
it is told by lines of JSON on stdin and answers each with one on stdout; when stdin ends, it ends.
Half of its operations are puts and half gets, in an order that visits all keys evenly.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

import uvloop

import kvstore
from elasticity.ledger import Ledger, key_of, value_of
from elasticity.samples import Sample, summarise
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FILL_AT_ONCE = 1024
SLEEP_S_MIN = 0.0005
"""Operations that are due within so short a time begin at once: no loop sleeps for less."""
LINE_BYTES_MAX = 1 << 20


class Load:
    """Invariant: every operation that has begun is in ``_open`` or has left a sample."""

    def __init__(self, store: kvstore.Client, keys: int, rate: float, shards: int) -> None:
        """At rest."""
        self._store = store
        self._keys = keys
        self._gap_s = 1 / rate
        self._ledger = Ledger(keys)
        self._shards = [shard_of(key_of(number), shards) for number in range(keys)]
        self._samples: deque[Sample] = deque()
        self._open: set[asyncio.Task[None]] = set()
        self._going: asyncio.Task[None] | None = None
        self._order = all_over(keys)
        self._wrong_reads = 0

    async def fill(self) -> dict[str, Any]:
        """Write every key once; how long that took."""
        began = time.monotonic()
        numbers = iter(range(self._keys))

        async def work() -> None:
            for number in numbers:
                await self._put(number)

        await asyncio.gather(*(work() for _ in range(FILL_AT_ONCE)))
        return {"seconds": time.monotonic() - began}

    async def go(self) -> dict[str, Any]:
        """Begin, or go on, with the steady load."""
        self._samples.clear()
        self._going = asyncio.create_task(self._go())
        return {"at": time.monotonic()}

    async def rest(self) -> dict[str, Any]:
        """Begin nothing more, and wait for what is under way."""
        if self._going is not None:
            self._going.cancel()
            await asyncio.wait([self._going])
            if not self._going.cancelled():
                self._going.result()
            self._going = None
        await self._until_none_is_open()
        return {}

    async def window(self, since: float, until: float) -> dict[str, Any]:
        """What the operations came to that were due in this time."""
        if self._going is not None and self._going.done():
            self._going.result()
        await self._until_none_is_open()
        chosen = [sample for sample in self._samples if since <= sample.due < until]
        return summarise(chosen).to_json()

    async def dump(self, path: str) -> dict[str, Any]:
        """Add all samples since :meth:`go` to a file, one JSON array a line."""
        with open(path, "a", encoding="utf-8") as file:  # noqa: ASYNC230
            file.writelines(f"{json.dumps(sample)}\n" for sample in self._samples)
        return {}

    async def check(self) -> dict[str, Any]:
        """Read everything back; to be asked at rest."""
        rows = [(item.key, item.value) async for item in self._store.scan()]
        findings = self._ledger.compare(rows)
        wrong_reads, self._wrong_reads = self._wrong_reads, 0
        return {**findings.to_json(), "wrong_reads": wrong_reads}

    async def _until_none_is_open(self) -> None:
        """Wait for what is under way now; what begins meanwhile is not waited for."""
        if self._open:
            await asyncio.wait(set(self._open))

    async def _go(self) -> None:
        """Begin each operation when it is due, also if many are late at once."""
        started = time.monotonic()
        for turn in count():
            due = started + turn * self._gap_s
            wait_s = due - time.monotonic()
            if wait_s > SLEEP_S_MIN:
                await asyncio.sleep(wait_s)
            due = min(due, time.monotonic())  # what begins a little early takes no less time
            task = asyncio.create_task(self._one(next(self._order), due, is_write=turn % 2 == 0))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _one(self, number: int, due: float, *, is_write: bool) -> None:
        late_s = time.monotonic() - due
        error = ""
        try:
            if is_write:
                is_write = await self._put(number)
            else:
                await self._get(number)
        except kvstore.KVError as failure:
            error = type(failure).__name__
        took_s = time.monotonic() - due
        self._samples.append(Sample(due, late_s, took_s, self._shards[number], is_write, error))

    async def _put(self, number: int) -> bool:
        """Write, or read if a write of this key is still under way; whether it wrote."""
        write = self._ledger.begin(number)
        if write is None:
            await self._get(number)
            return False
        try:
            await self._store.put(key_of(number), value_of(number, write))
        except kvstore.KVError as failure:
            self._ledger.fail(number, write, may_have_applied=failure.may_have_applied)
            raise
        self._ledger.acknowledge(number, write)
        return True

    async def _get(self, number: int) -> None:
        floor = self._ledger.floor(number)
        item = await self._store.get(key_of(number))
        if not self._ledger.is_right(number, None if item is None else item.value, floor):
            self._wrong_reads += 1


def all_over(keys: int) -> Iterator[int]:
    """Every key once in each round, neighbours far apart."""
    step = next(step for step in count(int(keys * 0.618) | 1) if math.gcd(step, keys) == 1)
    return (turn * step % keys for turn in count())


async def serve(load: Load) -> None:
    """Do what stdin says until it ends."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        asked = json.loads(line)
        try:
            answer = await getattr(load, asked.pop("do"))(**asked)
        except kvstore.KVError as failure:
            answer = {"failed": str(failure)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


async def _main(endpoints: str, keys: int, rate: float) -> None:
    async with kvstore.connect(endpoints) as store:
        shards = (await store.shard_map()).shards
        load = Load(store, keys, rate, shards)
        gc.freeze()
        await serve(load)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
