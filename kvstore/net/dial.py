"""Connecting to a node: TCP, hello, welcome, all under one deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvstore.config import is_address
from kvstore.errors import InvalidArgument, KVError, ProtocolError, Unavailable, copy_of
from kvstore.net.connection import FrameConnection
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, Welcome, decode_welcome, encode_hello
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.net.connection import ConnectionCallback, FramesCallback
    from kvstore.net.limits import NetLimits
    from kvstore.wire.frames import Frame


class NobodyListens(Unavailable):
    """The host answered that no process listens at that port: the node's process is dead."""


async def dial(
    address: str,
    hello: Hello,
    *,
    limits: NetLimits,
    timeout_s: float,
    on_frames: FramesCallback,
    on_closed: ConnectionCallback | None = None,
    check: Callable[[Welcome], None] | None = None,
) -> FrameConnection:
    """Connect to ``address`` (``host:port``) and shake hands; ``welcome`` is then set.

    Args:
        address: Where the node listens; an IPv6 host may stand in brackets.
        hello: What to say of ourselves.
        limits: Bounds of the connection.
        timeout_s: For all of it.
        on_frames: Called with the application frames of each arrival, in order.
        on_closed: Called once when the connection has ended, but not when it fails here.
        check: Looks at the welcome and raises a KVError to turn the node down.

    Raises:
        NobodyListens: refused by the host's kernel.
        Unavailable: not reachable, or no welcome within ``timeout_s``.
        InvalidArgument: ``address`` is none.
        KVError: the node turned us away and says why, or ``check`` turned it down.
    """
    handshake = _Handshake(on_closed)
    connection = FrameConnection(
        limits, on_frames=handshake.first_frames, on_closed=handshake.closed
    )
    try:
        async with asyncio.timeout(timeout_s):
            await _open(address, connection)
            connection.send(encode_frame(Kind.HELLO, 0, encode_hello(hello)))
            outcome = await handshake.outcome
    except TimeoutError as error:
        connection.abort()
        raise Unavailable(f"{address}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise Unavailable(f"{address}: cannot connect: {error.strerror or error}") from error
    except BaseException:
        connection.abort()
        raise
    if isinstance(outcome, KVError):
        connection.abort()
        raise copy_of(outcome)
    return handshake.complete(connection, *outcome, check, on_frames)


async def _open(address: str, connection: FrameConnection) -> None:
    if not is_address(address):  # uvloop would take port 70000 for 4464
        raise InvalidArgument(f"{address!r} is not host:port")
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        await loop.create_connection(lambda: connection, host.strip("[]"), int(port))
    except ConnectionRefusedError as error:
        raise NobodyListens(f"{address}: connection refused") from error
    except ValueError as error:  # a UnicodeError, or a zero byte
        raise InvalidArgument(f"{address!r} names no host: {error}") from error


class _Handshake:
    """The accepting side's first frame, awaited; the connection is not yet anybody's.

    A failure is the future's result, not its exception: one that is raised holds the frames that
    await it, which hold the future and the connection.
    """

    def __init__(self, on_closed: ConnectionCallback | None) -> None:
        self.outcome: asyncio.Future[tuple[Welcome, list[Frame]] | KVError]
        self.outcome = asyncio.get_running_loop().create_future()
        self._on_closed = on_closed
        self._is_complete = False

    def complete(
        self,
        connection: FrameConnection,
        welcome: Welcome,
        rest: list[Frame],
        check: Callable[[Welcome], None] | None,
        on_frames: FramesCallback,
    ) -> FrameConnection:
        if check is not None:
            try:
                check(welcome)
            except KVError as error:
                connection.close(error)
                raise
        if not connection.is_open:
            raise copy_of(connection.reason or Unavailable("the node said goodbye"))
        connection.welcome = welcome
        self._is_complete = True
        connection.establish(on_frames, rest)
        return connection

    def first_frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        first = frames[0]
        if self.outcome.done():
            return
        match first.kind:
            case Kind.WELCOME:
                self.outcome.set_result((decode_welcome(first.body), frames[1:]))
            case Kind.ERROR:
                self.outcome.set_result(decode_error(first.body))
            case Kind.GOODBYE:
                self.outcome.set_result(Unavailable(f"{connection.address} is stopping"))
            case _:
                raise ProtocolError(f"expected a welcome, not a message of kind {first.kind}")

    def closed(self, connection: FrameConnection) -> None:
        if not self.outcome.done():
            self.outcome.set_result(
                connection.reason or Unavailable(f"{connection.address} closed the connection")
            )
        if self._is_complete and self._on_closed is not None:
            self._on_closed(connection)
