"""Rows in memory: never another than the engine's, and never too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.kv.row_cache import ROW_BYTES_MAX, ROW_OVERHEAD_BYTES, RowCache

KEYS = st.sampled_from([bytes([65 + number]) for number in range(6)])
ROWS = st.integers(0, 3).map(lambda number: bytes([number]) * (100 * number + 1))
CHANGES = st.dictionaries(KEYS, st.none() | ROWS, max_size=4)


@given(st.lists(st.tuples(st.sampled_from(["get", "put"]), KEYS, ROWS) | CHANGES, max_size=60))
def test_a_row_is_the_newest_or_not_there(steps: list[object]) -> None:
    cache = RowCache(bytes_max=1500)
    engine: dict[bytes, bytes | None] = {}
    for step in steps:
        if isinstance(step, dict):
            engine.update(step)
            cache.written(step)
            continue
        assert isinstance(step, tuple)
        kind, key, row = step
        if kind == "put":
            engine[key] = row
            cache.put(key, row)
        else:
            assert cache.get(key) in (None, engine.get(key))


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    cache = RowCache(bytes_max=20 * (ROW_OVERHEAD_BYTES + 10))
    cache.put(b"hot", b"row")
    for number in range(100):
        cache.put(b"%d" % number, b"row")
        assert cache.get(b"hot") == b"row"
    assert cache.get(b"0") is None
    assert cache.get(b"99") == b"row"


def test_it_keeps_to_its_bound() -> None:
    cache = RowCache(bytes_max=100_000)
    for number in range(10_000):
        cache.written({b"%d" % number: bytes(100)})
    held = [number for number in range(10_000) if cache.get(b"%d" % number) is not None]
    assert 100 < len(held) <= 100_000 // (100 + ROW_OVERHEAD_BYTES)


def test_large_rows_are_the_engines_business() -> None:
    cache = RowCache(bytes_max=1 << 20)
    cache.put(b"k", b"small")
    cache.written({b"k": bytes(ROW_BYTES_MAX + 1), b"other": b"row"})
    assert cache.get(b"k") is None
    assert cache.get(b"other") == b"row"


def test_after_another_state_was_put_there_nothing_is_known() -> None:
    cache = RowCache(bytes_max=1 << 20)
    cache.put(b"k", b"row")
    cache.clear()
    assert cache.get(b"k") is None
