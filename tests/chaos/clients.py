"""The load: clients that write down what they asked and what they know of the outcome."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import kvstore
from histories.model import Action, CompareAndSwap, Delete, Get, Operation, Put

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from chaos.history import History

HOT_KEYS = 16
COLD_KEYS = 300
COUNTERS = 8
EPOCH_S = 60.0
"""Hot keys and counters are replaced so often: what is said of one key must stay checkable."""
PATIENT_S, IMPATIENT_S = 8.0, 0.7
"""Deadlines. An impatient call gives up within an outage, of unknown outcome."""
IMPATIENT_SHARE = 0.15
AT_ONCE = (1, 3, 8)
SHORT_LIVED_EVERY = 4
"""Every so many-th client soon leaves and begins anew, knowing nothing. It finds a new leader
while the others still ask the old one: only so can it be seen that the old one answers.
"""
SHORT_LIVED_ROUNDS = 5
REST_S_MAX = 0.01
PADDING_BYTES_MAX = 2000


_KINDS: dict[type[Action], str] = {
    Get: "get",
    Put: "put",
    Delete: "delete",
    CompareAndSwap: "compare and swap",
}


class Workload:
    """Clients at work; ``async with``. Their failures come out at the end, or by ``check``.

    Each rests for up to ``rest_s_max`` between its rounds. All keys begin with ``prefix``: those
    of a new history must be new.
    """

    def __init__(
        self,
        endpoints: str,
        clients: int,
        history: History,
        rng: random.Random,
        prefix: str = "",
        rest_s_max: float = REST_S_MAX,
    ) -> None:
        self._rest_s_max = rest_s_max
        self._endpoints = endpoints
        self._prefix = prefix
        self._history = history
        self._rngs = [random.Random(rng.random()) for _ in range(clients)]
        self._numbers = count()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Workload:
        for number, rng in enumerate(self._rngs, start=1):
            worker = _Worker(
                f"c{number}", rng, self._history, self._numbers, self._prefix, self._rest_s_max
            )
            run = self._run_briefly if number % SHORT_LIVED_EVERY == 0 else self._run
            self._tasks.append(asyncio.create_task(run(worker)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks, return_exceptions=True)  # all of them, then:
        self.check()

    def check(self) -> None:
        """Raise what a client failed with, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _run(self, worker: _Worker) -> None:
        async with kvstore.connect(self._endpoints, timeout_s=PATIENT_S) as store:
            while not self._is_over:
                await worker.work(store)

    async def _run_briefly(self, worker: _Worker) -> None:
        while not self._is_over:
            with suppress(kvstore.Unavailable):  # all are down: try again
                async with kvstore.connect(self._endpoints, timeout_s=PATIENT_S) as store:
                    for _ in range(SHORT_LIVED_ROUNDS):
                        await worker.work(store)


class _Worker:
    """One client: a few operations at a time, then a short rest."""

    _store: kvstore.Client

    def __init__(
        self,
        name: str,
        rng: random.Random,
        history: History,
        numbers: count[int],
        prefix: str,
        rest_s_max: float,
    ) -> None:
        self._rest_s_max = rest_s_max
        self._prefix = prefix
        self._name = name
        self._rng = rng
        self._history = history
        self._numbers = numbers

    async def work(self, store: kvstore.Client) -> None:
        self._store = store
        async with asyncio.TaskGroup() as together:
            for _ in range(self._rng.choice(AT_ONCE)):
                together.create_task(self._one())
        await asyncio.sleep(self._rest_s_max * self._rng.random())

    def _one(self) -> Coroutine[Any, Any, object]:
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
                return self._count(self._counter())
            case _:
                return self._write_ledger()

    def _key(self) -> bytes:
        if self._rng.random() < 0.4:
            return self._named(f"hot-{self._epoch()}.{self._rng.randrange(HOT_KEYS)}")
        return self._named(f"cold-{self._rng.randrange(COLD_KEYS)}")

    def _counter(self) -> bytes:
        return self._named(f"counter-{self._epoch()}.{self._rng.randrange(COUNTERS)}")

    def _named(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode()

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
            self._history.counted[key] += 1
        elif not known and swapped is None:
            self._history.uncertain[key] += 1

    async def _write_ledger(self) -> None:
        number = next(self._numbers)
        key = f"{self._prefix}ledger-{number}"
        value = b"%s:%d" % (self._name.encode(), number)
        value += b"." * self._rng.randrange(PADDING_BYTES_MAX)
        began = time.monotonic()
        try:
            await self._store.put(key, value, timeout_s=self._timeout_s())
        except kvstore.KVError as error:
            self._history.record("ledger put", key.encode(), began, _outcome(error))
        else:
            self._history.ledger[key] = value
            self._history.record("ledger put", key.encode(), began, "ok")

    async def _do(self, key: bytes, action: Action) -> tuple[bool, Any]:
        """Whether the outcome is known, and what it was; (False, False) if it surely failed."""
        began = time.monotonic()
        try:
            result = await self._ask(key, action)
        except kvstore.KVError as error:
            self._history.record(_KINDS[type(action)], key, began, _outcome(error))
            if isinstance(action, Get) or not error.may_have_applied:
                return False, False
            self._history.operations.append(Operation(self._name, key, action, began, None))
            return False, None
        ended = time.monotonic()
        self._history.operations.append(Operation(self._name, key, action, began, ended, result))
        self._history.record(_KINDS[type(action)], key, began, "ok")
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
