"""Whoever connects to a node and does not play by the rules."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cluster_harness import WAIT_S

from kvstore import errors
from kvstore.config import LimitsConfig
from kvstore.kv import commands, replies
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame
from kvstore.wire.hello import Hello, encode_hello
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error, encode_write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kvstore.cli.launcher.node import Node

LIMITS = LimitsConfig()
HELLO = Hello(role="client", software="a stranger", wall_ms=0)


class Stranger:
    """A raw connection: whatever bytes, and the frames that come back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(LIMITS.frame_bytes_max)
        self._frames: list[Frame] = []

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def frame(self) -> Frame | None:
        """The next frame, None once the node has closed."""
        async with asyncio.timeout(WAIT_S):
            while not self._frames:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def error(self) -> tuple[int, errors.KVError]:
        """The next frame, which must be an error: the request it is about, and what it says."""
        frame = await self.frame()
        assert frame is not None, "closed without a word"
        assert frame.kind == Kind.ERROR, frame
        return frame.request, decode_error(bytes(frame.body))

    async def is_closed(self) -> bool:
        return await self.frame() is None

    async def greet(self, hello: Hello = HELLO) -> None:
        self.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
        frame = await self.frame()
        assert frame is not None
        assert frame.kind == Kind.WELCOME

    async def write(self, *to_run: tuple[int | bytes | None, ...]) -> errors.KVError:
        """One batch outside a session that must be refused; with what."""
        batch = commands.encode_batch(0, 0, 0, 0, list(to_run))
        self.send(encode_frame(Kind.WRITE, 7, encode_write((0, 0, len(to_run), batch))))
        frame = await self.frame()
        assert frame is not None
        assert frame.request == 7
        if frame.kind == Kind.ERROR:
            return decode_error(bytes(frame.body))
        answer = replies.decode_reply(bytes(frame.body), len(to_run))
        assert isinstance(answer, errors.KVError), answer
        return answer


@asynccontextmanager
async def calling(node: Node) -> AsyncIterator[Stranger]:
    """A connection to ``node``, which is cut at the end."""
    host, _, port = node.files.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()
