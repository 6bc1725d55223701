"""A listening node, a well-behaved client and a raw socket, for the tests of this folder."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kvstore.errors import KVError, Refused
from kvstore.ids import NodeId, Revision
from kvstore.net.dial import dial
from kvstore.net.limits import NetLimits
from kvstore.net.server import FrameServer
from kvstore.wire import requests
from kvstore.wire.frames import Frame, FrameDecoder, encode_frame
from kvstore.wire.hello import Hello, Welcome, encode_hello
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeVar

    from kvstore.net.connection import FrameConnection

    T = TypeVar("T")

DEADLINE_S = 10.0
LIMITS = NetLimits(
    frame_bytes_max=1 << 20,
    outbound_bytes_max=2 << 20,
    hello_timeout_s=5.0,
    linger_s=0.2,
    sweep_interval_s=0.01,
)
CLIENT = Hello(role="client", software="test", wall_ms=0)
PEER = replace(CLIENT, role="peer", cluster_id="home", node_id=NodeId("n2"), lane=0, data_id=2)


async def within(awaitable: Awaitable[T]) -> T:
    """Fail rather than hang."""
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


async def until(condition: Callable[[], bool]) -> None:
    """Return when ``condition`` holds; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  conditions of any kind have no event
            await asyncio.sleep(0.001)


class Node:
    """A FrameServer that answers a READ with its keys as values, and any else with an error."""

    def __init__(self, limits: NetLimits = LIMITS, node_id: str = "n1", port: int = 0) -> None:
        self.node_id = NodeId(node_id)
        self.received: list[Frame] = []
        self.arrivals: list[int] = []
        self.closed: list[FrameConnection] = []
        self.guests: list[FrameConnection] = []
        self.server = FrameServer(
            "127.0.0.1", port, limits=limits,
            on_hello=self.on_hello, on_frames=self.on_frames, on_closed=self.closed.append,
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def on_hello(self, connection: FrameConnection, hello: Hello) -> Welcome:
        if hello.cluster_id not in (None, "home"):
            raise Refused(f"this is cluster home, not {hello.cluster_id}")
        self.guests.append(connection)
        return Welcome("home", self.node_id, 1, 0, Revision(7), "test")

    def on_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        self.arrivals.append(len(frames))
        for frame in frames:
            self.received.append(frame)
            if frame.kind == Kind.RAFT:
                continue
            try:
                keys = requests.decode_read(frame.body).keys
            except KVError as error:
                reply = encode_frame(Kind.ERROR, frame.request, requests.encode_error(error))
            else:
                rows = [(key, 1) for key in keys]
                reply = encode_frame(Kind.REPLY, frame.request, requests.encode_read_reply(rows))
            connection.send(reply)


@asynccontextmanager
async def listening(
    limits: NetLimits = LIMITS, node_id: str = "n1", port: int = 0
) -> AsyncIterator[Node]:
    node = Node(limits, node_id, port)
    await node.server.start()
    try:
        yield node
    finally:
        await within(node.server.close())


def read_frame(request: int, *keys: bytes) -> bytes:
    body = requests.encode_read(
        requests.ReadRequest(0, 0, requests.ReadMode.LINEARIZABLE, list(keys), 0)
    )
    return encode_frame(Kind.READ, request, body)


def hello_frame(hello: Hello = CLIENT) -> bytes:
    return encode_frame(Kind.HELLO, 0, encode_hello(hello))


class Client:
    """A well-behaved client on a FrameConnection of its own."""

    def __init__(self) -> None:
        self.connection: FrameConnection
        self.frames: list[Frame] = []
        self.arrivals: list[int] = []
        self.closed: list[FrameConnection] = []
        self._requests = 0

    async def connect(self, node: Node, limits: NetLimits = LIMITS, hello: Hello = CLIENT) -> None:
        self.connection = await dial(
            node.address, hello, limits=limits, timeout_s=DEADLINE_S,
            on_frames=self._on_frames, on_closed=self.closed.append,
        )  # fmt: skip

    def _on_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        self.arrivals.append(len(frames))
        self.frames += frames

    async def read(self, *keys: bytes) -> Frame:
        """Ask for ``keys`` and return the answer."""
        self._requests += 1
        request = self._requests
        self.connection.send(read_frame(request, *keys))
        await until(lambda: any(frame.request == request for frame in self.frames))
        return next(frame for frame in self.frames if frame.request == request)

    async def is_served(self) -> bool:
        """Whether a request is answered as it should be."""
        reply = await self.read(b"key")
        return reply.kind == Kind.REPLY and requests.decode_read_reply(reply.body, 1) == [
            [b"key", 1]
        ]


class Raw:
    """A socket that may send anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = FrameDecoder(1 << 30)
        self._arrived: list[Frame] = []

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self) -> Frame:
        """The next frame from the other side."""
        return (await self.frames(1))[0]

    async def frames(self, count: int) -> list[Frame]:
        while len(self._arrived) < count:
            data = await within(self.reader.read(1 << 16))
            assert data, f"closed after {self._arrived}"
            self._arrived += self._decoder.feed(data)
        taken, self._arrived = self._arrived[:count], self._arrived[count:]
        return taken

    async def ending(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        return self._arrived + self._decoder.feed(await within(self.reader.read()))

    async def shake_hands(self, hello: Hello = CLIENT) -> Frame:
        self.send(hello_frame(hello))
        return await self.frame()


@asynccontextmanager
async def raw(node: Node) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.server.port, limit=1 << 22)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await within(writer.wait_closed())


def error_of(frame: Frame) -> KVError:
    """The error that ``frame`` carries."""
    assert frame.kind == Kind.ERROR, frame
    return requests.decode_error(frame.body)
