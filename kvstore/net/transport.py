"""The seam between what decides to send and what knows sockets."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from kvstore.ids import NodeId


class Lane(IntEnum):
    """The connections from one node to another, one for each (the bulkhead pattern).

    What waits on one lane never delays another: a snapshot cannot hold up a heartbeat.
    """

    CONTROL = 0
    """Heartbeats, votes, read confirmations: small, and never late."""
    DATA = 1
    """Log entries and their answers."""
    BULK = 2
    """Snapshots and moves of shards."""
    CONTACT = 3
    """What is said now and then, mostly to nodes without standing lanes (see
    :mod:`kvstore.net.contacts`). Whoever dials a mere address may reach a node that has them,
    and must not take the place of its control lane."""


STANDING_LANES: Final = (Lane.CONTROL, Lane.DATA, Lane.BULK)
"""Those that :class:`kvstore.net.peers.PeerPool` keeps up to every peer."""


class PeerTransport(Protocol):
    """Sends to other nodes; :class:`kvstore.net.peers.PeerPool`, or a fake in tests."""

    def send(self, peer: NodeId, lane: Lane, frame: bytes) -> bool:
        """Queue an encoded frame; False when it was dropped.

        It is dropped when the lane is down or full. True promises nothing: the connection
        may still break before the frame arrives.
        """
        ...
