"""How messages of all groups leave a node: one frame per peer, lane and tick.

What brings a newcomer the old part of a log has its place behind everything else: it goes in
the lane of snapshots and is held to a pace. To the cores that is a slow network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kvstore.ids import GroupId, NodeId, group_of_shard
from kvstore.net.transport import Lane
from kvstore.raft.log import size_of
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    Message,
    SnapshotChunk,
    SnapshotResponse,
)
from kvstore.server.pacing import PAUSE_S_MIN
from kvstore.server.shard_host import ShardHost
from kvstore.wire.frames import encode_frame
from kvstore.wire.kinds import Kind
from kvstore.wire.raft_codec import encode_bodies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.ids import ReplicaId
    from kvstore.net.transport import PeerTransport
    from kvstore.server.pacing import Pace

FRAME_BODY_BYTES: Final = 4 * 1024 * 1024
"""Messages gathered into one frame, unless a single one is larger."""

LOG_WEIGHT: Final = 4
"""A byte of the log costs the newcomer as much as so many of a snapshot: each entry is run."""

WEIGHED_BYTES: Final = 1024 * 1024
"""Of one entry at most; a larger one is a single command, and its rest is no more work."""


@dataclass(slots=True)
class Outbox:
    """Messages of one tick by destination, each list one frame."""

    frames: dict[tuple[NodeId, Lane], list[tuple[GroupId, Message]]] = field(default_factory=dict)
    old: list[tuple[NodeId, ShardHost, AppendRequest]] = field(default_factory=list)
    """Old parts of logs, for newcomers."""

    def add(self, host: ShardHost, messages: Sequence[Message]) -> None:
        """Messages that the core of ``host`` wants sent."""
        if not messages:
            return
        group, own, replicas = group_of_shard(host.shard), host.core.replica, host.replicas
        for message in messages:
            node = replicas.get(message.receiver)
            if node is None or message.receiver == own:
                continue
            if type(message) is AppendRequest and message.is_catch_up:
                self.old.append((node, host, message))
            else:
                self.frames.setdefault((node, lane_of(message)), []).append((group, message))


_LANES: Final[dict[type[Message], Lane]] = {
    AppendRequest: Lane.DATA,
    AppendResponse: Lane.DATA,
    SnapshotChunk: Lane.BULK,
    SnapshotResponse: Lane.BULK,
}


def lane_of(message: Message) -> Lane:
    """Control for what must never wait, data for appends, bulk for snapshots."""
    return _LANES.get(type(message), Lane.CONTROL)


class Sender:
    """Invariant: at most one message is held back for each replica.

    Others that come for it meanwhile are dropped: the core asks again with the next heartbeat.
    What is held back for a group that leaves this node is never sent.
    """

    def __init__(
        self,
        peers: PeerTransport,
        pace: Pace | None,
        *,
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        on_dropped: Callable[[NodeId], None],
    ) -> None:
        """Send by ``peers``.

        Args:
            peers: Takes the frames.
            pace: For old parts of logs; None for none.
            later: Runs something in so many seconds, unless the driver has stopped by then.
            clock: Steady seconds.
            on_dropped: Told whose messages did not fit its queue.
        """
        self._peers = peers
        self._pace = pace
        self._later = later
        self._clock = clock
        self._on_dropped = on_dropped
        self._dropped: set[NodeId] = set()
        self._held: set[tuple[GroupId, ReplicaId]] = set()

    def send(self, outbox: Outbox) -> None:
        """Send everything, the old parts of logs in their time."""
        for (node, lane), messages in outbox.frames.items():
            self._send(node, lane, messages)
        for node, host, message in outbox.old:
            self._send_old(node, host, message)
        self._tell_dropped()

    def _send(self, node: NodeId, lane: Lane, messages: list[tuple[GroupId, Message]]) -> None:
        for body in encode_bodies(messages, FRAME_BODY_BYTES):
            sent = self._peers.send(node, lane, encode_frame(Kind.RAFT, 0, body))
            if not sent and lane is not Lane.CONTROL:
                self._dropped.add(node)

    def _send_old(self, node: NodeId, host: ShardHost, message: AppendRequest) -> None:
        group = group_of_shard(host.shard)
        held = group, message.receiver
        if held in self._held:
            return
        wait_s = 0.0
        if self._pace is not None:
            charge = sum(map(_charge, message.entries))
            wait_s = self._pace.reserve(charge, self._clock())
        if wait_s < PAUSE_S_MIN:
            self._send(node, Lane.BULK, [(group, message)])
            return

        def send_now() -> None:
            self._held.discard(held)
            if host.has_left:
                return
            self._send(node, Lane.BULK, [(group, message)])
            self._tell_dropped()

        self._held.add(held)
        self._later(wait_s, send_now)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, set()
            for node in sorted(dropped):
                self._on_dropped(node)


def _charge(entry: Entry) -> int:
    """What sending it to a newcomer costs, in bytes of a snapshot."""
    size = size_of(entry)
    return size + (LOG_WEIGHT - 1) * min(size, WEIGHED_BYTES)
