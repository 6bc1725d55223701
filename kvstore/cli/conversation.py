"""Asking one node, and no other: a connection that is made when it is needed.

For commands that want each node's own word, where a client of the store would go to whoever
can serve. A node may take its time to answer, as long as it gives a sign of life when it is
pinged; one that does not is taken for unreachable. After a failed attempt to connect the next
one waits a moment, and whoever asks meanwhile gets the failure at once.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Final

from kvstore import __version__
from kvstore.errors import KVError, Unavailable, copy_of
from kvstore.net.dial import dial
from kvstore.net.limits import NetLimits
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error

if TYPE_CHECKING:
    from kvstore.net.connection import FrameConnection
    from kvstore.wire.frames import Frame

ANSWER_WAIT_S: Final = 1.0
"""A node of a healthy cluster answers a connection, and a ping, in milliseconds."""

REDIAL_S: Final = 0.5
"""From a failed attempt to connect to the next."""


class Conversation:
    """With one node. Invariant: ``_waiting`` is empty while there is no connection."""

    def __init__(
        self, address: str, cluster_id: str | None = None, answer_wait_s: float = ANSWER_WAIT_S
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: Where the node listens.
            cluster_id: Of which cluster it must be; None for any.
            answer_wait_s: For a connection, or a sign of life.
        """
        self._address = address
        self._cluster_id = cluster_id
        self._answer_wait_s = answer_wait_s
        self._connection: FrameConnection | None = None
        self._dialing = asyncio.Lock()
        self._failure: KVError | None = None
        self._redial_at = 0.0
        self._heard_at = 0.0
        self._requests = count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._now = asyncio.get_running_loop().time

    async def ask(self, kind: Kind, body: bytes = b"") -> bytes:
        """The body of the node's reply.

        Raises:
            Unavailable: it cannot be reached, or gives no sign of life.
            KVError: it turned us away, or answered with an error.
        """
        connection = await self._connected()
        request = next(self._requests)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._heard_at = self._now()
        self._waiting[request] = answer
        connection.send(encode_frame(kind, request, body))
        try:
            frame = await self._answer(connection, answer)
        finally:
            self._waiting.pop(request, None)
        if frame.kind == Kind.ERROR:
            raise decode_error(frame.body)
        return frame.body

    async def _answer(self, connection: FrameConnection, answer: asyncio.Future[Frame]) -> Frame:
        """Wait, and while it lasts make sure that somebody is there."""
        while not (await asyncio.wait([answer], timeout=self._answer_wait_s / 2))[0]:
            if connection.heard:
                connection.heard = False
                self._heard_at = self._now()
            if self._now() - self._heard_at >= self._answer_wait_s:
                self._lose(connection, self._silent())
                connection.abort()
            else:
                connection.send(encode_frame(Kind.PING, 0, b""))
        return answer.result()

    async def _connected(self) -> FrameConnection:
        async with self._dialing:
            if self._connection is not None:
                if self._connection.is_open:
                    return self._connection
                self._lose(self._connection, Unavailable(f"{self._address} is stopping"))
            if self._failure is not None and self._now() < self._redial_at:
                raise copy_of(self._failure)
            try:
                self._connection = await dial(
                    self._address,
                    Hello("client", f"kv {__version__}", wall_ms(), self._cluster_id),
                    limits=NetLimits(),
                    timeout_s=self._answer_wait_s,
                    on_frames=self._frames,
                    on_closed=self._closed,
                )
            except KVError as error:
                self._failure = copy_of(error)
                self._redial_at = self._now() + REDIAL_S
                raise
            return self._connection

    def _frames(self, _connection: FrameConnection, frames: list[Frame]) -> None:
        for frame in frames:
            answer = self._waiting.pop(frame.request, None)
            if answer is not None and not answer.done():
                answer.set_result(frame)

    def _closed(self, connection: FrameConnection) -> None:
        gone = connection.reason or Unavailable(f"{self._address} closed the connection")
        self._lose(connection, gone)

    def _lose(self, connection: FrameConnection, error: KVError) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(copy_of(error))

    def _silent(self) -> Unavailable:
        return Unavailable(f"{self._address}: no answer within {self._answer_wait_s:g} s")

    def close(self) -> None:
        """Cut the connection, if there is one; who waits is told."""
        if self._connection is not None:
            self._connection.abort()


def wall_ms() -> int:
    """This machine's time, as a hello carries it."""
    return time.time_ns() // 1_000_000
