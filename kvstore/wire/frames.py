"""Frames: how a stream of bytes is cut into messages (DESIGN section 8).

A frame is ``length u32 BE | kind u8 | flags u8 | request u64 BE | body``; ``length`` counts
everything after itself, so it is at least 10. ``flags`` is 0 in protocol version 1.

Rules:

* a length is checked as soon as its four bytes are there, before anything is stored for it:
  memory follows what has arrived, never what a header promises;
* every byte is copied a fixed number of times, however small the pieces it comes in.
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

from kvstore.errors import ProtocolError

_HEADER = struct.Struct(">IBBQ")
_LENGTH = struct.Struct(">I")
HEADER_BYTES = _HEADER.size
"""Bytes of a frame before its body, the length field included."""
_LENGTH_BYTES = _LENGTH.size
_LENGTH_MIN = HEADER_BYTES - _LENGTH_BYTES


class Frame(NamedTuple):
    """One received frame. A tuple, because servers make hundreds of thousands a second."""

    kind: int
    """A :class:`kvstore.wire.kinds.Kind`, or a number this version does not know."""
    flags: int
    request: int
    """Chosen by whoever asks and repeated in the answer; 0 is the connection itself."""
    body: bytes


def encode_frame(kind: int, request: int, body: bytes, flags: int = 0) -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(_LENGTH_MIN + len(body), kind, flags, request) + body


def decode_header(frame: bytes) -> tuple[int, int]:
    """The ``(kind, request)`` of an encoded frame."""
    _, kind, _, request = _HEADER.unpack_from(frame)
    return kind, request


class FrameDecoder:
    """Cuts what arrives into frames.

    Invariant between calls: ``_partial`` holds the beginning of exactly one frame, whose
    length, if it is there, is within bounds; or there is an ``error``, and nothing is held; or
    ``_rest`` is what was not looked at yet, from ``_start`` on, and ``_partial`` is empty.
    """

    __slots__ = ("_need", "_partial", "_rest", "_start", "error", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        """The largest ``length`` accepted; may be changed between calls."""
        self.error: ProtocolError | None = None
        """Set once the stream holds a length that cannot be. What came before it was still
        good and is returned; what follows is not looked at any more."""
        self._partial = bytearray()
        self._need = 0
        self._rest = b""
        self._start = 0

    @property
    def buffered_bytes(self) -> int:
        """How much is held: of a frame that is not complete, or of what is not yet cut."""
        return len(self._partial) + len(self._rest)

    @property
    def is_behind(self) -> bool:
        """Whether something was not looked at yet: see :meth:`more`."""
        return bool(self._rest)

    def feed(self, data: bytes, frames_max: int = sys.maxsize) -> list[Frame]:
        """Take the next bytes of the stream and return the frames they complete.

        Look at ``error`` afterwards: it does not depend on how the stream is cut whether a
        good frame before a bad length is returned. Beyond ``frames_max`` of them nothing is
        looked at until :meth:`more` is called.
        """
        if self.error is not None:
            return []
        if self._rest:
            data = self._rest[self._start :] + data
        elif self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial = bytearray()
        return self._cut(data, 0, frames_max)

    def more(self, frames_max: int) -> list[Frame]:
        """The next frames of what was fed before, at most so many."""
        return self._cut(self._rest, self._start, frames_max)

    def _cut(self, data: bytes, start: int, frames_max: int) -> list[Frame]:
        """The complete frames of ``data`` from ``start`` on; keeps what follows them."""
        frames: list[Frame] = []
        size = len(data)
        self._rest = b""
        new = tuple.__new__  # a NamedTuple's own __new__ costs twice as much
        while size - start >= HEADER_BYTES:
            if len(frames) >= frames_max:
                self._rest, self._start = data, start
                return frames
            length, kind, flags, request = _HEADER.unpack_from(data, start)
            if not _LENGTH_MIN <= length <= self.frame_bytes_max:
                break
            end = start + _LENGTH_BYTES + length
            if end > size:
                break
            frames.append(new(Frame, (kind, flags, request, data[start + HEADER_BYTES : end])))
            start = end
        if start < size:
            self._keep(data, start)
        return frames

    def _keep(self, data: bytes, start: int) -> None:
        """Hold the beginning of a frame, and know how many bytes complete its next step.

        The one place where a bad length is found out.
        """
        self._partial += memoryview(data)[start:]
        self._need = _LENGTH_BYTES
        if len(self._partial) >= _LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(self._partial)
            self._need = _LENGTH_BYTES + length
            if not _LENGTH_MIN <= length <= self.frame_bytes_max:
                self.error = ProtocolError(
                    f"frame length {length} is not within {_LENGTH_MIN} to {self.frame_bytes_max}"
                )
                self._partial = bytearray()
