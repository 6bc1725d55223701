"""One address to which something is said now and then: dialled when there is something to say.

A contact *rests* (nothing is connected), is *dialled*, or *stands*. What is to be sent while it
is dialled waits; what is to be sent too soon after a failure is dropped, for the other side is
probably dead and whoever sends will say it again.

The connection belongs to whoever listens at the address. Frames that are for somebody else are
dropped without harm to it: the node may have taken over the address of one that died.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.errors import KVError, ProtocolError, Removed, Unavailable, copy_of
from kvstore.net.dial import NobodyListens, dial
from kvstore.net.tasks import start_task

if TYPE_CHECKING:
    from kvstore.ids import NodeId
    from kvstore.net.backoff import Backoff
    from kvstore.net.connection import FrameConnection
    from kvstore.net.limits import ContactLimits, NetLimits
    from kvstore.wire.frames import Frame
    from kvstore.wire.hello import Hello, Welcome

_REDIALS_S: Final = (0.0, 0.001, 0.005)
"""Waits before further attempts when the first after a loss fails: a dying process may still
accept it, as in :mod:`kvstore.net.lane`, and that it is gone should be known at once."""


class ContactOwner(Protocol):
    """What a contact asks of, and tells, the book it stands in."""

    def make_hello(self) -> Hello:
        """What to say of ourselves now."""
        ...

    def check_welcome(self, expected: NodeId | None, welcome: Welcome) -> None:
        """Raise a KVError if the node that answered is not the right one; None: any is."""
        ...

    def opened(self, connection: FrameConnection) -> None:
        """There is a connection, to be ended by the owner if nobody else does."""
        ...

    def closed(self, connection: FrameConnection) -> None:
        """It has ended."""
        ...

    def unreachable(self, address: str, expected: NodeId | None, error: KVError) -> None:
        """What waited for ``expected`` was dropped."""
        ...

    def turned_down(self, address: str, expected: NodeId | None, error: KVError) -> None:
        """Of the two nodes at least one finds fault with the other."""
        ...

    def lost(self, node: NodeId, address: str) -> None:
        """A connection that stood has ended, and not by our will."""
        ...


class Waiting:
    """Frames for one address. Invariant: within both bounds, or a single frame."""

    def __init__(self, frames_max: int, bytes_max: int) -> None:
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._frames: deque[tuple[NodeId | None, bytes]] = deque()
        self._bytes = 0

    def add(self, expected: NodeId | None, frame: bytes) -> None:
        """Let ``frame`` wait, and the oldest give way to it."""
        while self._frames and (
            len(self._frames) >= self._frames_max or self._bytes + len(frame) > self._bytes_max
        ):
            self._bytes -= len(self._frames.popleft()[1])
        self._frames.append((expected, frame))
        self._bytes += len(frame)

    def expected(self) -> list[NodeId | None]:
        """For whom something waits, each once."""
        return list(dict.fromkeys(expected for expected, _ in self._frames))

    def take(self) -> list[tuple[NodeId | None, bytes]]:
        """All of it, the oldest first; nothing waits any more."""
        frames, self._bytes = list(self._frames), 0
        self._frames.clear()
        return frames


class Contact:
    """Invariants: ``connection`` is set exactly while one stands; it is not dialled then."""

    def __init__(
        self,
        address: str,
        owner: ContactOwner,
        *,
        limits: NetLimits,
        bounds: ContactLimits,
        backoff: Backoff,
    ) -> None:
        self.address = address
        self.connection: FrameConnection | None = None
        self.dialling: asyncio.Task[None] | None = None
        self.used_at = 0.0
        """When something was last to be sent, whatever became of it."""
        self._owner = owner
        self._limits = limits
        self._bounds = bounds
        self._backoff = backoff
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting(bounds.waiting_frames_max, bounds.waiting_bytes_max)
        self._accepted: set[NodeId | None] = set()
        """For whom frames may go to the node that answered last: it, and None."""
        self._stood_at = 0.0
        self._failed_at = 0.0
        self._rests_until = 0.0
        self._is_lost = False
        """It stood when it was last heard of."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, so that it can be released at no loss."""
        if self.connection is None:
            return self.dialling is None
        return self.connection.is_open and self.connection.unsent_bytes == 0

    def send(self, frame: bytes, expected: NodeId | None) -> bool:
        """Send ``frame`` or let it wait; False when it was dropped."""
        self.used_at = self._loop.time()
        if self.connection is not None:
            return self._send_on(self.connection, frame, expected)
        if self.dialling is None:
            if self.used_at < self._rests_until:
                return False
            self.dialling = start_task(self._reach(), f"dialling {self.address}")
        self._waiting.add(expected, frame)
        return True

    def _send_on(self, connection: FrameConnection, frame: bytes, expected: NodeId | None) -> bool:
        unsent = connection.unsent_bytes
        if unsent > 0 and unsent + len(frame) > self._bounds.waiting_bytes_max:
            return False
        objection = self._objection(connection, expected)
        if objection is not None:
            self._owner.turned_down(self.address, expected, objection)
            return False
        return connection.send(frame)

    def release(self) -> None:
        """Say goodbye if it stands; nothing is told of that."""
        connection, self.connection = self.connection, None
        if connection is not None:
            # Whoever never speaks here sends nothing that could destroy the goodbye.
            connection.close(lingers=False)

    def forgive(self) -> None:
        """Its node was heard: it may be dialled soon, if not at once, for it may not hear us."""
        self._backoff.reset()
        soon = self._failed_at + self._bounds.backoff_base_s
        self._rests_until = min(self._rests_until, soon)

    # -- dialling -----------------------------------------------------------------------------

    async def _reach(self) -> None:
        """Dial and send what waits, or drop it and tell."""
        in_vain: dict[NodeId | None, KVError] = {}
        try:
            connection = await self._dial()
            in_vain = self._stand(connection)
        except KVError as error:
            in_vain = dict.fromkeys(self._waiting.expected(), copy_of(error))
            self._rest(error)
        finally:
            self.dialling = None
            self._waiting.take()
        for expected, why in in_vain.items():
            self._owner.unreachable(self.address, expected, why)

    async def _dial(self) -> FrameConnection:
        """A connection to a node that we may talk to, whichever it is."""
        connection = await self._connect()
        self._owner.opened(connection)
        self._accepted = set()
        objection = self._objection(connection, None)
        if objection is not None:
            connection.close(objection)
            await connection.wait_closed()  # at once, or when it has lingered
            raise copy_of(objection)
        return connection

    async def _connect(self) -> FrameConnection:
        """More than one attempt after a loss, but none begun after the deadline of the first."""
        timeout_s = self._bounds.dial_timeout_s
        give_up_at = self._loop.time() + timeout_s
        waits_s = list(_REDIALS_S) if self._is_lost else []
        self._is_lost = False
        while True:
            try:
                return await dial(
                    self.address,
                    self._owner.make_hello(),
                    limits=self._limits,
                    timeout_s=timeout_s,
                    on_frames=_unexpected_frames,
                    on_closed=self._closed,
                )
            except NobodyListens:
                raise
            except Unavailable:
                if not waits_s or self._loop.time() >= give_up_at:
                    raise
            await asyncio.sleep(waits_s.pop(0))

    def _objection(self, connection: FrameConnection, expected: NodeId | None) -> KVError | None:
        """Why the node that answered is not the one to talk to, if so."""
        if expected in self._accepted:
            return None
        assert connection.welcome is not None
        try:
            self._owner.check_welcome(expected, connection.welcome)
        except KVError as error:
            return copy_of(error)
        self._accepted.add(expected)
        return None

    def _stand(self, connection: FrameConnection) -> dict[NodeId | None, KVError]:
        """Send what waits; whoever it is for, but is not the one that answered, is named."""
        in_vain: dict[NodeId | None, KVError] = {}
        while frames := self._waiting.take():  # more may come from within ``check_welcome``
            for expected, frame in frames:
                if expected not in in_vain:
                    error = self._objection(connection, expected)
                    if error is None:
                        connection.send(frame)
                    else:
                        in_vain[expected] = error
        self.connection = connection
        self._stood_at = self._loop.time()
        return in_vain

    # -- its end ------------------------------------------------------------------------------

    def _closed(self, connection: FrameConnection) -> None:
        self._owner.closed(connection)
        if connection is not self.connection:
            return  # released, or never came to stand
        self.connection = None
        reason, welcome = connection.reason, connection.welcome
        assert welcome is not None
        is_plain = reason is None or isinstance(reason, Unavailable)
        if is_plain and self._loop.time() - self._stood_at >= self._bounds.settled_s:
            self._is_lost = True
            self._backoff.reset()
        else:
            self._rest(reason)  # it may well happen again, and forever
        if reason is not None and not is_plain:
            self._owner.turned_down(self.address, welcome.node_id, reason)
        self._owner.lost(welcome.node_id, self.address)

    def _rest(self, why: KVError | None) -> None:
        is_final = isinstance(why, Removed)
        wait_s = self._bounds.removed_wait_s if is_final else self._backoff.next_s()
        self._failed_at = self._loop.time()
        self._rests_until = self._failed_at + wait_s


def _unexpected_frames(connection: FrameConnection, frames: list[Frame]) -> None:
    raise ProtocolError(f"kind {frames[0].kind} does not belong on a peer's incoming side")
