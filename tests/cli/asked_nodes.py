"""Nodes that shake hands and answer what a test wants them to, for commands that ask one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kvstore.errors import KVError
from kvstore.ids import NodeId, Revision
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame
from kvstore.wire.hello import Welcome, encode_welcome
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import encode_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Question:
    """One request, to be answered now or later."""

    def __init__(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        self.kind, self.body = Kind(frame.kind), frame.body
        self._request = frame.request
        self._writer = writer

    def answer(self, said: bytes | KVError) -> None:
        if isinstance(said, KVError):
            self._writer.write(encode_frame(Kind.ERROR, self._request, encode_error(said)))
        else:
            self._writer.write(encode_frame(Kind.REPLY, self._request, said))


class AskedNode:
    """Listens, and hands on every question but pings."""

    def __init__(self, name: str, ask: Callable[[Question], None]) -> None:
        self.name = NodeId(name)
        self._ask = ask
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        """Its address; at the end its process has died."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        try:
            yield "{}:{}".format(*server.sockets[0].getsockname())
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        decoder = FrameDecoder(1 << 20)
        try:
            while data := await reader.read(1 << 16):
                for frame in decoder.feed(data):
                    self._take(frame, writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        if frame.kind == Kind.HELLO:
            welcome = Welcome("c", self.name, 1, 1_700_000_000_000, Revision(1), "fake")
            writer.write(encode_frame(Kind.WELCOME, 0, encode_welcome(welcome)))
        elif frame.kind == Kind.PING:
            writer.write(encode_frame(Kind.PONG, frame.request, b""))
        else:
            self._ask(Question(frame, writer))


async def nobody() -> str:
    """An address at which nobody listens."""
    async with AskedNode("x", lambda question: None).listening() as address:
        return address
