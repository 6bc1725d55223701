"""The keys of a shard: what commands do to them, and how they are read.

Commands run against the state as of the command before, which the engine does not hold yet:
many entries share one engine write. So changed rows are kept here until they are written, each
once however often it changed. Readers see only what is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.errors import InvalidArgument
from kvstore.kv import values
from kvstore.kv.commands import CAS, DELETE, PUT
from kvstore.kv.engine import Space, space_prefix, space_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.ids import ShardId
    from kvstore.kv.commands import Command
    from kvstore.kv.engine import Engine, WriteBatch


FETCHED_AT_ONCE: Final = 16
"""Rows of at most 8 MiB each."""

_UNCHANGED: Final = b"unchanged"
"""Told from every row by its identity."""


class Row(NamedTuple):
    """A row of a scan."""

    key: bytes
    value: bytes | None
    """None when only keys were asked for."""
    revision: int
    """Of the last put."""


class Data:
    """Invariant: ``_unwritten`` holds every change since :meth:`written`, None for a delete."""

    keys: int
    """How many there are after all commands so far, written or not."""
    size_bytes: int
    """Of those keys and their values."""

    def __init__(self, shard: ShardId, engine: Engine) -> None:
        """Commands may run after :meth:`take_up`."""
        self._engine = engine
        self._cache = engine.row_cache
        self._prefix = space_prefix(shard, Space.DATA)
        self._row_overhead_bytes = len(self._prefix) + values.HEADER_BYTES
        self._end = space_range(shard, Space.DATA)[1]
        self._unwritten: dict[bytes, bytes | None] = {}

    # -- commands -------------------------------------------------------------------------

    def run(self, commands: Sequence[Command], revision: int) -> list[bool]:
        """Run checked commands in order; the first one has ``revision``, the next one more.

        Returns:
            For each whether it had an effect: put, True; delete, whether the key existed;
            CAS, whether it swapped.
        """
        effects = []
        prefix, put = self._prefix, self._put
        for command in commands:
            op = command[0]
            key = prefix + command[1]
            if op == PUT:
                put(key, command[2], revision)
                effect = True
            elif op == DELETE:
                effect = self._delete(key)
            else:
                assert op == CAS
                effect = self._compare_and_swap(key, command[2], command[3], revision)
            effects.append(effect)
            revision += 1
        return effects

    def put_all(self, keys: Sequence[bytes], new_values: Sequence[bytes], revision: int) -> None:
        """Run checked puts in order; the first one has ``revision``, the next one more.

        The way of most commands, on every replica: :meth:`_put` over existing keys without its
        calls.
        """
        unwritten, cached, fetch = self._unwritten, self._cache.get, self._engine.get
        key_of, encode_over = self._prefix.__add__, values.encode_over
        grown_bytes = 0
        for key, value in zip(map(key_of, keys), new_values, strict=True):
            before = unwritten.get(key, _UNCHANGED)
            if before is _UNCHANGED:
                before = cached(key) or fetch(key)
            if before is None:
                self._create(key, value, revision)
            else:
                unwritten[key] = row = encode_over(before, revision, values.NO_LEASE, value)
                grown_bytes += len(row) - len(before)
            revision += 1
        self.size_bytes += grown_bytes

    def _row(self, key: bytes) -> bytes | None:
        """The row as of the command before."""
        row = self._unwritten.get(key, _UNCHANGED)
        if row is _UNCHANGED:
            row = self._cache.get(key)
            if row is None:
                row = self._engine.get(key)
        return row

    def _put(self, key: bytes, value: bytes, revision: int) -> None:
        before = self._row(key)
        if before is None:
            self._create(key, value, revision)
        else:
            self._unwritten[key] = row = values.encode_over(
                before, revision, values.NO_LEASE, value
            )
            self.size_bytes += len(row) - len(before)

    def _create(self, key: bytes, value: bytes, revision: int) -> None:
        self._unwritten[key] = row = values.encode(revision, revision, values.NO_LEASE, value)
        self.keys += 1
        self.size_bytes += len(key) + len(row) - self._row_overhead_bytes

    def _delete(self, key: bytes) -> bool:
        before = self._row(key)
        if before is None:
            return False
        self._unwritten[key] = None
        self.keys -= 1
        self.size_bytes -= len(key) + len(before) - self._row_overhead_bytes
        return True

    def _compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, revision: int
    ) -> bool:
        before = self._row(key)
        if before is None or expected is None:
            is_as_expected = before is expected  # both absent
        else:
            is_as_expected = values.is_value(before, expected)
        if is_as_expected:
            self._put(key, value, revision)
        return is_as_expected

    def flush(self, batch: WriteBatch) -> None:
        """Add every change since :meth:`written` to ``batch``."""
        batch.update(self._unwritten)

    def written(self) -> None:
        """The engine holds every change."""
        self._cache.written(self._unwritten)
        self._unwritten.clear()

    def take_up(self, keys: int, size_bytes: int) -> None:
        """The engine's present state is to be taken as it is: so many keys, of so many bytes."""
        self._unwritten.clear()
        self.keys, self.size_bytes = keys, size_bytes

    def forget_cached(self) -> None:
        """What the engine holds was changed by others."""
        self._cache.clear()

    # -- reads ----------------------------------------------------------------------------

    def get_many(
        self, keys: Sequence[bytes], bytes_max: int | None
    ) -> list[tuple[bytes, int] | None]:
        """See :meth:`kvstore.kv.state_machine.StateMachine.get_many`."""
        prefix, cached = self._prefix, self._cache.get
        rows = [cached(prefix + key) for key in keys]
        if None in rows:
            self._fetch_missing(keys, rows, bytes_max)
        _check_size(rows, bytes_max)
        value_of = values.value_of
        return [None if row is None else value_of(row) for row in rows]

    def _fetch_missing(
        self, keys: Sequence[bytes], rows: list[bytes | None], bytes_max: int | None
    ) -> None:
        """Ask the engine for the rows that are None, a few at a time: they may be large."""
        missing = [position for position, row in enumerate(rows) if row is None]
        for start in range(0, len(missing), FETCHED_AT_ONCE):
            some = missing[start : start + FETCHED_AT_ONCE]
            wanted = [self._prefix + keys[position] for position in some]
            for position, key, row in zip(some, wanted, self._engine.get_many(wanted), strict=True):
                if row is not None:
                    rows[position] = row
                    self._cache.put(key, row)
            _check_size(rows, bytes_max)

    def scan(
        self, start: bytes, end: bytes | None, limit: int, bytes_max: int, keys_only: bool
    ) -> tuple[list[Row], bool]:
        """See :meth:`kvstore.kv.state_machine.StateMachine.scan`."""
        if limit < 1 or bytes_max < 1:
            raise InvalidArgument("scan: limit and bytes_max must be at least 1")
        first = self._prefix + start
        last = self._end if end is None else self._prefix + end
        if first >= last:
            return [], False
        stored_rows = self._engine.scan(first, last, limit, bytes_max)
        rows = []
        for key, stored in stored_rows:
            _, modified_revision, _, value = values.decode(stored)
            value_asked_for = None if keys_only else value
            rows.append(Row(key[len(self._prefix) :], value_asked_for, modified_revision))
        return rows, bool(stored_rows) and self._has_rows_after(stored_rows[-1][0], last)

    def _has_rows_after(self, key: bytes, end: bytes) -> bool:
        return bool(self._engine.scan(key + b"\x00", end, 1, 1))


def _check_size(rows: Sequence[bytes | None], bytes_max: int | None) -> None:
    if bytes_max is not None and sum(map(len, filter(None, rows))) > bytes_max:
        raise InvalidArgument(f"the values together exceed {bytes_max} bytes; ask for fewer keys")
