"""The shard map by itself, as one node sends it to another that is behind (DESIGN section 5)."""

from __future__ import annotations

from kvstore.sharding.shard_map import ShardMap
from kvstore.wire.codec import pack, unpack


def encode_map(shard_map: ShardMap) -> bytes:
    """The body of a MAP frame."""
    return pack(shard_map.to_wire())


def decode_map(body: bytes) -> ShardMap:
    """Read the body of a MAP frame.

    Raises:
        ProtocolError: malformed, or of a newer format.
    """
    return ShardMap.from_wire(unpack(body))
