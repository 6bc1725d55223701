"""What a node says of the cluster, by the map that it knows."""

from __future__ import annotations

import pytest
from server_support import WALL_MS, Rig

from kvstore.config import ClusterConfig, NodeAddress, NodeConfig
from kvstore.errors import Unavailable
from kvstore.ids import GroupId, NodeId
from kvstore.server.answers import Answers
from kvstore.sharding import changes, map_wire
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.wire.requests import decode_shard_map_reply

N1 = NodeId("n1")
NODES = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in range(1, 5))
CLUSTER = ClusterConfig(id="c", nodes=NODES, shards=1)
GROUP = GroupId(1)


def answers(tmp_path: object, shard_map: ShardMap | None) -> Answers:
    rig = Rig()
    config = NodeConfig(N1, tmp_path, CLUSTER)  # type: ignore[arg-type]
    return Answers(
        config, rig.driver, lambda: shard_map, clock=lambda: rig.now, wall_ms=lambda: WALL_MS
    )


async def test_the_map_is_told_with_the_addresses_that_count_here(tmp_path: object) -> None:
    shard_map = bootstrap(CLUSTER)
    moved = changes.set_address(shard_map, NodeId("n2"), "elsewhere:2")
    reply = decode_shard_map_reply(answers(tmp_path, moved).shard_map_reply())
    assert map_wire.decode(reply.map) == shard_map


async def test_who_knows_no_map_says_so(tmp_path: object) -> None:
    with pytest.raises(Unavailable, match="joins"):
        answers(tmp_path, None).shard_map_reply()
    assert answers(tmp_path, None).preferred(GROUP) is None


async def test_the_first_replica_should_lead_unless_it_is_about_to_go(tmp_path: object) -> None:
    shard_map = bootstrap(CLUSTER)
    first, second, _ = (replica.node for replica in shard_map.replicas[0])
    other = next(n.id for n in NODES if n.id not in {r.node for r in shard_map.replicas[0]})
    assert answers(tmp_path, shard_map).preferred(GROUP) == first
    assert answers(tmp_path, shard_map).preferred(GroupId(0)) is None
    second_goes = changes.begin(shard_map, GROUP, other, second)
    assert answers(tmp_path, second_goes).preferred(GROUP) == first
    first_goes = changes.begin(shard_map, GROUP, other, first)
    assert answers(tmp_path, first_goes).preferred(GROUP) is None
