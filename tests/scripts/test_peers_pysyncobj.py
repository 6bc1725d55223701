"""The load within a PySyncObj member, without PySyncObj."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from bench.measured import Cell
from bench.peers.pysyncobj_member import KEYS, SUCCESS, Puts
from bench.peers.sync_obj import PySyncObj, command

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Slow:
    """A dictionary that answers when it is told to."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[object, int], None]] = deque()
        self.keys: list[str] = []
        self.most = 0

    def set(self, key: str, value: bytes, *, callback: Callable[[object, int], None]) -> None:
        self.keys.append(key)
        self.waiting.append(callback)
        self.most = max(self.most, len(self.waiting))

    def get(self, key: str) -> bytes | None:
        raise AssertionError("nothing here asks for it")

    def update(self, items: dict[str, bytes], *, sync: bool, timeout: float) -> None:
        raise AssertionError("nothing here asks for it")

    def answer(self, reason: int = SUCCESS) -> None:
        self.waiting.popleft()(None, reason)


def begun(store: Slow, seconds: float, in_flight: int = 3) -> Puts:
    puts = Puts(store, in_flight, b"v", seconds)
    for _ in range(in_flight):
        puts.begin_one()
    return puts


def test_each_answer_begins_the_next_until_the_time_is_over() -> None:
    store = Slow()
    puts = begun(store, seconds=3600)
    for _ in range(100):
        store.answer()
    assert store.most == len(store.waiting) == puts.pending == 3
    assert store.keys[:4] == KEYS[:4]
    puts._closes = time.perf_counter()
    for left in (2, 1, 0):
        assert not puts.ended.is_set()
        store.answer()
        assert puts.pending == len(store.waiting) == left
    assert puts.ended.is_set()
    assert puts.latency.count == 103
    assert not puts.failures


def test_one_failure_ends_the_load_and_is_told() -> None:
    store = Slow()
    puts = begun(store, seconds=3600)
    store.answer(reason=5)
    store.answer()
    store.answer()
    assert puts.ended.is_set()
    assert puts.failures == {5}


def test_it_has_neither_connections_nor_gets_from_others() -> None:
    served = {cell: PySyncObj().serves(cell) for cell in CELLS}
    assert served == CELLS


CELLS = {
    Cell("put", 1, 1): True,
    Cell("put", 1024, 4): True,
    Cell("put", 256, 256): False,
    Cell("get", 1, 1): True,
    Cell("get", 1024, 4): False,
    Cell("scan", 1, 1): False,
    Cell("put", 1, 1, rate=10.0): False,
}


def test_a_member_is_told_who_the_others_are() -> None:
    assert command("b:2", ["a:1", "b:2", "c:3"], "j")[-3:] == ("b:2", "a:1,c:3", "j")


def test_without_the_package_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert PySyncObj().missing() == ".venv/bin/pip install pysyncobj"
