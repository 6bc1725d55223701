"""One outgoing connection to a peer: dialled, used, and dialled again when it is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from kvstore.errors import KVError, ProtocolError, Removed, Unavailable
from kvstore.net.dial import NobodyListens, dial

if TYPE_CHECKING:
    from kvstore.net.backoff import Backoff
    from kvstore.net.connection import FrameConnection
    from kvstore.net.limits import NetLimits, PeerTiming
    from kvstore.net.transport import Lane
    from kvstore.wire.frames import Frame
    from kvstore.wire.hello import Hello, Welcome

_REDIALS_S: Final = (0.0, 0.0, 0.001, 0.005)
"""Waits before the first attempts after a loss. More than one, because a dying process
closes its connections and its listening socket one after the other: the first attempt may
still be accepted, to be reset when the listening socket goes. Then nobody listens any more,
and the second attempt is refused."""


class LaneOwner(Protocol):
    """What a lane asks of, and tells, the peer it belongs to."""

    def make_hello(self, lane: Lane) -> Hello:
        """What to say of ourselves now."""
        ...

    def check_welcome(self, welcome: Welcome) -> None:
        """Raise a KVError if the node that answered is not the right one."""
        ...

    async def wait_for_turn(self, lane: Lane) -> None:
        """Return when ``lane`` may dial."""
        ...

    def lane_up(self, lane: Lane) -> None:
        """The lane stands."""
        ...

    def lane_lost(self, lane: Lane, reason: KVError | None) -> None:
        """The lane stood and is lost, with whatever was under way on it."""
        ...

    def nobody_listens(self) -> None:
        """The peer's host says that no process listens at its port."""
        ...

    def dial_failed(self, error: KVError) -> None:
        """An attempt failed in another way, or the peer turned us away."""
        ...


class PeerLane:
    """Invariant: ``_connection`` is set exactly while a welcomed connection stands."""

    def __init__(
        self,
        address: str,
        lane: Lane,
        owner: LaneOwner,
        *,
        limits: NetLimits,
        timing: PeerTiming,
        backoff: Backoff,
    ) -> None:
        self.lane = lane
        self._address = address
        self._owner = owner
        self._limits = limits
        self._timing = timing
        self._backoff = backoff
        self._connection: FrameConnection | None = None

    @property
    def connection(self) -> FrameConnection | None:
        """The connection that stands, if one does."""
        return self._connection

    def send(self, frame: bytes) -> bool:
        """Queue ``frame``; False if the lane is down or full."""
        connection = self._connection
        if connection is None or len(frame) > self._limits.frame_bytes_max:
            return False
        if connection.unsent_bytes + len(frame) > self._limits.lane_bytes_max:
            return False
        return connection.send(frame)

    async def run(self) -> None:
        """Keep the lane up until cancelled."""
        address, waits_s = self._address, list(_REDIALS_S)
        while True:
            try:
                connection = await self._dial(address)
            except NobodyListens:
                self._owner.nobody_listens()
            except KVError as error:
                self._owner.dial_failed(error)
                if isinstance(error, Removed):
                    waits_s = [self._timing.removed_wait_s]
            else:
                if await self._use(connection):
                    # Straight to where it just was: no time for a look-up of the name.
                    address, waits_s = connection.address, list(_REDIALS_S)
            if waits_s:
                await asyncio.sleep(waits_s.pop(0))
            else:
                address = self._address
                await asyncio.sleep(self._backoff.next_s())

    async def _dial(self, address: str) -> FrameConnection:
        await self._owner.wait_for_turn(self.lane)
        return await dial(
            address,
            self._owner.make_hello(self.lane),
            limits=self._limits,
            timeout_s=self._timing.dial_timeout_s,
            on_frames=_unexpected_frames,
            check=self._owner.check_welcome,
        )

    async def _use(self, connection: FrameConnection) -> bool:
        """Return when the connection is lost: whether to dial again at once.

        Not so when either side found fault with the other, or when it broke as soon as it
        stood: that may well happen again, and forever. Says goodbye when cancelled.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._connection = connection
        try:
            self._owner.lane_up(self.lane)
            await connection.wait_closed()
        finally:
            self._connection = None
            connection.close()
            await connection.wait_closed()  # at once, or when it has lingered
        self._owner.lane_lost(self.lane, connection.reason)
        is_plain = connection.reason is None or isinstance(connection.reason, Unavailable)
        is_settled = is_plain and loop.time() - since >= self._timing.settled_s
        if is_settled:
            self._backoff.reset()
        return is_settled


def _unexpected_frames(connection: FrameConnection, frames: list[Frame]) -> None:
    raise ProtocolError(f"kind {frames[0].kind} does not belong on a peer's incoming side")
