"""The numbers that say what a frame holds (DESIGN section 8).

1-15 are about the connection itself and are handled by :mod:`kvstore.net`; 16-31 are what
clients ask; 32-47 are answers; 48 and up are what nodes say to each other. A number is never
given a second meaning.
"""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """What a frame's body is. Which module encodes it stands beside each."""

    HELLO = 1
    """The first frame of whoever connects: :class:`kvstore.wire.hello.Hello`."""
    WELCOME = 2
    """The answer to a hello that is accepted: :class:`kvstore.wire.hello.Welcome`."""
    ERROR = 3
    """Instead of a reply, or for request 0 about the connection, which then ends:
    :func:`kvstore.wire.requests.encode_error`."""
    GOODBYE = 4
    """The sender closes the connection as planned; no body."""
    PING = 5
    """Answered by a PONG with the same request id; no body."""
    PONG = 6
    WRITE = 16
    """The kinds of a client's requests: :mod:`kvstore.wire.requests`."""
    READ = 17
    SCAN = 18
    SHARD_MAP = 19
    STATUS = 20
    CHECKSUM = 21
    """:mod:`kvstore.wire.checksums`."""
    MEMBERS = 22
    """The view of the asked node, no body; with EVENTS: :mod:`kvstore.wire.membership`."""
    EVENTS = 23
    ORDER = 24
    """Of an administrator, with TRANSFER: :mod:`kvstore.wire.admin`."""
    TRANSFER = 25
    REPLY = 32
    """The answer to a client's request, with that request's id."""
    RAFT = 48
    """Raft messages of many groups: :mod:`kvstore.wire.raft_codec`."""
    SWIM = 49
    """One message of the membership: :mod:`kvstore.wire.swim_codec`."""
    MAP_PULL = 50
    """Answered by a MAP if the receiver has one; no body."""
    MAP = 51
    """The shard map as the sender has it: :mod:`kvstore.wire.map_codec`."""
    MAP_NEWS = 53
    """The version of the shard map that the sender has, for whoever is behind to pull it."""
    REPORTS = 52
    """How far the groups are that the sender leads: :mod:`kvstore.wire.report_codec`."""


APPLICATION_KINDS = frozenset(kind.value for kind in Kind if kind >= Kind.WRITE)
"""What a connection hands on without a look."""
