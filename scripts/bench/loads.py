"""What a client does over and over: one function a load.

What an operation needs is drawn beforehand: the hot loop shall measure the store, not the dice.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final, TypeAlias

from bench.keys import PREFIX, key_of, uniform, zipfian
from kvstore.errors import InvalidArgument, KVError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bench.measured import Cell
    from kvstore import Client

Operation: TypeAlias = "Callable[[Client], Awaitable[object]]"
"""Asks the store for something; None is a wrong answer."""

READ_SHARES: Final = {"mix": 0.9, "ycsb-a": 0.5, "ycsb-b": 0.95, "ycsb-c": 1.0}
"""Of loads that read and write, how many operations read."""
ZIPFIAN: Final = ("ycsb-a", "ycsb-b", "ycsb-c")
SCAN_ROWS: Final = 1000
HOT_KEYS: Final = 16
HOT_PREFIX: Final = b"bench-hot-%06d"
DRAWS: Final = 1 << 17
"""So many different keys are asked for, at most, unless more are wanted."""
VALUES_BYTES_MAX: Final = 4 << 20
"""What the different values take together."""
VALUES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """One load, ready to go."""

    operation: Operation
    counts: Counter[str] = field(default_factory=Counter)
    """What became of operations that can end in more than one way."""


def write_share(operation: str) -> float | None:
    """How many of its operations are puts; None where that depends on what happens."""
    if operation in ("put", "get", "scan"):
        return float(operation == "put")
    return None if operation == "cas" else 1 - READ_SHARES[operation]


def load_of(cell: Cell, keys: int, seed: int, draws: int = DRAWS) -> Load:
    """The load of a cell on so many keys, which must be there.

    After ``draws`` operations the same keys come again, in the same order.

    Raises:
        InvalidArgument: there is no such load, or it needs more keys.
    """
    rng = random.Random(seed)
    match cell.operation:
        case "put":
            return _puts(cell, keys, rng, draws)
        case "get":
            return _gets(keys, rng, draws)
        case "scan":
            return _scans(keys, rng)
        case "cas":
            return _swaps(cell, rng)
        case other if other in READ_SHARES:
            return _mixed(cell, keys, rng)
        case _:
            raise InvalidArgument(f"there is no load {cell.operation!r}")


def values(value_bytes: int, rng: random.Random) -> Iterator[bytes]:
    """Many different ones, of bytes that no engine can compress. Without end."""
    wanted = max(1, min(VALUES_MAX, VALUES_BYTES_MAX // max(1, value_bytes)))
    return cycle([rng.randbytes(value_bytes) for _ in range(wanted)])


def _puts(cell: Cell, keys: int, rng: random.Random, draws: int) -> Load:
    chosen = map(key_of, islice(uniform(keys, rng), draws))
    draw = cycle(list(zip(chosen, values(cell.value_bytes, rng), strict=False))).__next__
    return Load(lambda store: store.put(*draw()))


def _gets(keys: int, rng: random.Random, draws: int) -> Load:
    draw = cycle(list(map(key_of, islice(uniform(keys, rng), draws)))).__next__
    return Load(lambda store: store.get(draw()))


def _mixed(cell: Cell, keys: int, rng: random.Random) -> Load:
    numbers = zipfian(keys, rng) if cell.operation in ZIPFIAN else uniform(keys, rng)
    chosen = map(key_of, islice(numbers, DRAWS))
    share = READ_SHARES[cell.operation]
    written = (None if rng.random() < share else value for value in values(cell.value_bytes, rng))
    draw = cycle(list(zip(chosen, written, strict=False))).__next__

    def operation(store: Client) -> Awaitable[object]:
        key, value = draw()
        return store.get(key) if value is None else store.put(key, value)

    return Load(operation)


def _scans(keys: int, rng: random.Random) -> Load:
    if keys < SCAN_ROWS:
        raise InvalidArgument(f"a scan of {SCAN_ROWS:,} needs as many keys, not {keys:,}")
    draw = cycle(list(map(key_of, islice(uniform(keys - SCAN_ROWS + 1, rng), DRAWS)))).__next__

    async def operation(store: Client) -> int:
        rows = 0
        async for _ in store.scan(PREFIX, start=draw(), limit=SCAN_ROWS):
            rows += 1
        if rows != SCAN_ROWS:
            raise KVError(f"a scan gave {rows:,} rows, not {SCAN_ROWS:,}")
        return rows

    return Load(operation)


def _swaps(cell: Cell, rng: random.Random) -> Load:
    """Read, and swap what was read: of those who read the same, one succeeds."""
    counts: Counter[str] = Counter()
    draw = cycle([HOT_PREFIX % number for number in islice(uniform(HOT_KEYS, rng), DRAWS)]).__next__
    value = values(cell.value_bytes, rng).__next__

    async def operation(store: Client) -> bool:
        key = draw()
        found = await store.get(key)
        swapped = await store.compare_and_swap(key, None if found is None else found.value, value())
        counts["swapped" if swapped else "overtaken"] += 1
        return swapped

    return Load(operation, counts)
