"""The load: clients that write down what they asked and what they know of the outcome."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import kvstore
from histories.model import Action, CompareAndSwap, Delete, Get, Operation, Put
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

HOT_KEYS = 16
COLD_KEYS = 300
COUNTERS = 8
EPOCH_S = 60.0
"""Hot keys and counters are replaced so often: what is said of one key must stay checkable."""
PATIENT_S, IMPATIENT_S = 8.0, 0.7
"""Deadlines. An impatient call gives up within an outage, of unknown outcome."""
IMPATIENT_SHARE = 0.15
AT_ONCE = (1, 3, 8)
NOMADS = 4
"""Every so many-th client soon leaves and begins anew, knowing nothing. It finds a new leader
while the others still ask the old one: only so can it be seen that the old one answers.
"""
NOMAD_ROUNDS = 5
REST_S_MAX = 0.01
PADDING_BYTES_MAX = 2000


_KINDS: dict[type[Action], str] = {
    Get: "get",
    Put: "put",
    Delete: "delete",
    CompareAndSwap: "compare and swap",
}


class Sample(NamedTuple):
    """One finished operation, for the report."""

    at: float
    seconds: float
    shard: int
    is_write: bool
    is_ok: bool


@dataclass
class Books:
    """What all clients together asked and were told; times are of the monotonic clock."""

    shards: int
    history: list[Operation] = field(default_factory=list)
    ledger: dict[str, bytes] = field(default_factory=dict)
    """Keys that were written once and acknowledged."""
    counted: Counter[bytes] = field(default_factory=Counter)
    uncertain: Counter[bytes] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Operations by what they were and what came of them."""
    acknowledged_writes: int = 0
    last_ok: dict[int, float] = field(default_factory=dict)
    longest_gap_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By shard, between two acknowledged operations."""
    gap_at: dict[int, float] = field(default_factory=dict)

    def note(self, kind: str, key: bytes, began: float, outcome: str) -> None:
        """An operation has ended, well or not."""
        is_write = kind != "get"
        now, shard = time.monotonic(), shard_of(key, self.shards)
        is_ok = outcome == "ok"
        self.samples.append(Sample(now, now - began, shard, is_write, is_ok))
        self.outcomes[outcome] += 1
        self.kinds[f"{kind}: {outcome}"] += 1
        if not is_ok:
            return
        self.acknowledged_writes += is_write
        gap = now - self.last_ok.get(shard, now)
        if gap > self.longest_gap_s[shard]:
            self.longest_gap_s[shard], self.gap_at[shard] = gap, now
        self.last_ok[shard] = now

    def per_second(self, seconds: float) -> float:
        """Operations that ended well, a second, over the last ``seconds``."""
        since = time.monotonic() - seconds
        good = 0
        for sample in reversed(self.samples):
            if sample.at < since:
                break
            good += sample.is_ok
        return good / seconds


class Load:
    """Clients at work; ``async with``. Their failures come out at the end."""

    def __init__(self, endpoints: str, clients: int, books: Books, rng: random.Random) -> None:
        self._endpoints = endpoints
        self._books = books
        self._rngs = [random.Random(rng.random()) for _ in range(clients)]
        self._numbers = count()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for number, rng in enumerate(self._rngs, start=1):
            worker = _Worker(f"c{number}", rng, self._books, self._numbers)
            work = self._wander(worker) if number % NOMADS == 0 else self._stay(worker)
            self._tasks.append(asyncio.create_task(work))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a client failed with, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _stay(self, worker: _Worker) -> None:
        async with kvstore.connect(self._endpoints, timeout_s=PATIENT_S) as store:
            while not self._is_over:
                await worker.work(store)

    async def _wander(self, worker: _Worker) -> None:
        while not self._is_over:
            with suppress(kvstore.Unavailable):  # all are down: try again
                async with kvstore.connect(self._endpoints, timeout_s=PATIENT_S) as store:
                    for _ in range(NOMAD_ROUNDS):
                        await worker.work(store)


class _Worker:
    """One client: a few operations at a time, then a short rest."""

    _store: kvstore.Client

    def __init__(self, name: str, rng: random.Random, books: Books, numbers: count[int]) -> None:
        self._name = name
        self._rng = rng
        self._books = books
        self._numbers = numbers

    async def work(self, store: kvstore.Client) -> None:
        self._store = store
        actions = [self._one() for _ in range(self._rng.choice(AT_ONCE))]
        await asyncio.gather(*actions)
        await asyncio.sleep(REST_S_MAX * self._rng.random())

    def _one(self) -> Awaitable[object]:
        key = self._key()
        match self._rng.choices(
            ("put", "get", "delete", "swap", "count", "ledger"), (6, 5, 1, 3, 2, 5)
        )[0]:
            case "get":
                return self._do(key, Get())
            case "put":
                return self._do(key, Put(self._new_value()))
            case "delete":
                return self._do(key, Delete())
            case "swap":
                return self._swap(key)
            case "count":
                return self._count(
                    b"counter-%d.%d" % (self._epoch(), self._rng.randrange(COUNTERS))
                )
            case _:
                return self._write_ledger()

    def _key(self) -> bytes:
        if self._rng.random() < 0.4:
            return b"hot-%d.%d" % (self._epoch(), self._rng.randrange(HOT_KEYS))
        return b"cold-%d" % self._rng.randrange(COLD_KEYS)

    def _counter(self) -> bytes:
        return b"counter-%d.%d" % (self._epoch(), self._rng.randrange(COUNTERS))

    def _epoch(self) -> int:
        return int(time.monotonic() / EPOCH_S)

    def _timeout_s(self) -> float:
        return IMPATIENT_S if self._rng.random() < IMPATIENT_SHARE else PATIENT_S

    def _new_value(self) -> bytes:
        return b"%s:%d" % (self._name.encode(), next(self._numbers))

    async def _swap(self, key: bytes) -> None:
        known, value = await self._do(key, Get())
        if known:
            await self._do(key, CompareAndSwap(value, self._new_value()))

    async def _count(self, key: bytes) -> None:
        """An increment: read, then swap for one more; it counts if the swap did."""
        known, value = await self._do(key, Get())
        if not known:
            return
        after = b"%d" % (int(value or 0) + 1)
        known, swapped = await self._do(key, CompareAndSwap(value, after))
        if swapped:
            self._books.counted[key] += 1
        elif not known and swapped is None:
            self._books.uncertain[key] += 1

    async def _write_ledger(self) -> None:
        number = next(self._numbers)
        key = f"ledger-{number}"
        value = b"%s:%d" % (self._name.encode(), number)
        value += b"." * self._rng.randrange(PADDING_BYTES_MAX)
        began = time.monotonic()
        try:
            await self._store.put(key, value, timeout_s=self._timeout_s())
        except kvstore.KVError as error:
            self._books.note("ledger put", key.encode(), began, _outcome(error))
        else:
            self._books.ledger[key] = value
            self._books.note("ledger put", key.encode(), began, "ok")

    async def _do(self, key: bytes, action: Action) -> tuple[bool, Any]:
        """Whether the outcome is known, and what it was; (False, False) if it surely failed."""
        began = time.monotonic()
        try:
            result = await self._ask(key, action)
        except kvstore.KVError as error:
            self._books.note(_KINDS[type(action)], key, began, _outcome(error))
            if isinstance(action, Get) or not error.may_have_applied:
                return False, False
            self._books.history.append(Operation(self._name, key, action, began, None))
            return False, None
        ended = time.monotonic()
        self._books.history.append(Operation(self._name, key, action, began, ended, result))
        self._books.note(_KINDS[type(action)], key, began, "ok")
        return True, result

    async def _ask(self, key: bytes, action: Action) -> bytes | bool | None:
        timeout_s = self._timeout_s()
        match action:
            case Get():
                item = await self._store.get(key, timeout_s=timeout_s)
                return None if item is None else item.value
            case Put(value):
                await self._store.put(key, value, timeout_s=timeout_s)
                return None
            case Delete():
                return await self._store.delete(key, timeout_s=timeout_s)
            case CompareAndSwap(expected, value):
                return await self._store.compare_and_swap(key, expected, value, timeout_s=timeout_s)
            case _:
                raise TypeError(f"{action} is not asked here")


def _outcome(error: kvstore.KVError) -> str:
    return f"{error.code}, unknown" if error.may_have_applied else f"{error.code}, not applied"
