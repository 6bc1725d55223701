"""Whoever connects to a node and does not play by the rules."""

from __future__ import annotations

import asyncio
from collections import deque
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


class Stranger(asyncio.Protocol):
    """A raw connection: whatever bytes, and the frames that come back.

    Hears all that came before a reset; an ``asyncio.StreamReader`` would throw it away.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._decoder = FrameDecoder(LIMITS.frame_bytes_max)
        self._frames: deque[Frame] = deque()
        self._is_over = False
        self._news = asyncio.Event()

    # -- called by the event loop ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._frames += self._decoder.feed(data)
        self._news.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._is_over = True
        self._news.set()

    # -- what a stranger does -------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def stop_reading(self) -> None:
        """From now on whatever the node says stays in the sockets' buffers."""
        self._transport.pause_reading()

    def read_on(self) -> None:
        self._transport.resume_reading()

    def cut(self) -> None:
        self._transport.abort()

    async def frame(self) -> Frame | None:
        """The next frame, None once the node has closed."""
        async with asyncio.timeout(WAIT_S):
            while not self._frames and not self._is_over:
                self._news.clear()
                await self._news.wait()
        return self._frames.popleft() if self._frames else None

    async def error(self) -> tuple[int, errors.KVError]:
        """The next frame, which must be an error: the request it is about, and what it says."""
        frame = await self.frame()
        assert frame is not None, "closed without a word"
        assert frame.kind == Kind.ERROR, frame
        return frame.request, decode_error(bytes(frame.body))

    async def is_closed(self) -> bool:
        return await self.frame() is None

    async def greet(self, hello: Hello = HELLO) -> None:
        assert await self.is_let_in(hello), "closed without a word"

    async def is_let_in(self, hello: Hello) -> bool:
        """Whether the node says welcome; the other thing it may do is hang up."""
        self.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
        frame = await self.frame()
        assert frame is None or frame.kind == Kind.WELCOME, frame
        return frame is not None

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
    loop = asyncio.get_running_loop()
    _, stranger = await loop.create_connection(Stranger, host, int(port))
    try:
        yield stranger
    finally:
        stranger.cut()
