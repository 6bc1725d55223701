"""The shard map as plain maps, lists, numbers and text, with a format version.

Whatever comes from outside is checked by every rule that a map obeys.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

from kvstore.config import SHARDS_MAX, is_address
from kvstore.config.settings import ZONE_CHARS_MAX
from kvstore.errors import ProtocolError
from kvstore.ids import NUMBER_MAX, STAY_MAX, GroupId, NodeId, ReplicaId, is_node_id
from kvstore.sharding.shard_map import Change, MapNode, NodeState, Replica, ShardMap, is_on

FORMAT_VERSION = 2
WHOLE_MAX = (1 << 63) - 1
"""Of any number in a map."""


def encode(shard_map: ShardMap) -> dict[str, Any]:
    """What a frame or a file can carry."""
    return {
        "format": FORMAT_VERSION,
        "version": shard_map.version,
        "shards": shard_map.shards,
        "replication": shard_map.replication,
        "nodes": [
            [node.id, node.address, node.weight, node.zone, node.number, node.state.value]
            for node in shard_map.nodes
        ],
        "replicas": [_encode_replicas(replicas) for replicas in shard_map.replicas],
        "meta": _encode_replicas(shard_map.meta),
        "changes": [
            [c.group, _encode_end(c.add), _encode_end(c.remove), c.begun_at, c.cancelled_at]
            for c in shard_map.changes
        ],
        "stays": list(shard_map.stays),
        "last_number": shard_map.last_number,
        "removed": list(shard_map.removed),
        "rebalancing": shard_map.is_rebalancing,
    }


def _encode_replicas(replicas: tuple[Replica, ...]) -> list[list[Any]]:
    return [[replica.id, replica.node] for replica in replicas]


def _encode_end(replica: Replica | None) -> list[Any] | None:
    return None if replica is None else [replica.id, replica.node]


def decode(wire: object) -> ShardMap:
    """The inverse of :func:`encode`, with every rule checked.

    Raises:
        ProtocolError: not a shard map, or one of another format; the text is short, whatever
            ``wire`` is.
    """
    try:
        return _decode(wire)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"not a shard map: {error!r}") from error


def _decode(wire: Any) -> ShardMap:
    if not isinstance(wire, dict):
        raise TypeError("not a map")
    if wire["format"] != FORMAT_VERSION:
        raise ValueError(f"format {reprlib.repr(wire['format'])} is not {FORMAT_VERSION}")
    shards = _whole(wire["shards"])
    if shards > SHARDS_MAX or shards & (shards - 1):
        raise ValueError(f"{shards} shards")
    nodes = tuple(_decode_node(*row) for row in wire["nodes"])
    numbers = {node.number: node.id for node in nodes}
    last_number = _whole(wire["last_number"], NUMBER_MAX)
    if not len(nodes) == len(numbers) == len(set(numbers.values())):
        raise ValueError("two nodes of one name or number")
    if max(numbers, default=0) > last_number:
        raise ValueError("a node's number is too high")
    replicas = tuple(_decode_replicas(rows, numbers) for rows in wire["replicas"])
    if len(replicas) != shards:
        raise ValueError(f"replicas of {len(replicas)} shards, not {shards}")
    stays = tuple(_whole(stay, STAY_MAX, least=0) for stay in wire["stays"])
    if len(stays) not in (0, shards + 1):
        raise ValueError(f"stays of {len(stays)} groups")
    decoded = ShardMap(
        version=_whole(wire["version"]),
        shards=shards,
        nodes=nodes,
        replicas=replicas,
        meta=_decode_replicas(wire["meta"], numbers),
        replication=_whole(wire["replication"], NUMBER_MAX),
        changes=tuple(_decode_change(row, shards, numbers) for row in wire["changes"]),
        stays=stays,
        last_number=last_number,
        removed=tuple(_node_id(name) for name in wire["removed"]),
        is_rebalancing=wire["rebalancing"] is True,
    )
    _check_changes(decoded)
    return decoded


def _decode_node(
    node_id: Any, address: Any, weight: Any, zone: Any, number: Any, state: Any
) -> MapNode:
    if not (isinstance(zone, str) and isinstance(address, str)):
        raise TypeError("a node's address and zone are text")
    if len(zone) > ZONE_CHARS_MAX or not is_address(address):
        raise ValueError(f"address {reprlib.repr(address)} is not host:port, or the zone is long")
    if type(weight) not in (int, float) or not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight {reprlib.repr(weight)}")
    if not isinstance(state, str) or len(state) > ZONE_CHARS_MAX:
        raise TypeError("a node's state is a short text")
    return MapNode(
        _node_id(node_id),
        _whole(number, NUMBER_MAX),
        address,
        float(weight),
        zone,
        NodeState(state),
    )


def _node_id(name: Any) -> NodeId:
    if not isinstance(name, str) or not is_node_id(name):
        raise ValueError(f"{reprlib.repr(name)} is no node's name")
    return NodeId(name)


def _decode_replicas(rows: Any, numbers: dict[int, NodeId]) -> tuple[Replica, ...]:
    replicas = tuple(_decode_replica(row, numbers) for row in rows)
    if not replicas or len({r.node for r in replicas}) != len(replicas):
        raise ValueError("a group's replicas are on distinct nodes, at least one")
    return replicas


def _decode_replica(row: Any, numbers: dict[int, NodeId]) -> Replica:
    number, node = row
    replica = Replica(ReplicaId(_whole(number, (1 << 32) - 1)), _node_id(node))
    if not is_on(replica, numbers):
        raise ValueError("a replica's id does not tell its node")
    return replica


def _decode_change(row: Any, shards: int, numbers: dict[int, NodeId]) -> Change:
    group, add, remove, begun_at, cancelled_at = row
    if add is None and remove is None:
        raise ValueError("a change of nothing")
    return Change(
        GroupId(_whole(group, shards, least=0)),
        None if add is None else _decode_replica(add, numbers),
        None if remove is None else _decode_replica(remove, numbers),
        _whole(begun_at),
        _whole(cancelled_at, least=0),
    )


def _check_changes(shard_map: ShardMap) -> None:
    groups = [change.group for change in shard_map.changes]
    if groups != sorted(set(groups)):
        raise ValueError("changes are in the order of their groups, one for each")
    for change in shard_map.changes:
        members = shard_map.members(change.group)
        if change.remove is not None and change.remove not in members:
            raise ValueError("only a replica can go")
        if change.add is not None and any(r.node == change.add.node for r in members):
            raise ValueError("a replica comes to a node that has one")


def _whole(value: Any, most: int = WHOLE_MAX, *, least: int = 1) -> int:
    """A whole number in these bounds, which any frame can carry."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{reprlib.repr(value)} is not a whole number from {least} to {most}")
    return value
