"""The engine on disk: RocksDB through ``rocksdict``, its own log off (DESIGN section 7).

What survives a crash is a prefix of the writes: all up to some point, at least up to the
last :meth:`RocksEngine.flush`. One column family, so that no part of a write batch can be
flushed without the rest. The write-ahead log of the node replays what is missing.

Facts about ``rocksdict`` that this module is built on (each has a test):

* An iterator is a consistent snapshot of the moment it was made. ``Rdict.snapshot()`` is
  not: *its* iterators see later writes.
* ``ReadOptions.set_iterate_upper_bound`` keeps no copy: with the bound's bytes freed, an
  iterator ends anywhere. So ours compare keys themselves.
* Iterators end silently at a damaged block; only ``status()`` tells.
* Any failure is a bare ``Exception``. A write batch is used up even if its write failed, so
  ours keeps the operations and can be written again.
* After a full disk RocksDB refuses writes until a flush succeeds, and resumes by itself a
  few seconds after there is room.
* The directory stays locked until the last iterator is gone.
"""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteOptions,
)
from rocksdict import WriteBatch as NativeBatch

from kvstore.errors import CorruptionError, DataDirectoryError, DiskFull, Internal, KVError
from kvstore.kv.row_cache import RowCache
from kvstore.storage.files import OsFiles, make_directory
from kvstore.storage.rocks_tables import ReplacementByTables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kvstore.config import EngineConfig
    from kvstore.kv.engine import WriteBatch

BLOOM_BITS_PER_KEY = 10
METADATA_BLOCK_BYTES = 4 << 10
"""Of a table's filter and index so much is read at a time. As one block each they would be of
megabytes where rows are small, too large for a part of the block cache, and so read for each row:
to get one key among ten million took a millisecond instead of 10 µs. And to end a table, which
holds the interpreter's lock, would take several times as long."""
MEMTABLE_PARTS = 8
"""So many make up the bytes that recent writes may take."""
MEMTABLES_MAX = 16
"""One is written, the others wait for their flush; beyond that RocksDB makes writers wait, and the
loop with them. So twice as many as usual: a burst may take longer to flush than to come."""
MEMTABLES_MERGED = 4
"""Flushed as one file. Several small ones stay in the processor's caches better than a large one:
a put costs half as much."""
BYTES_PER_SYNC = 1 << 20
"""Of a table that is written so much goes to the disk at a time: the log's syncs wait for what is
on its way."""
READ_AHEAD_BYTES = 256 << 10
"""Of rows that are read once, from front to back."""
OPEN_FILES_MAX = 256
"""Tables held open; another one is opened in the place of that not used for longest."""
MEMTABLE_BLOOM_RATIO = 0.1
"""Of a memtable's size: a key is looked for only in those that may have it."""

_DAMAGED_BLOCK = re.compile(r" in (\S+) offset (\d+)")
_FILE_TOO_SHORT = re.compile(r"(\S+\.sst)\. Expected \d+, actual size (\d+)")
_ANY_FILE = re.compile(r"(/\S*/(?:\d+\.sst|MANIFEST-\d+|CURRENT))\b")
_NO_ACCESS = ("Permission denied", "Operation not permitted", "Too many open files")
"""What says nothing about the data."""
_NO_ROOM = ("No space left on device", "Disk quota exceeded", "Space limit reached")


class _RangeEnd(bytes):
    """The end of a deleted range, where a put has its value."""


class RocksBatch:
    """Operations of one atomic write, in order; may be written again if the write failed."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Set ``key``."""
        self.operations.append((key, value))

    def delete(self, key: bytes) -> None:
        """Remove ``key`` if it is there."""
        self.operations.append((key, None))

    def update(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Set each of ``rows``, or remove those where there is None."""
        self.operations.extend(rows.items())

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove every key in ``[start, end)``."""
        self.operations.append((start, _RangeEnd(end)))

    def to_native(self) -> NativeBatch:
        """The same operations as RocksDB takes them, once."""
        native = NativeBatch(raw_mode=True)
        put = native.put
        for key, value in self.operations:
            if value is None:
                native.delete(key)
            elif value.__class__ is _RangeEnd:
                native.delete_range(key, bytes(value))
            else:
                put(key, value)
        return native


def _check_pointer(path: Path) -> None:
    """RocksDB takes a directory without a ``CURRENT`` for a new one, whatever else is there.

    Raises:
        CorruptionError: there is a table, so there was one.
    """
    pointer = path / "CURRENT"
    if not pointer.exists() and any(path.glob("*.sst")):
        raise CorruptionError(
            "the engine's pointer to its manifest is missing", file=str(pointer), offset=0
        )


class RocksEngine:
    """One RocksDB in a directory of its own. Reads and writes may come from any thread."""

    def __init__(
        self, path: Path, config: EngineConfig, *, open_files_max: int = OPEN_FILES_MAX
    ) -> None:
        """Open or create it.

        Args:
            path: Its directory.
            config: Sizes.
            open_files_max: Tables that it may hold open.

        Raises:
            DataDirectoryError: another process (or this one) has it open.
            CorruptionError: a file of it is damaged or missing.
            DiskFull: no room even to open.
        """
        self._path: Final = path
        self.row_cache = RowCache(bytes_max=config.row_cache_bytes)
        self._write_options = WriteOptions()
        # A property, whatever the stubs say.
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]
        make_directory(OsFiles(), path)
        _check_pointer(path)
        self._replacing: Final = path / "replacing"
        shutil.rmtree(self._replacing, ignore_errors=True)
        self._options = _options(config, open_files_max)
        try:
            # Named again for the one column family: else those that RocksDB wrote down when it
            # was last open are used, without filters, and with a cache of its own size.
            families = {"default": self._options}
            self._db = Rdict(str(path), self._options, column_families=families)
        except Exception as error:
            raise self._open_error(error) from error
        self._db.set_write_options(self._write_options)

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None.

        Raises:
            CorruptionError: the block that holds it is damaged or cannot be read.
        """
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise self._damage(error) from error
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key, or None, in the order asked.

        Raises:
            CorruptionError: a block that holds one of them is damaged or cannot be read.
        """
        try:
            values: list[bytes | None] = self._db.get(keys)  # type: ignore[assignment, arg-type]
        except Exception as error:
            raise self._damage(error) from error
        return values

    def scan(
        self, start: bytes, end: bytes, limit: int, bytes_max: int
    ) -> list[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` in key order: at most ``limit``, about ``bytes_max`` bytes.

        At least one row, if there is any.

        Raises:
            CorruptionError: a block on the way is damaged.
        """
        found: list[tuple[bytes, bytes]] = []
        size = 0
        if limit <= 0:
            return found
        for row in self.snapshot_rows(start, end):
            size += len(row[0]) + len(row[1])
            if found and size > bytes_max:
                break
            found.append(row)
            if len(found) == limit:
                break
        return found

    def batch(self) -> RocksBatch:
        """An empty batch."""
        return RocksBatch()

    def write(self, batch: WriteBatch) -> None:
        """Apply all of ``batch`` or nothing; durable after the next :meth:`flush`.

        Raises:
            DiskFull: an earlier flush found no room; the same batch may be written again.
            Internal: RocksDB refuses writes for another reason.
        """
        assert isinstance(batch, RocksBatch)
        try:
            self._db.write(batch.to_native(), self._write_options)
        except Exception as error:
            raise self._error(error) from error

    def snapshot_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of ``[start, end)`` in key order as they are at this call.

        The iterator pins that state (memory and files) until it is exhausted or dropped; it
        may be used in another thread, by one at a time.

        Raises:
            CorruptionError: while iterating, at a block that is damaged or cannot be read.
        """
        return self._rows(ReadOptions(), start, end)

    def stream_rows(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The same for what is read once: it takes nobody's place in the cache."""
        options = ReadOptions()
        options.fill_cache(False)  # type: ignore[call-arg]  # the stubs lack it
        options.set_readahead_size(READ_AHEAD_BYTES)
        return self._rows(options, start, end)

    def _rows(
        self, options: ReadOptions, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            native = self._db.iter(options)
        except Exception as error:
            raise self._damage(error) from error
        return self._iterate(native, start, end)

    def _iterate(
        self, native: RdictIter, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        native.seek(start)
        while native.valid():
            key = native.key()
            if key >= end:
                break
            yield key, native.value()
            native.next()
        try:
            native.status()
        except Exception as error:
            raise self._damage(error) from error

    def flush(self) -> None:
        """Make everything written so far durable. Blocks: call it in a thread.

        Raises:
            DiskFull: no room; nothing is lost, and writes are refused until there is.
            Internal: the disk fails.
        """
        try:
            self._db.flush()
        except Exception as error:
            raise self._error(error) from error

    def replacing(self, start: bytes, end: bytes) -> ReplacementByTables:
        """Begin to put other rows in the place of all in ``[start, end)``; of one range once."""

        def empty() -> None:
            if self.scan(start, end, 1, 1):
                batch = self.batch()
                batch.delete_range(start, end)
                self.write(batch)
            self.flush()

        return ReplacementByTables(
            self._db,
            self._options,
            self._replacing / start.hex(),
            empty=empty,
            errors=self._as_ours,
        )

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._error(error) from error

    @property
    def size_bytes(self) -> int:
        """About how much live data there is on disk."""
        return int(self._db.property_int_value("rocksdb.estimate-live-data-size") or 0)

    def close(self) -> None:
        """Release the directory. RocksDB flushes before, if it can; blocks as :meth:`flush`."""
        self._db.close()

    def _error(self, error: Exception) -> KVError:
        """What a failed write means."""
        text = _in_one_line(error)
        if any(reason in text for reason in _NO_ROOM):
            return DiskFull(f"the engine has no room on the disk: {text}")
        if text.startswith("Corruption"):
            return self._damage(error)
        return Internal(f"the engine failed: {text}")

    def _damage(self, error: Exception) -> CorruptionError | Internal:
        """What a failed read means: the disk does not give back what was written to it.

        Unless the reason is another one, which must not be answered by a repair.
        """
        text = _in_one_line(error)
        if any(reason in text for reason in _NO_ACCESS):
            return Internal(f"the engine cannot be read: {text}")
        place = _DAMAGED_BLOCK.search(text) or _FILE_TOO_SHORT.search(text)
        if place:
            return CorruptionError(text, file=place[1], offset=int(place[2]))
        place = _ANY_FILE.search(text)
        return CorruptionError(text, file=place[1] if place else str(self._path), offset=0)

    def _open_error(self, error: Exception) -> KVError:
        text = _in_one_line(error)
        if any(reason in text for reason in _NO_ACCESS):
            return DataDirectoryError(f"{self._path} cannot be opened: {text}")
        if "LOCK" in text:
            return DataDirectoryError(f"{self._path} is in use by another process: {text}")
        if "No such file" in text:
            return self._damage(error)
        return self._error(error)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _options(config: EngineConfig, open_files_max: int) -> Options:
    """Small and steady: every cache and buffer has a bound, none grows with the data."""
    table = BlockBasedOptions()
    table.set_block_cache(Cache(config.block_cache_bytes))
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(METADATA_BLOCK_BYTES)
    table.set_pin_top_level_index_and_filter(True)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(config.memtable_bytes // MEMTABLE_PARTS)
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_min_write_buffer_number_to_merge(MEMTABLES_MERGED)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO)
    options.set_bytes_per_sync(BYTES_PER_SYNC)
    options.set_max_background_jobs(config.background_jobs)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_open_files(open_files_max)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1024 * 1024)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_paranoid_checks(True)
    return options
