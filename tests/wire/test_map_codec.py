from __future__ import annotations

from typing import Any

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId
from kvstore.sharding import map_wire
from kvstore.sharding.shard_map import bootstrap
from kvstore.wire.codec import pack, unpack
from kvstore.wire.map_codec import decode_map, encode_map
from kvstore.wire.requests import decode_shard_map_reply, encode_shard_map_reply

NODES = tuple(NodeAddress(NodeId(name), f"h:{port}") for port, name in enumerate("abc", 1))
MAP = bootstrap(ClusterConfig(id="c", nodes=NODES, shards=4, replicas=3))
WIRE = map_wire.encode(MAP)


def test_a_map_comes_back() -> None:
    assert decode_map(encode_map(MAP)) == MAP


def test_it_is_said_to_nodes_as_it_is_to_clients() -> None:
    reply = decode_shard_map_reply(encode_shard_map_reply(map_wire.encode(MAP), {}, 0))
    assert unpack(encode_map(MAP)) == reply.map == map_wire.encode(MAP)


@pytest.mark.parametrize("value", [None, [], {}, 1, WIRE | {"format": 3}, WIRE | {"replicas": []}])
def test_what_is_no_map_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError, match="not a shard map"):
        decode_map(pack(value))


@pytest.mark.parametrize("body", [b"", b"\xc1", encode_map(MAP)[:-1], encode_map(MAP) + b"\0"])
def test_what_is_not_msgpack_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="msgpack"):
        decode_map(body)


def test_depth_is_refused_as_anything_else() -> None:
    whole = map_wire.encode(MAP)
    del whole["shards"]
    shallow = bytearray(pack(whole))
    shallow[0] += 1  # room for one more
    with pytest.raises(ProtocolError, match="not a shard map"):
        decode_map(bytes(shallow) + pack("shards") + b"\x91" * 1015 + b"\xc0")
