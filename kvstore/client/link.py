"""One node as this client reaches it: a connection made when needed, and a circuit breaker.

A link opens in the background: nobody's request waits in a dial, so that a machine that
swallows packets costs nothing while others answer. When the connection ends, everybody who
waits for an answer on it is told at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from kvstore.client.route import Contact
from kvstore.errors import KVError, Unavailable, copy_of
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from kvstore.client.breaker import CircuitBreaker
    from kvstore.ids import NodeId
    from kvstore.net.connection import ConnectionCallback, FrameConnection, FramesCallback
    from kvstore.wire.frames import Frame

OPENING_S = 0.1
"""A dial that takes longer is no longer waited for; it goes on."""
CLOSE_S = 0.25
"""How long a node may take to answer our goodbye before the connection is cut."""


class Dial(Protocol):
    """Connects to an address and says hello (:func:`kvstore.net.dial.dial`)."""

    def __call__(
        self, address: str, on_frames: FramesCallback, on_closed: ConnectionCallback
    ) -> Coroutine[Any, Any, FrameConnection]:
        """Return a connection that was welcomed.

        Raises:
            KVError: not reachable, not in time, or turned away.
        """
        ...


class Waiter(Protocol):
    """Who asked something over a link; told exactly one of both, unless it is forgotten."""

    def answered(self, link: Link, frame: Frame) -> None:
        """The answer has come: a REPLY or an ERROR."""
        ...

    def lost(self, link: Link, request: int, error: KVError) -> None:
        """No answer will come over this connection; the request may have been received."""
        ...


class Link:
    """Invariant: ``_waiting`` is empty whenever there is no connection."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        dial: Dial,
        breaker: CircuitBreaker,
        on_change: Callable[[Link], None],
        expected: NodeId | None = None,
    ) -> None:
        self.expected = expected
        """Who must answer there; None for anybody."""
        self.node: NodeId | None = None
        """Who answers there; None until it has said so."""
        self.error: KVError | None = None
        """Why it could last not be reached."""
        self.addresses = list(addresses)
        """Where to dial; the next one after each failure."""
        self.connection: FrameConnection | None = None
        self._breaker = breaker
        self._dial = dial
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._dialing: asyncio.Task[None] | None = None
        self._dial_began = 0.0
        self._heard_at = 0.0
        self.unsent_bytes = 0
        """What waits to be sent, as of the last request."""
        self._waiting: dict[int, Waiter] = {}
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self.connection is not None and self.connection.is_open

    # -- connecting ---------------------------------------------------------------------------

    def contact(self) -> Contact:
        """How the node can be reached; begins to connect where that may be tried."""
        if self.connection is not None:
            return Contact.OPEN if self.connection.is_open else Contact.DOWN
        now = self._loop.time()
        if self._dialing is None:
            if self._is_closed or not self._breaker.try_acquire(now):
                return Contact.DOWN
            self._dial_began = now
            self._dialing = self._loop.create_task(self._open(self.addresses[0]))
        return Contact.OPENING if now < self._dial_began + OPENING_S else Contact.DOWN

    async def opened(self) -> None:
        """Wait until requests can be sent.

        Raises:
            KVError: the attempt failed, or it is too early for another.
        """
        if self.contact() is not Contact.OPEN and self._dialing is not None:
            await asyncio.wait([self._dialing])
        if not self.is_open:
            raise copy_of(self.error or Unavailable("not connected"))

    async def _open(self, address: str) -> None:
        try:
            connection = await self._dial(address, self._frames, self._ended)
            self._check(connection, address)
        except KVError as error:
            self.error = copy_of(error)
            self.addresses.append(self.addresses.pop(0))
            self._breaker.failed(self._loop.time())
        else:
            assert connection.welcome is not None
            self.connection = connection
            self.node = connection.welcome.node_id
            self.error = None
            self.unsent_bytes = 0
            self._breaker.succeeded()
        finally:
            self._dialing = None
        self._on_change(self)

    def _check(self, connection: FrameConnection, address: str) -> None:
        """Another node may have been given the address since."""
        assert connection.welcome is not None
        node = connection.welcome.node_id
        if self.expected not in (None, node):
            connection.abort()
            raise Unavailable(f"{address}: {node} answers where {self.expected} was")

    def _ended(self, connection: FrameConnection) -> None:
        """Called once when ``connection`` is gone."""
        if connection is self.connection:
            reason = connection.reason
            self._lose(reason.message if reason is not None else f"{self.node} is stopping")

    def give_up(self, reason: str) -> None:
        """Cut a connection on which the node does not answer."""
        connection = self.connection
        if connection is not None:
            self._lose(reason)
            connection.abort()

    def _lose(self, reason: str) -> None:
        self.connection = None
        self._breaker.failed(self._loop.time())
        self.error = error = Unavailable(reason)
        waiting, self._waiting = self._waiting, {}
        for request, waiter in waiting.items():
            waiter.lost(self, request, error)
        self._on_change(self)

    async def close(self) -> None:
        """Say goodbye, or end the attempt to connect. Who waits is not told."""
        self._is_closed = True
        self._waiting.clear()
        connection, self.connection = self.connection, None
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        if connection is None:
            return
        connection.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await connection.wait_closed()
        except TimeoutError:
            connection.abort()
            await connection.wait_closed()

    # -- asking -------------------------------------------------------------------------------

    def send(self, kind: Kind, request: int, body: bytes, waiter: Waiter) -> float:
        """Ask; the link must be open. Returns the loop's time of sending."""
        connection = self.connection
        assert connection is not None
        now = self._loop.time()
        if connection.heard:
            connection.heard = False
            self._heard_at = now
        self._waiting[request] = waiter
        connection.send(encode_frame(kind, request, body))
        self.unsent_bytes = connection.unsent_bytes
        return now

    def forget(self, request: int) -> None:
        """The answer is no longer of interest."""
        self._waiting.pop(request, None)

    def ping_if_silent_since(self, then: float) -> None:
        """Ask for a sign of life, if there was none after ``then``."""
        if self.connection is not None and self.is_silent_since(then):
            self.connection.send(encode_frame(Kind.PING, 0, b""))

    def is_silent_since(self, then: float) -> bool:
        """Whether nothing came from the node after ``then``, and it takes nothing either."""
        connection = self.connection
        if connection is None or connection.heard or self._heard_at > then:
            return False
        before, self.unsent_bytes = self.unsent_bytes, connection.unsent_bytes
        return self.unsent_bytes >= before or not self.unsent_bytes

    def _frames(self, connection: FrameConnection, frames: list[Frame]) -> None:
        waiting = self._waiting
        for frame in frames:
            waiter = waiting.pop(frame.request, None)
            if waiter is not None:
                waiter.answered(self, frame)
