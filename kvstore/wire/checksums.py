"""Comparing replicas: what is asked of each, and what it answers.

Replicas of a shard must be equal at equal applied index, and at no other time can they be
compared. So a request names an index, and a replica answers with the checksum of its state
exactly there, whether it leads or follows. One that cannot (it has passed the index, or does
not reach it in time) answers with where it is, so that the next index can be chosen well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvstore.errors import ProtocolError
from kvstore.wire.codec import NIL, UINT, check_fields, pack, unpack
from kvstore.wire.requests import decode_fields

if TYPE_CHECKING:
    from kvstore.ids import LogIndex, ShardId, Term

_REPLY_FIELDS: Final = (UINT, UINT, UINT | NIL, UINT, UINT)


class ChecksumRequest(NamedTuple):
    """The state of one replica at one applied index."""

    shard: ShardId
    index: LogIndex  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """The applied index at which the state is to be taken."""
    wait_ms: int
    """How long the replica may wait to reach it; the node has a bound of its own."""


class ChecksumReply(NamedTuple):
    """Where a replica was, and the checksum of its state if that is where it was asked for."""

    index: LogIndex  # type: ignore[assignment]
    """The applied index: above the one asked for if the replica had passed it, below if it did
    not reach it in time."""
    term: Term
    """The term of the entry at that index."""
    checksum: int | None
    """64 bits over all replicated rows; None unless ``index`` is the one asked for."""
    keys: int
    """How many keys a client can read there."""
    bytes: int
    """Bytes of those keys and their stored values."""


def encode_checksum(request: ChecksumRequest) -> bytes:
    """The body of a CHECKSUM frame."""
    return pack(request)


def decode_checksum(body: bytes) -> ChecksumRequest:
    """Read a CHECKSUM.

    Raises:
        InvalidArgument: malformed.
    """
    shard, index, wait_ms = decode_fields(body, "checksum", UINT, UINT, UINT)
    return ChecksumRequest(shard, index, wait_ms)


def encode_checksum_reply(reply: ChecksumReply) -> bytes:
    """The answer to a CHECKSUM."""
    return pack(reply)


def decode_checksum_reply(body: bytes, asked: LogIndex) -> ChecksumReply:
    """Read the answer to a CHECKSUM at index ``asked``.

    Raises:
        ProtocolError: malformed, or a checksum at another index.
    """
    value = unpack(body, containers_max=1)
    index, term, checksum, keys, size = check_fields(value, "checksum reply", *_REPLY_FIELDS)[:5]
    if (checksum is not None) != (index == asked):
        raise ProtocolError(f"checksum reply: asked at {asked}, answered at {index}")
    return ChecksumReply(index, term, checksum, keys, size)
