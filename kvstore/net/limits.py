"""What the network may hold and how long it waits: the bounds of every connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.config import LimitsConfig

_KIB = 1 << 10
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class NetLimits:
    """Bounds of one server, one pool of peers, or one client."""

    frame_bytes_max: int = 16 * _MIB
    outbound_bytes_max: int = 32 * _MIB
    """Unsent bytes of one connection. From half of it on nothing more is read from that
    side; beyond it the connection is cut."""
    held_bytes_max: int = 256 * _MIB
    """Half-received frames and unsent bytes of all connections of a server together. Beyond
    it those that hold most are closed."""
    connections_max: int = 4096
    """Clients that have said hello; peers are let in beyond it."""
    peers_max: int = 4096
    """Nodes that have said hello, each on as many lanes as there are."""
    peer_connections_max: int = 16_384
    """Of all of them together. One more is refused, unless that node already has one there."""
    handshakes_max: int = 1024
    """Connections that have not yet said hello. One more evicts the oldest, so that a flood
    of silent strangers cannot keep a peer out."""
    hello_timeout_s: float = 5.0
    frame_timeout_s: float = 30.0
    """For one frame, from its first byte to its last."""
    stall_timeout_s: float = 10.0
    """For a side that does not take any of what waits for it."""
    linger_s: float = 1.0
    """How long a closing connection waits for the other side to read why."""
    sweep_interval_s: float = 0.25
    """How often a server looks for connections beyond these bounds."""
    lane_bytes_max: int = 32 * _MIB
    """Unsent bytes to one peer on one lane."""

    @classmethod
    def of(cls, config: LimitsConfig) -> NetLimits:
        """The bounds that ``config`` asks for."""
        return cls(
            frame_bytes_max=config.frame_bytes_max,
            outbound_bytes_max=config.outbound_bytes_max,
            held_bytes_max=8 * config.outbound_bytes_max,
            connections_max=config.connections_max,
            hello_timeout_s=config.hello_timeout_s,
            lane_bytes_max=config.lane_bytes_max,
        )


@dataclass(frozen=True, slots=True)
class PeerTiming:
    """How hard to try, and how long to believe in silence."""

    dial_timeout_s: float = 2.0
    """For TCP, hello and welcome together."""
    settled_s: float = 0.1
    """How long a connection must have stood for its loss to be answered by dialling at once.
    One that broke sooner may well do so again, and forever."""
    backoff_base_s: float = 0.02
    backoff_cap_s: float = 1.0
    ping_interval_s: float = 0.5
    removed_wait_s: float = 60.0
    """Before another attempt on a peer that says that this node was removed. It will say so
    again, unless it was mistaken."""
    silent_pings_max: int = 5
    """Intervals without a word on the control lane, after which all lanes are cut. Counted
    by our own ticks and not by the clock: time in which this process was frozen itself
    proves nothing about the peer."""


@dataclass(frozen=True, slots=True)
class ContactLimits:
    """How many connections on demand, what may wait for each, and how hard to try."""

    contacts_max: int = 256
    waiting_frames_max: int = 64
    """While one is dialled; the oldest are dropped, for they are the least worth."""
    waiting_bytes_max: int = 256 * _KIB
    """Also of what is unsent later. One larger frame is taken when nothing else waits: a whole
    view of the cluster may be one."""
    idle_s: float = 30.0
    """With nothing to say for so long, the connection is closed."""
    dial_timeout_s: float = 2.0
    settled_s: float = 0.1
    """As in :class:`PeerTiming`."""
    backoff_base_s: float = 0.25
    """A member that probably died need not be dialled as eagerly as a standing peer."""
    backoff_cap_s: float = 2.0
    removed_wait_s: float = 60.0
    """As in :class:`PeerTiming`."""
