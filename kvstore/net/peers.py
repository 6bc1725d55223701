"""Outgoing connections to every other node of the cluster, and what their loss means.

A peer is *connected* when all its lanes stand. It is *gone* when a lane that stood was lost
and its host then answers that nobody listens: only a dead process does that (DESIGN section
4, fast path). A frozen or cut-off one is neither: its kernel still accepts, or nothing
answers at all. That is noticed by unanswered pings, and left to Raft's own timeouts.

Who is a peer changes while all runs. The lanes to one that is no peer any more say goodbye, and
nothing is told of it from then on. Of one name there is only ever one set of lanes: one that
comes back, or has moved, is dialled when its old lanes have closed, however often that happens.

Incoming connections of peers are the server's (:mod:`kvstore.net.server`): each direction
has connections of its own, so that a frame never waits for a decision who dials whom.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kvstore.errors import KVError, Removed, Unavailable
from kvstore.ids import NodeId
from kvstore.net.backoff import Backoff
from kvstore.net.lane import PeerLane
from kvstore.net.limits import PeerTiming
from kvstore.net.repeats import RepeatFilter
from kvstore.net.tasks import start_task
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
    """The peer turned us away, or we turned it down; once per cause until connected.

    A :class:`kvstore.errors.Removed` is of no one peer, so the pool has not logged it: all of
    them will say the same."""


class PeerPool:
    """Implements :class:`kvstore.net.transport.PeerTransport`.

    Invariant: while it runs, each peer has lanes, or old ones of its name are closing.
    """

    def __init__(
        self,
        peers: Mapping[NodeId, str],
        callbacks: PeerCallbacks,
        *,
        limits: NetLimits,
        rng: random.Random,
        timing: PeerTiming | None = None,
    ) -> None:
        """``peers`` are the other nodes' addresses, ``host:port``, at first."""
        self._addresses: Mapping[NodeId, str] = dict(peers)  # replaced, never changed
        self._callbacks = callbacks
        self._limits = limits
        self._timing = timing or PeerTiming()
        self._rng = rng
        self._peers: dict[NodeId, _Peer] = {}
        self._closing: dict[NodeId, asyncio.Task[None]] = {}
        self._is_running = False
        self._is_closed = False

    @property
    def peers(self) -> Mapping[NodeId, str]:
        """Who the peers are now, and their addresses; stays as it is when they change."""
        return self._addresses

    def start(self) -> None:
        """Begin to dial; needs a running event loop."""
        self._is_running = not self._is_closed
        self._dial_missing()

    def set_peers(self, peers: Mapping[NodeId, str]) -> None:
        """From now on exactly these are the peers; returns at once.

        Nothing is told of those that are no longer among them. What was accepted for one that
        has moved may be lost with its lanes, of which the owner is told as of any loss.
        """
        if self._is_closed:
            return
        self._addresses = dict(peers)
        dropped: list[tuple[NodeId, Lane]] = []
        for node, peer in list(self._peers.items()):
            if peer.address != peers.get(node):
                dropped += [(node, lane) for lane in peer.standing if node in peers]
                self._close(node, peer)
        self._dial_missing()
        for node, lane in dropped:
            self._callbacks.on_dropped(node, lane)

    async def close(self) -> None:
        """Say goodbye on every lane and return when no task is left."""
        self._is_running, self._is_closed = False, True
        for node, peer in list(self._peers.items()):
            self._close(node, peer)
        await asyncio.gather(*self._closing.values())

    def _dial_missing(self) -> None:
        if not self._is_running:
            return
        for node, address in self._addresses.items():
            if node not in self._peers and node not in self._closing:
                peer = _Peer(node, address, self._callbacks, self._limits, self._timing, self._rng)
                self._peers[node] = peer
                peer.start()

    def _close(self, node: NodeId, peer: _Peer) -> None:
        """End the lanes of ``peer``; only then may others of its name be dialled."""
        del self._peers[node]
        peer.stop()
        self._closing[node] = start_task(self._finish(node, peer), f"goodbye to {node}")

    async def _finish(self, node: NodeId, peer: _Peer) -> None:
        try:
            await peer.wait_stopped()
        finally:
            del self._closing[node]
        self._dial_missing()

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        """Queue an encoded frame for ``peer``; False when it was dropped (lane down or full)."""
        known = self._peers.get(peer)
        return known is not None and known.lanes[lane].send(frame)

    def has(self, node: NodeId) -> bool:
        """Whether ``node`` is one of the peers, connected or not."""
        return node in self._addresses

    def is_connected(self, peer: NodeId) -> bool:
        """Whether all lanes to ``peer`` stand."""
        known = self._peers.get(peer)
        return known is not None and known.is_connected


class _Peer:
    """The lanes to one node at one address. Implements :class:`kvstore.net.lane.LaneOwner`.

    Invariant: once it is stopped, the pool's owner is told nothing more of it.
    """

    def __init__(
        self,
        node: NodeId,
        address: str,
        callbacks: PeerCallbacks,
        limits: NetLimits,
        timing: PeerTiming,
        rng: random.Random,
    ) -> None:
        self.address = address
        self.standing: set[Lane] = set()
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
        self._control_up = asyncio.Event()
        self._is_lost = False
        """A lane was lost since all of them stood."""
        self._is_gone = False
        """And the peer's death has been told."""
        self._is_stopped = False
        self._refusals = RepeatFilter()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_connected(self) -> bool:
        return len(self.standing) == len(self.lanes)

    def start(self) -> None:
        self._tasks = [
            start_task(lane.run(), f"lane {lane.lane.name} to {self._node}")
            for lane in self.lanes.values()
        ]
        self._tasks.append(start_task(self._watch(), f"pings to {self._node}"))

    def stop(self) -> None:
        """Begin to say goodbye."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    async def wait_stopped(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        if self._is_stopped:
            return
        self.standing.add(lane)
        if lane is Lane.CONTROL:
            self._control_up.set()
        if self.is_connected:
            self._is_lost = self._is_gone = False
            self._refusals = RepeatFilter()
            log.info("connected to %s", self._node)
            self._callbacks.on_connected(self._node)

    def lane_lost(self, lane: Lane, reason: KVError | None) -> None:
        if self._is_stopped:
            return
        self.standing.discard(lane)
        if lane is Lane.CONTROL:
            self._control_up.clear()
        log.debug("lane %s to %s is lost: %s", lane.name, self._node, reason)
        self._is_lost = True
        self._callbacks.on_dropped(self._node, lane)

    def nobody_listens(self) -> None:
        if self._is_lost and not self._is_gone and not self._is_stopped:
            self._is_gone = True
            log.warning("%s is gone: its connections closed and nobody listens", self._node)
            self._callbacks.on_gone(self._node)

    def dial_failed(self, error: KVError) -> None:
        if self._is_stopped:
            return
        if isinstance(error, Unavailable):
            log.debug("cannot reach %s: %s", self._node, error)
            return
        if self._refusals.is_new(error.code, asyncio.get_running_loop().time()):
            if not isinstance(error, Removed):
                log.warning("%s and this node cannot work together: %s", self._node, error)
            self._callbacks.on_refused(self._node, error)
