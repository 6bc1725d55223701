"""The file that makes a staged snapshot a complete one (see :mod:`kvstore.storage.snapshots`).

::

    manifest = "KVSM" version:u8 index:u64 term:u64 size:u64 config crc:u32

All numbers are big-endian; ``config`` is encoded as in the log, ``crc`` is the CRC-32C of all
before it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crc32c import crc32c

from kvstore.errors import CorruptionError
from kvstore.ids import LogIndex, Term
from kvstore.raft import confchange
from kvstore.raft.messages import SnapshotMeta

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1
_MAGIC = b"KVSM"
_HEAD = struct.Struct(">4sBQQQ")
_CRC = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a complete staged snapshot stands for, and how long its file is."""

    meta: SnapshotMeta
    size: int

    def encode(self) -> bytes:
        """The content of the file."""
        meta = self.meta
        head = _HEAD.pack(_MAGIC, FORMAT_VERSION, meta.index, meta.term, self.size)
        body = head + confchange.encode(meta.config)
        return body + _CRC.pack(crc32c(body))

    @classmethod
    def decode(cls, data: bytes, file: str) -> Manifest:
        """The inverse of :meth:`encode`.

        Raises:
            CorruptionError: damaged, or of a newer format; names ``file``.
        """
        body, crc = data[: -_CRC.size], data[-_CRC.size :]
        if len(body) < _HEAD.size or crc != _CRC.pack(crc32c(body)):
            raise CorruptionError("a snapshot's manifest is damaged", file=file, offset=0)
        magic, version, index, term, size = _HEAD.unpack_from(body)
        if (magic, version) != (_MAGIC, FORMAT_VERSION):
            raise CorruptionError(
                f"a snapshot's manifest has format {version}, this version knows {FORMAT_VERSION}",
                file=file,
                offset=0,
            )
        try:
            config = confchange.decode(body[_HEAD.size :])
        except ValueError as error:
            raise CorruptionError(str(error), file=file, offset=_HEAD.size) from error
        return cls(SnapshotMeta(LogIndex(index), Term(term), config), size)

    def check_size(self, staging: Path) -> None:
        """Refuse a staged file that is not there or not as long as it was.

        Raises:
            CorruptionError: names the file.
        """
        size = staging.stat().st_size if staging.exists() else 0
        if size != self.size:
            raise CorruptionError(
                f"a staged snapshot should have {self.size} bytes", file=str(staging), offset=size
            )
