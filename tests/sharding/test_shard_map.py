from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId, ShardId
from kvstore.sharding import ring
from kvstore.sharding.shard_map import ShardMap, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable

CLUSTER = ClusterConfig(
    id="c",
    nodes=(
        NodeAddress(NodeId("n3"), "127.0.0.1:7403", 2.0, "b"),
        NodeAddress(NodeId("n1"), "127.0.0.1:7401"),
        NodeAddress(NodeId("n2"), "127.0.0.1:7402"),
        NodeAddress(NodeId("n4"), "127.0.0.1:7404"),
    ),
    shards=16,
    replicas=3,
)


def test_the_first_map_numbers_replicas_by_their_nodes_position() -> None:
    shard_map = bootstrap(CLUSTER)
    assert (shard_map.version, shard_map.shards) == (1, 16)
    position = {"n3": 1, "n1": 2, "n2": 3, "n4": 4}
    for shard in range(16):
        replicas = shard_map.replicas_of(ShardId(shard))
        assert len(replicas) == 3
        assert all(position[replica.node] == replica.id for replica in replicas)


def test_keys_and_nodes_are_found() -> None:
    shard_map = bootstrap(CLUSTER)
    assert shard_map.shard_of(b"key") == ring.shard_of(b"key", 16)
    assert shard_map.node("n2").port == 7402
    with pytest.raises(KeyError):
        shard_map.node("n9")


def test_the_wire_form_comes_back_equal() -> None:
    shard_map = bootstrap(CLUSTER)
    assert ShardMap.from_wire(shard_map.to_wire()) == shard_map


def test_unknown_fields_are_left_for_later_versions() -> None:
    shard_map = bootstrap(CLUSTER)
    assert ShardMap.from_wire(shard_map.to_wire() | {"buckets": []}) == shard_map


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"version": 0},
        {"version": True},
        {"shards": 3},
        {"shards": 2048},
        {"shards": "16"},
        {"shards": 8},
        {"nodes": []},
        {"nodes": None},
        {"nodes": [["n1", "127.0.0.1:1", 1.0]]},
        {"nodes": [["n1", "nowhere", 1.0, ""]] * 4},
        {"nodes": [[name, "h:1", float("nan"), ""] for name in ("n1", "n2", "n3", "n4")]},
        {"nodes": [[1, "h:1", 1.0, ""]]},
        {"nodes": [[name, "h:1", "1", ""] for name in ("n1", "n2", "n3", "n4")]},
        {"nodes": [[name, "h:1", True, ""] for name in ("n1", "n2", "n3", "n4")]},
        {"nodes": [["n1", "h:1", 1.0, ""]] * 2},
        {"replicas": [[]] * 16},
        {"replicas": [[[1, "n9"]]] * 16},
        {"replicas": [[[1, "n1"], [2, "n1"]]] * 16},
        {"replicas": [[[1, "n1"], [1, "n2"]]] * 16},
        {"replicas": [[[0, "n1"]]] * 16},
        {"replicas": [[[1, ["n1"]]]] * 16},
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="not a shard map"):
        ShardMap.from_wire(bootstrap(CLUSTER).to_wire() | change)


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "value",
    [deep(2000), "x" * 10**6, b"x" * 10**6, [0] * 10**6],
    ids=["deep", "text", "bytes", "list"],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda value: {"format": value},
        lambda value: {"version": value},
        lambda value: {"shards": value},
        lambda value: {"nodes": [["n1", value, 1.0, ""]]},
        lambda value: {"nodes": [["n1", "h:1", value, ""]]},
        lambda value: {"replicas": [[[value, "n1"]]] * 16},
        lambda value: {"replicas": [[[1, value]]] * 16},
    ],
)
def test_a_refusal_is_short_whatever_came(change: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ProtocolError, match="not a shard map") as refused:
        ShardMap.from_wire(bootstrap(CLUSTER).to_wire() | change(value))
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("wire", [None, [], "map", {}, 7])
def test_what_is_no_map_is_refused(wire: object) -> None:
    with pytest.raises(ProtocolError):
        ShardMap.from_wire(wire)
