"""Writes whose answer a fault has cut off, and whether they were asked for again.

A client sends a write again with the same bytes, which name its session and its number in
it; so it is recognised on whatever connection it comes.
"""

from __future__ import annotations

from kvstore.config import LimitsConfig
from kvstore.errors import InvalidArgument
from kvstore.wire.frames import FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_write

CUT_OFF_MAX = 4096
"""Writes remembered; beyond, the oldest is forgotten."""


class Retries:
    """What all clients' connections have in common."""

    def __init__(self) -> None:
        self._cut_off: dict[bytes, None] = {}
        self.retried = 0
        """Writes that came again although a node had answered them."""

    def lost_its_answer(self, batch: bytes) -> None:
        self._cut_off[batch] = None
        if len(self._cut_off) > CUT_OFF_MAX:
            del self._cut_off[next(iter(self._cut_off))]

    def sent(self, batch: bytes) -> None:
        if batch in self._cut_off:
            del self._cut_off[batch]
            self.retried += 1


class Tap:
    """Listens to one client's connection."""

    def __init__(self, retries: Retries) -> None:
        frame_bytes_max = LimitsConfig().frame_bytes_max
        self._retries = retries
        self._requests = FrameDecoder(frame_bytes_max)
        self._answers = FrameDecoder(frame_bytes_max)
        self._batches: dict[int, bytes] = {}
        """Of writes that wait for an answer, by request."""

    def to_node(self, piece: bytes) -> None:
        for frame in self._requests.feed(piece):
            if frame.kind == Kind.WRITE:
                try:
                    batch = decode_write(frame.body).batch
                except InvalidArgument:
                    continue  # the node's to refuse
                self._batches[frame.request] = batch
                self._retries.sent(batch)

    def to_client(self, piece: bytes, *, is_swallowed: bool) -> bool:
        """Whether an answer to a write was in the piece, or was completed by it."""
        found = False
        for frame in self._answers.feed(piece):
            batch = self._batches.pop(frame.request, None)
            if batch is not None and frame.kind == Kind.REPLY:
                found = True
                if is_swallowed:
                    self._retries.lost_its_answer(batch)
        return found
