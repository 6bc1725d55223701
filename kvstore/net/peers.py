"""Outgoing connections to every other node of the cluster, and what their loss means.

A peer is *connected* when all its lanes stand. It is *gone* when a lane that stood was lost
and its host then answers that nobody listens: only a dead process does that (DESIGN section
4, fast path). A frozen or cut-off one is neither: its kernel still accepts, or nothing
answers at all. That is noticed by unanswered pings, and left to Raft's own timeouts.

Incoming connections of peers are the server's (:mod:`kvstore.net.server`): each direction
has connections of its own, so that a frame never waits for a decision who dials whom.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kvstore.errors import KVError, Unavailable
from kvstore.ids import NodeId
from kvstore.net.backoff import Backoff
from kvstore.net.lane import PeerLane
from kvstore.net.limits import PeerTiming
from kvstore.net.repeats import RepeatFilter
from kvstore.net.tasks import start_task, stop_tasks
from kvstore.net.transport import STANDING_LANES, Lane
from kvstore.wire.frames import encode_frame
from kvstore.wire.hello import Hello, Welcome
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from kvstore.net.limits import NetLimits

log = logging.getLogger(__name__)

_PING: Final = encode_frame(Kind.PING, 0, b"")


@dataclass(frozen=True, slots=True)
class PeerCallbacks:
    """What the pool asks its owner, and what it tells it. None of them may block."""

    make_hello: Callable[[Lane], Hello]
    """What to say of this node on a connection dialled now."""
    check_welcome: Callable[[NodeId, Welcome], None]
    """Raises a KVError if the node that answered is not the expected one."""
    on_connected: Callable[[NodeId], None]
    """All lanes stand: at first, and after each loss."""
    on_gone: Callable[[NodeId], None]
    """The peer's process has died; once per loss."""
    on_dropped: Callable[[NodeId, Lane], None]
    """The lane is lost, and frames accepted by ``send`` may be lost with it."""
    on_refused: Callable[[NodeId, KVError], None]
    """The peer turned us away, or we turned it down; once per cause until connected."""


class PeerPool:
    """Implements :class:`kvstore.net.transport.PeerTransport`."""

    def __init__(
        self,
        peers: Mapping[NodeId, str],
        callbacks: PeerCallbacks,
        *,
        limits: NetLimits,
        rng: random.Random,
        timing: PeerTiming | None = None,
    ) -> None:
        """``peers`` are the other nodes' addresses, ``host:port``."""
        timing = timing or PeerTiming()
        self._peers = {
            node: _Peer(node, address, callbacks, limits, timing, rng)
            for node, address in peers.items()
        }

    def start(self) -> None:
        """Begin to dial; needs a running event loop."""
        for peer in self._peers.values():
            peer.start()

    async def close(self) -> None:
        """Say goodbye on every lane and return when no task is left."""
        await asyncio.gather(*(peer.close() for peer in self._peers.values()))

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        """Queue an encoded frame for ``peer``; False when it was dropped (lane down or full)."""
        known = self._peers.get(peer)
        return known is not None and known.lanes[lane].send(frame)

    def has(self, node: NodeId) -> bool:
        """Whether ``node`` is one of the peers, connected or not."""
        return node in self._peers

    def is_connected(self, peer: NodeId) -> bool:
        """Whether all lanes to ``peer`` stand."""
        known = self._peers.get(peer)
        return known is not None and known.is_connected


class _Peer:
    """The lanes to one node. Implements :class:`kvstore.net.lane.LaneOwner`."""

    def __init__(
        self,
        node: NodeId,
        address: str,
        callbacks: PeerCallbacks,
        limits: NetLimits,
        timing: PeerTiming,
        rng: random.Random,
    ) -> None:
        self._node = node
        self._callbacks = callbacks
        self._timing = timing
        # A lane drops what does not fit; it must never be cut for being full.
        room_bytes = limits.lane_bytes_max + limits.frame_bytes_max
        lane_limits = replace(limits, outbound_bytes_max=room_bytes)
        self.lanes = {
            lane: PeerLane(
                address,
                lane,
                self,
                limits=lane_limits,
                timing=timing,
                backoff=Backoff(timing.backoff_base_s, timing.backoff_cap_s, rng),
            )
            for lane in STANDING_LANES
        }
        self._standing: set[Lane] = set()
        self._control_up = asyncio.Event()
        self._is_lost = False
        """A lane was lost since all of them stood."""
        self._is_gone = False
        """And the peer's death has been told."""
        self._refusals = RepeatFilter()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_connected(self) -> bool:
        return len(self._standing) == len(self.lanes)

    def start(self) -> None:
        self._tasks = [
            start_task(lane.run(), f"lane {lane.lane.name} to {self._node}")
            for lane in self.lanes.values()
        ]
        self._tasks.append(start_task(self._watch(), f"pings to {self._node}"))

    async def close(self) -> None:
        await stop_tasks(*self._tasks)

    async def _watch(self) -> None:
        """Ping on the control lane; cut all lanes when it stays silent."""
        silent = 0
        while True:
            await asyncio.sleep(self._timing.ping_interval_s)
            control = self.lanes[Lane.CONTROL].connection
            if control is None or control.heard:
                silent = 0
            else:
                silent += 1
            if control is not None:
                control.heard = False
                control.send(_PING)
            if silent > self._timing.silent_pings_max:
                silent = 0
                self._cut()

    def _cut(self) -> None:
        """What is queued here would arrive late or never: better a fresh connection."""
        log.warning("%s does not answer; its connections are cut", self._node)
        for lane in self.lanes.values():
            if lane.connection is not None:
                lane.connection.abort(Unavailable(f"{self._node} does not answer"))

    # -- told and asked by the lanes ----------------------------------------------------------

    def make_hello(self, lane: Lane) -> Hello:
        return self._callbacks.make_hello(lane)

    def check_welcome(self, welcome: Welcome) -> None:
        self._callbacks.check_welcome(self._node, welcome)

    async def wait_for_turn(self, lane: Lane) -> None:
        """One lane knocks for all: the others dial once the control lane stands."""
        if lane is not Lane.CONTROL:
            await self._control_up.wait()

    def lane_up(self, lane: Lane) -> None:
        self._standing.add(lane)
        if lane is Lane.CONTROL:
            self._control_up.set()
        if self.is_connected:
            self._is_lost = self._is_gone = False
            self._refusals = RepeatFilter()
            log.info("connected to %s", self._node)
            self._callbacks.on_connected(self._node)

    def lane_lost(self, lane: Lane, reason: KVError | None) -> None:
        self._standing.discard(lane)
        if lane is Lane.CONTROL:
            self._control_up.clear()
        log.debug("lane %s to %s is lost: %s", lane.name, self._node, reason)
        self._is_lost = True
        self._callbacks.on_dropped(self._node, lane)

    def nobody_listens(self) -> None:
        if self._is_lost and not self._is_gone:
            self._is_gone = True
            log.warning("%s is gone: its connections closed and nobody listens", self._node)
            self._callbacks.on_gone(self._node)

    def dial_failed(self, error: KVError) -> None:
        if isinstance(error, Unavailable):
            log.debug("cannot reach %s: %s", self._node, error)
            return
        if self._refusals.is_new(error.code, asyncio.get_running_loop().time()):
            log.warning("%s and this node cannot work together: %s", self._node, error)
            self._callbacks.on_refused(self._node, error)
