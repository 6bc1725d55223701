"""A shard's state as one stream of bytes: what is sent, staged in a file and installed.

::

    stream  = "KVSN" version:u8  block*  end
    block   = length:u32 crc:u32 body          length > 0, of the body
    body    = ( key_length:u32 value_length:u32 key value )*
    end     = 0:u32 crc:u32 rows:u64

All numbers are big-endian. Each crc is a CRC-32C continued from the one before it, over the
body, in the end over the number of rows: so a stream that is damaged, cut short, or has lost,
swapped or repeated a block is refused. Keys stand without the shard's prefix.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from crc32c import crc32c

from kvstore.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT_VERSION = 1
BLOCK_BYTES = 64 * 1024
"""A block is closed once its body has so many bytes; a large row makes a larger one."""

_OPENING = b"KVSN" + bytes([FORMAT_VERSION])
_BLOCK = struct.Struct(">II")
_ROW = struct.Struct(">II")
_END = struct.Struct(">Q")

Row = tuple[bytes, bytes]


def encode(rows: Iterable[Row]) -> Iterator[bytes]:
    """The stream of ``rows``, in pieces of about :data:`BLOCK_BYTES`."""
    yield _OPENING
    crc, count = crc32c(_OPENING), 0
    parts: list[bytes] = []
    size = 0
    for key, value in rows:
        parts += (_ROW.pack(len(key), len(value)), key, value)
        size += _ROW.size + len(key) + len(value)
        count += 1
        if size >= BLOCK_BYTES:
            body = b"".join(parts)
            crc = crc32c(body, crc)
            yield _BLOCK.pack(size, crc) + body
            parts, size = [], 0
    if parts:
        body = b"".join(parts)
        crc = crc32c(body, crc)
        yield _BLOCK.pack(size, crc) + body
    end = _END.pack(count)
    yield _BLOCK.pack(0, crc32c(end, crc)) + end


def check(file: BinaryIO, name: str) -> None:
    """Read the whole stream and let it pass or not.

    Raises:
        CorruptionError: it is damaged, cut short, or followed by something else.
    """
    for _ in decode(file, name):
        pass


def decode(file: BinaryIO, name: str) -> Iterator[list[Row]]:
    """The rows of the stream in ``file``, block by block.

    Only when this ends without an error was the stream complete; each block by itself is
    already checked when it is yielded.

    Args:
        file: at the stream's beginning; its end is the stream's end.
        name: what an error calls the file.

    Raises:
        CorruptionError: it is damaged, cut short, or followed by something else.
    """
    stream = _Stream(file, name)
    if stream.take(len(_OPENING)) != _OPENING:
        raise stream.damaged(f"not a snapshot of format {FORMAT_VERSION}")
    crc, count = crc32c(_OPENING), 0
    while True:
        length, expected = _BLOCK.unpack(stream.take(_BLOCK.size))
        body = stream.take(length or _END.size)
        crc = crc32c(body, crc)
        if crc != expected:
            raise stream.damaged("a block fails its checksum")
        if length == 0:
            break
        rows = _rows_of(body, stream)
        count += len(rows)
        yield rows
    if _END.unpack(body)[0] != count:
        raise stream.damaged(f"it has {count} rows and should have {_END.unpack(body)[0]}")
    if file.read(1):
        raise stream.damaged("something follows the end")


class _Stream:
    """Exact reads from a file, of which the offset is known."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._offset = 0
        self._left = file.seek(0, 2)
        file.seek(0)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; a false length never makes memory be reserved for it."""
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise self.damaged("it is cut short")
        self._offset += size
        self._left -= size
        return data

    def damaged(self, what: str) -> CorruptionError:
        """The error for what was found before here."""
        return CorruptionError(f"snapshot: {what}", file=self._name, offset=self._offset)


def _rows_of(body: bytes, stream: _Stream) -> list[Row]:
    rows: list[Row] = []
    at, end = 0, len(body)
    while at < end:
        if at + _ROW.size > end:
            raise stream.damaged("a row does not fit its block")
        key_length, value_length = _ROW.unpack_from(body, at)
        key_at = at + _ROW.size
        value_at = key_at + key_length
        at = value_at + value_length
        if at > end:
            raise stream.damaged("a row does not fit its block")
        rows.append((body[key_at:value_at], body[value_at:at]))
    return rows
