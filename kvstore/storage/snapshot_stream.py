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
    yield from Decoder(name).blocks(file, file.seek(0, 2), is_whole=True)


class Decoder:
    """Decodes a stream while its file grows."""

    def __init__(self, name: str) -> None:
        """``name`` is what an error calls the file."""
        self._stream = _Stream(name)
        self._crc = 0
        self._count = 0
        self._head: tuple[int, int] | None = None
        """Of the block to come: its length and checksum, if they were read."""
        self._is_open = False
        self._is_over = False

    def blocks(self, file: BinaryIO, size_bytes: int, *, is_whole: bool) -> Iterator[list[Row]]:
        """The rows of each block that ends in the first ``size_bytes`` of ``file`` and is new.

        Raises:
            CorruptionError: the stream is damaged; or it ``is_whole``, and is cut short or
                followed by something else.
        """
        stream = self._stream
        stream.read_on(file, size_bytes, is_whole=is_whole)
        if not self._is_open:
            self._open()
        while self._is_open and not self._is_over:
            rows = self._block()
            if rows is None:
                break
            yield rows
        if is_whole and stream.left:
            raise stream.damaged("something follows the end")

    def _open(self) -> None:
        opening = self._stream.take(len(_OPENING))
        if opening is None:
            return
        if opening != _OPENING:
            raise self._stream.damaged(f"not a snapshot of format {FORMAT_VERSION}")
        self._crc, self._is_open = crc32c(opening), True

    def _block(self) -> list[Row] | None:
        """The next one; None if it is not all there, or if it is the end."""
        stream = self._stream
        if self._head is None:
            head = stream.take(_BLOCK.size)
            if head is None:
                return None
            self._head = _BLOCK.unpack(head)
        length, expected = self._head
        body = stream.take(length or _END.size)
        if body is None:
            return None
        self._head = None
        self._crc = crc32c(body, self._crc)
        if self._crc != expected:
            raise stream.damaged("a block fails its checksum")
        if length:
            rows = _rows_of(body, stream)
            self._count += len(rows)
            return rows
        self._is_over = True
        if _END.unpack(body)[0] != self._count:
            raise stream.damaged(
                f"it has {self._count} rows and should have {_END.unpack(body)[0]}"
            )
        return None


class _Stream:
    """Exact reads from a file that may grow."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: BinaryIO
        self._offset = 0
        self._is_whole = False
        self.left = 0
        """Bytes that are there, and were not taken."""

    def read_on(self, file: BinaryIO, size_bytes: int, *, is_whole: bool) -> None:
        """The file has so many bytes now."""
        self._file = file
        self.left = size_bytes - self._offset
        self._is_whole = is_whole
        file.seek(self._offset)

    def take(self, size: int) -> bytes | None:
        """The next ``size`` bytes, or None if they may still come.

        A false length never makes memory be reserved for it.
        """
        if size > self.left and not self._is_whole:
            return None
        data = self._file.read(size) if size <= self.left else b""
        if len(data) != size:
            raise self.damaged("it is cut short")
        self._offset += size
        self.left -= size
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
