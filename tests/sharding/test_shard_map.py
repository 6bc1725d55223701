from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId, ShardId
from kvstore.sharding import map_wire, ring
from kvstore.sharding.shard_map import bootstrap, meta_size

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
    assert map_wire.decode(map_wire.encode(shard_map)) == shard_map


def test_unknown_fields_are_left_for_later_versions() -> None:
    shard_map = bootstrap(CLUSTER)
    assert map_wire.decode(map_wire.encode(shard_map) | {"buckets": []}) == shard_map


def four(address: Any, weight: Any, zone: str, more: str = "", state: Any = "active") -> list[Any]:
    names = ("n3", "n1", "n2", "n4")
    return [
        [name, address, weight, zone + more, number, state]
        for number, name in enumerate(names, start=1)
    ]


def test_the_rows_that_are_broken_below_are_whole_otherwise() -> None:
    whole = map_wire.encode(bootstrap(CLUSTER)) | {"nodes": four("h:1", 1.0, "")}
    assert [node.address for node in map_wire.decode(whole).nodes] == ["h:1"] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": 3},
        {"version": 0},
        {"version": True},
        {"shards": 3},
        {"shards": 2048},
        {"shards": "16"},
        {"shards": 8},
        {"nodes": []},
        {"nodes": None},
        {"nodes": [["n1", "127.0.0.1:1", 1.0]]},
        {"nodes": four("nowhere", 1.0, "")},
        {"nodes": four("h:1", float("nan"), "")},
        {"nodes": four("h:1", "1", "")},
        {"nodes": four("h:1", True, "")},
        {"nodes": four("h:1", 1.0, "", "z" * 65)},
        {"nodes": four("h:1", 1.0, "", state="asleep")},
        {"nodes": four("h:1", 1.0, "", state=["active"])},
        {"nodes": [[1, "h:1", 1.0, "", 1, "active"]]},
        {"nodes": [["n1", "h:1", 1.0, "", 1, "active"]] * 4},
        {"nodes": [[name, "h:1", 1.0, "", 1, "active"] for name in ("n1", "n2", "n3", "n4")]},
        {"last_number": 3},
        {"last_number": 1 << 16},
        {"replication": 0},
        {"replicas": [[]] * 16},
        {"replicas": [[[1, "n9"]]] * 16},
        {"replicas": [[[1, "n1"], [2, "n1"]]] * 16},
        {"replicas": [[[1, "n1"], [1, "n2"]]] * 16},
        {"replicas": [[[0, "n1"]]] * 16},
        {"replicas": [[[1 << 32 | 2, "n1"]]] * 16},
        {"replicas": [[[2, "n3"]]] * 16},
        {"meta": []},
        {"meta": [[1, "n1"]]},
        {"stays": [0] * 16},
        {"stays": [1 << 16] * 17},
        {"removed": ["no name"]},
        {"removed": [7]},
        {"changes": [[1, None, None, 1, 0]]},
        {"changes": [[17, None, [1, "n3"], 1, 0]]},
        {"changes": [[0, None, [1, "n3"], 1, -1]]},
        {"changes": [[0, None, [1, "n3"], 0, 0]]},
        {"changes": [[0, None, [1 << 16 | 1, "n3"], 1, 0]]},
        {"changes": [[0, [1 << 16 | 1, "n3"], None, 1, 0]]},
        {"changes": [[0, None, [1, "n3"], 1, 0]] * 2},
        {"replicas": [[[1, ["n1"]]]] * 16},
    ],
)
def test_what_breaks_a_rule_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="not a shard map"):
        map_wire.decode(map_wire.encode(bootstrap(CLUSTER)) | change)


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
        lambda value: {"nodes": [["n1", value, 1.0, "", 1, "active"]]},
        lambda value: {"nodes": [["n1", "h:1", value, "", 1, "active"]]},
        lambda value: {"nodes": [["n1", "h:1", 1.0, value, 1, "active"]]},
        lambda value: {"nodes": [["n1", "h:1", 1.0, "", value, "active"]]},
        lambda value: {"nodes": [["n1", "h:1", 1.0, "", 1, value]]},
        lambda value: {"nodes": [[value, "h:1", 1.0, "", 1, "active"]]},
        lambda value: {"removed": [value]},
        lambda value: {"stays": [value]},
        lambda value: {"changes": [[value, None, [1, "n3"], 1, 0]]},
        lambda value: {"replicas": [[[value, "n1"]]] * 16},
        lambda value: {"replicas": [[[1, value]]] * 16},
    ],
)
def test_a_refusal_is_short_whatever_came(change: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ProtocolError, match="not a shard map") as refused:
        map_wire.decode(map_wire.encode(bootstrap(CLUSTER)) | change(value))
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("wire", [None, [], "map", {}, 7])
def test_what_is_no_map_is_refused(wire: object) -> None:
    with pytest.raises(ProtocolError):
        map_wire.decode(wire)


@pytest.mark.parametrize(("nodes", "size"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (9, 5)])
def test_the_meta_group_grows_to_five(nodes: int, size: int) -> None:
    assert meta_size(nodes) == size
