"""The network between the processes: one listener for each pair, through which all traffic goes.

A node's configuration names, for every other node, the address of its proxy to that node. A
node sends only on connections that it dialled itself, so a fault of ``a > b`` concerns what
a says to b, and nothing else. Clients have links of their own, and learn further addresses,
those of links between nodes, from the shard map; the hello that opens each connection tells
them apart, and a cut between nodes does not touch them. (A link that refuses, refuses all.)

A cut swallows nothing and closes nothing: bytes stay where they are, as when packets are
lost, and flow on when it is healed. What waits is bounded by the sockets' own buffers.

A link listens as long as its target does: whoever dials a dead process is refused, as without
a proxy, for that is how nodes notice a death at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

from chaos.listener import HOST, Listener
from chaos.retries import Retries, Tap
from kvstore.errors import KVError
from kvstore.wire.frames import FrameDecoder
from kvstore.wire.hello import HELLO_FRAME_BYTES_MAX, decode_hello

PIECE_BYTES = 64 * 1024
HELLO_WAIT_S = 10.0
POLL_INTERVAL_S = 0.04


@dataclass(eq=False)
class Link:
    """From ``source`` (a node, or ``clients``) to a node; what is done to its traffic."""

    source: str
    target: str
    target_port: int
    port: int
    rng: random.Random
    retries: Retries
    is_cut: bool = False
    is_refusing: bool = False
    delay_s: float = 0.0
    """The longest; each piece of a stream waits for some part of it."""
    bytes_per_s: float = float("inf")
    resets_per_piece: float = 0.0
    """How often a connection between nodes is reset."""
    replies_swallowed: bool = False
    """Clients' writes pass; instead of the reply the connection is reset."""
    counts: Counter[str] = field(default_factory=Counter)
    _healed: asyncio.Event = field(default_factory=asyncio.Event)
    _shut: asyncio.Event = field(default_factory=asyncio.Event)
    _following: asyncio.Task[None] | None = None
    _peers: set[asyncio.StreamWriter] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._listener = Listener(self.port, self._serve)

    # -- what faults do -----------------------------------------------------------------------

    def cut(self) -> None:
        self.is_cut = True
        self._healed.clear()

    def refuse(self) -> None:
        """Break the connections of the nodes and let nobody in, as a firewall that rejects."""
        self.is_refusing = True
        self._stop_listening()
        for writer in self._peers:
            writer.transport.abort()
        self.counts["refused"] += len(self._peers)

    def heal(self) -> None:
        self.is_cut = self.is_refusing = self.replies_swallowed = False
        self.delay_s = self.resets_per_piece = 0.0
        self.bytes_per_s = float("inf")
        self._healed.set()

    # -- listening ----------------------------------------------------------------------------

    def open(self) -> None:
        self._following = asyncio.get_running_loop().create_task(self._follow_target())

    async def close(self) -> None:
        """Raises what following the target or serving a connection failed with."""
        try:
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait([self._following])
        finally:
            await self._listener.close()
        if self._following is not None and not self._following.cancelled():
            self._following.result()

    async def _follow_target(self) -> None:
        """Listen while the target does."""
        while True:
            # Asked in this order: a fault may begin while the target is being dialled.
            if not await self._target_listens() or self.is_refusing:
                await asyncio.sleep(POLL_INTERVAL_S)
                continue
            self._shut.clear()
            self._listener.listen()
            await self._shut.wait()

    def _stop_listening(self) -> None:
        self._listener.stop_listening()
        self._shut.set()

    async def _target_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            return False
        writer.transport.abort()
        return True

    # -- one connection -----------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either end or a fault closes it."""
        with contextlib.ExitStack() as closing:
            try:
                opening, is_peer = await self._opening(reader)
                if is_peer:
                    self._peers.add(writer)
                    closing.callback(self._peers.discard, writer)
                    await self._held_by_cut()
                    if self.is_refusing:
                        return
                onward, back = await asyncio.open_connection(HOST, self.target_port)
            except ConnectionRefusedError:
                self._stop_listening()
                return
            except (OSError, TimeoutError):
                return
            closing.callback(back.transport.abort)
            back.write(opening)  # just made: it cannot be closing yet
            if is_peer:
                ways = [self._carry(reader, back), self._carry(onward, writer)]
            else:
                tap = Tap(self.retries)
                tap.to_node(opening)
                ways = [self._ask(reader, back, tap), self._answer(onward, writer, tap)]
            await _until_first_ends(*map(asyncio.ensure_future, ways))

    async def _opening(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        """The bytes up to the hello, and whether a node said it.

        Raises:
            OSError: the stream ended before.
        """
        decoder, opening = FrameDecoder(HELLO_FRAME_BYTES_MAX), b""
        async with asyncio.timeout(HELLO_WAIT_S):
            while True:
                piece = await reader.read(PIECE_BYTES)
                if not piece:
                    raise ConnectionResetError
                opening += piece
                frames = decoder.feed(piece)
                if frames or decoder.error is not None:
                    return opening, bool(frames) and _is_peer(frames[0].body)

    async def _held_by_cut(self) -> None:
        if self.is_cut:
            self.counts["held"] += 1
        while self.is_cut:  # it may be healed and cut again before this is resumed
            await self._healed.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way between nodes."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._held_by_cut()
                if self.rng.random() < self.resets_per_piece:
                    self.counts["reset"] += 1
                    return
                wait_s = self.delay_s * self.rng.random() + len(piece) / self.bytes_per_s
                if wait_s > 0:
                    self.counts["delayed"] += 1
                    await asyncio.sleep(wait_s)
                await _send(writer, piece)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: Tap
    ) -> None:
        """What a client says to a node."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                tap.to_node(piece)
                await _send(writer, piece)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tap: Tap
    ) -> None:
        """What a node says to a client."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                is_swallowed = self.replies_swallowed
                if tap.to_client(piece, is_swallowed=is_swallowed) and is_swallowed:
                    self.counts["swallowed"] += 1
                    return
                await _send(writer, piece)


async def _send(writer: asyncio.StreamWriter, piece: bytes) -> None:
    if writer.transport.is_closing():
        raise ConnectionResetError
    writer.write(piece)
    await writer.drain()


async def _until_first_ends(*ways: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for result in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def _is_peer(body: bytes) -> bool:
    try:
        return decode_hello(body).role == "peer"
    except KVError:
        return False
