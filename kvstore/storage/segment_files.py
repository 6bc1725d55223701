"""How a segment file comes to be: under another name, complete, then renamed.

Its size, header and first batch (the checkpoint of :mod:`kvstore.storage.ledger`) are synced
before it gets its name: a crash leaves no half-made segment. Three names::

    0000000000000007.wal   segment 7
    spare                  preallocated for the next segment
    reserve                a small one, which becomes the next segment when there is room for
                           no other
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kvstore.storage import records
from kvstore.storage.files import sync, sync_directory
from kvstore.storage.records import BATCH_END, BATCH_HEAD_BYTES, SegmentHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvstore.config import WalConfig
    from kvstore.storage.files import Files

SPARE = "spare"
RESERVE = "reserve"
SEGMENT_NAME = re.compile(r"(\d{16})\.wal")
CLOSE_BYTES = BATCH_HEAD_BYTES
"""Kept free at the end of a segment, for the record that closes it."""


def segment_name(number: int) -> str:
    """The file name of segment ``number``."""
    return f"{number:016d}.wal"


def segment_paths(directory: Path) -> list[Path]:
    """The files in ``directory`` that are named as segments, in order; none if it is not there.

    Raises:
        OSError: it cannot be looked into, which says nothing about what is there.
    """
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(".wal"))
    except FileNotFoundError:
        return []


def batch_bytes(body_bytes: int) -> int:
    """How much of a segment a batch takes whose records have ``body_bytes``."""
    return BATCH_HEAD_BYTES + body_bytes + len(BATCH_END)


@dataclass(slots=True)
class Segment:
    """A segment and what is in it."""

    number: int
    path: Path
    used_bytes: int = 0
    last_index: dict[int, int] = field(default_factory=dict)
    """The highest index of an entry in it that is not void, by group."""

    def is_covered(self, covered: Mapping[int, int]) -> bool:
        """Whether every entry in it is at or below its group's covered index."""
        return all(index <= covered.get(group, 0) for group, index in self.last_index.items())


@dataclass(slots=True)
class Active:
    """The segment being written. Invariant: all before ``segment.used_bytes`` is synced."""

    segment: Segment
    fd: int
    salt: int
    made_bytes: int
    zeroed_bytes: int = 0
    """Up to here the file has been written to before, be it with zeros."""

    @property
    def room(self) -> int:
        """Bytes that the batches to come may take."""
        return self.made_bytes - self.segment.used_bytes - CLOSE_BYTES


class SegmentFiles:
    """Makes segment files.

    Methods raise ``OSError`` when nothing was changed (for want of room, it may be tried
    again) and ``Internal`` when a sync failed (never to be tried again).
    """

    def __init__(
        self,
        directory: Path,
        files: Files,
        config: WalConfig,
        *,
        cluster_id: str,
        node_id: str,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.directory = directory
        self._files = files
        self._config = config
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._random_bits = random_bits
        self._spare = directory / SPARE
        self._reserve = directory / RESERVE
        self._spare_bytes = 0
        self.has_reserve = False

    def look_around(self) -> None:
        """At start: drop a half-made segment, see whether the reserve is there.

        It is made after the first segment: a reserve without segments means that they are gone.
        """
        self._spare.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.has_reserve = self._reserve.stat().st_size == self._config.reserve_bytes

    def is_prepared(self, *, spare: bool) -> bool:
        """Whether :meth:`prepare` has nothing to make."""
        return self.has_reserve and (not spare or bool(self._spare_bytes))

    def prepare(self, *, spare: bool) -> None:
        """Make the reserve, and the spare file too if ``spare``, unless they are there."""
        if not self.has_reserve:
            self._allocate(self._reserve, self._config.reserve_bytes)
            self.has_reserve = True
        if spare and not self._spare_bytes:
            self._allocate(self._spare, self._config.segment_bytes)
            self._spare_bytes = self._config.segment_bytes

    def start(
        self,
        number: int,
        first_sequence: int,
        checkpoint: Sequence[bytes],
        room: int,
        *,
        from_reserve: bool = False,
    ) -> Active:
        """Make segment ``number`` with room for ``room`` bytes of batches after the checkpoint."""
        used = records.segment_header_bytes(self._cluster_id, self._node_id) + batch_bytes(
            sum(map(len, checkpoint))
        )
        header = SegmentHeader(
            number=number,
            first_sequence=first_sequence,
            salt=self._random_bits(64) | 1,
            made_bytes=self._take(used + room + CLOSE_BYTES, from_reserve=from_reserve),
            cluster_id=self._cluster_id,
            node_id=self._node_id,
        )
        path = self.directory / segment_name(number)
        fd = self._files.open(self._spare)
        try:
            first_batch = records.encode_batch(header.salt, first_sequence, checkpoint)
            self._files.write(fd, [records.encode_segment_header(header), first_batch], 0)
            sync(self._files, fd, self._spare)
            self._files.rename(self._spare, path)
            sync_directory(self._files, self.directory)
        except BaseException:
            self._files.close(fd)
            raise
        return Active(Segment(number, path, used), fd, header.salt, header.made_bytes)

    def _take(self, needed: int, *, from_reserve: bool) -> int:
        """See to it that the spare file has at least ``needed`` bytes; the result is its size."""
        if from_reserve:
            if needed > self._config.reserve_bytes or not self.has_reserve:
                raise OSError(errno.ENOSPC, "the reserve is used up")
            self._files.rename(self._reserve, self._spare)
            self.has_reserve = False
            self._spare_bytes = 0  # one that was too small for what waits is replaced
            return self._config.reserve_bytes
        made_bytes, self._spare_bytes = self._spare_bytes, 0
        if made_bytes < needed:
            made_bytes = max(needed, self._config.segment_bytes)
            self._allocate(self._spare, made_bytes)
        return made_bytes

    def _allocate(self, path: Path, size: int) -> None:
        """Make ``path`` a file of ``size`` zeros whose size survives a crash."""
        fd = self._files.create(path)
        try:
            self._files.allocate(fd, size)
            sync(self._files, fd, path)
        except OSError:
            self._files.remove(path)
            raise
        finally:
            self._files.close(fd)
