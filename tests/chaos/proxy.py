"""The network between the processes: one listener for each pair, through which all traffic goes.

A node's configuration names, for every other node, the address of its proxy to that node. A
node sends only on connections that it dialled itself, so cutting ``a > b`` silences what a
says to b, and nothing else. Clients learn such addresses too, from the shard map; the hello
that opens each connection tells them apart, and cuts between nodes do not touch them.

A cut swallows nothing and closes nothing: bytes stay where they are, as when packets are
lost, and flow on when it is healed. What waits is bounded by the sockets' own buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

from kvstore.errors import KVError
from kvstore.wire.frames import FrameDecoder
from kvstore.wire.hello import HELLO_FRAME_BYTES_MAX, decode_hello

PIECE_BYTES = 64 * 1024
HELLO_WAIT_S = 10.0


@dataclass(eq=False)
class Link:
    """From ``source`` (a node, or ``clients``) to a node; what is done to its traffic."""

    source: str
    target: str
    target_port: int
    rng: random.Random
    is_cut: bool = False
    delay_s: float = 0.0
    resets_per_piece: float = 0.0
    """How often a connection between nodes is reset."""
    replies_swallowed: bool = False
    """Clients' requests pass; instead of a reply the connection is reset."""
    port: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _healed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def heal(self) -> None:
        self.is_cut = self.replies_swallowed = False
        self.delay_s = self.resets_per_piece = 0.0
        self._healed.set()

    def cut(self) -> None:
        self.is_cut = True
        self._healed.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end or a fault closes it."""
        with contextlib.ExitStack() as closing:
            closing.callback(writer.transport.abort)
            try:
                opening, is_peer = await self._opening(reader)
                onward, back = await self._dial()
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                return
            closing.callback(back.transport.abort)
            back.write(opening)
            ways = [
                asyncio.ensure_future(self._carry(reader, back, is_peer, to_node=True)),
                asyncio.ensure_future(self._carry(onward, writer, is_peer, to_node=False)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.target_port)

    async def _opening(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        """The bytes up to the hello, and whether a node said it."""
        decoder, opening = FrameDecoder(HELLO_FRAME_BYTES_MAX), b""
        async with asyncio.timeout(HELLO_WAIT_S):
            while True:
                piece = await reader.read(PIECE_BYTES)
                if not piece:
                    raise ConnectionResetError
                opening += piece
                frames = decoder.feed(piece)
                if frames or decoder.error is not None:
                    return opening, _is_peer(frames[0].body if frames else b"")

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_peer: bool,
        *,
        to_node: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                if is_peer and self.is_cut:
                    self.counts["held"] += 1
                    await self._healed.wait()
                if is_peer and self.rng.random() < self.resets_per_piece:
                    self.counts["reset"] += 1
                    return
                if not is_peer and not to_node and self.replies_swallowed:
                    self.counts["swallowed"] += 1
                    return
                if is_peer and self.delay_s:
                    self.counts["delayed"] += 1
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()


def _is_peer(body: bytes) -> bool:
    try:
        return decode_hello(body).role == "peer"
    except KVError:
        return False
