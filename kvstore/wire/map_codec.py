"""The shard map by itself, as one node sends it to another that is behind (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.sharding import map_wire
from kvstore.wire.codec import UINT, check_fields, pack, unpack

if TYPE_CHECKING:
    from kvstore.sharding.shard_map import ShardMap


def encode_map(shard_map: ShardMap) -> bytes:
    """The body of a MAP frame."""
    return pack(map_wire.encode(shard_map))


def encode_news(version: int) -> bytes:
    """The body of a MAP_NEWS frame."""
    return pack([version])


def decode_news(body: bytes) -> int:
    """Read the body of a MAP_NEWS frame: a version.

    Raises:
        ProtocolError: malformed.
    """
    version: int = check_fields(unpack(body), "news of a map", UINT)[0]
    return version


def decode_map(body: bytes) -> ShardMap:
    """Read the body of a MAP frame.

    Raises:
        ProtocolError: malformed, or of a newer format.
    """
    return map_wire.decode(unpack(body))
