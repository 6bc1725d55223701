"""Other rows for a range of a RocksDB, as tables that are written beside it and then taken in.

Of the ways to load much this costs least: nothing goes through the memtables, and where the range
was empty the tables go straight to the lowest level, never to be compacted. What other writers do
meanwhile is not held up by a flush.

A fact about ``rocksdict`` that this module is built on (it has a test): a table that was taken in
is durable without a flush. And as measured: to end a table and to take it in holds the
interpreter's lock, some 5 ms for a million rows each. Hence one after the other: in between others
have their turn.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from rocksdict import IngestExternalFileOptions, SstFileWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rocksdict import Options, Rdict

    from kvstore.storage.replacement import Row

TABLE_BYTES: Final = 64 << 20
"""Of the first ones."""
TABLES_OF_A_SIZE: Final = 4
"""Then their size doubles: where they overlap with older ones they begin in the highest level, and
many there make writers wait."""


class ReplacementByTables:
    """Invariant: the names in ``_paths`` are of all tables, the open one last."""

    is_aside = True

    def __init__(
        self,
        db: Rdict,
        options: Options,
        directory: Path,
        *,
        empty: Callable[[], None],
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Write into ``directory``, in which nothing else is.

        Args:
            db: What takes them in.
            options: As it was opened with.
            directory: On the same disk.
            empty: Removes all rows of the range, and flushes.
            errors: Turns those of RocksDB into ours.
        """
        self._db = db
        self._options = options
        self._directory = directory
        self._empty = empty
        self._errors = errors
        self._writer: SstFileWriter | None = None
        self._written_bytes = 0
        self._paths: list[str] = []
        self.abandon()  # what an earlier attempt has left

    def add(self, rows: Iterable[Row]) -> None:
        """Write them into the table that is open."""
        with self._errors():
            writer = self._writer or self._begin()
            for key, value in rows:
                writer[key] = value
                self._written_bytes += len(key) + len(value)
            doublings = (len(self._paths) - 1) // TABLES_OF_A_SIZE
            if self._written_bytes >= TABLE_BYTES << doublings:
                self._end()

    def complete(self) -> None:
        """End the last table."""
        with self._errors():
            self._end()

    def finish(self) -> None:
        """Take all tables in; the range is half replaced meanwhile."""
        self.complete()
        self._empty()
        for path in self._paths:
            self._take_in(path)
        self.abandon()

    def abandon(self) -> None:
        """Remove the tables."""
        self._writer = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _begin(self) -> SstFileWriter:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = str(self._directory / f"{len(self._paths)}.sst")
        self._writer = writer = SstFileWriter(self._options)
        writer.open(path)
        self._paths.append(path)
        self._written_bytes = 0
        return writer

    def _take_in(self, path: str) -> None:
        how = IngestExternalFileOptions()
        how.set_move_files(True)
        with self._errors():
            self._db.ingest_external_file([path], how)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.finish()
            self._writer = None
