"""What a node says of itself and of whoever catches up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from server_support import Rig

from kvstore.config import NodeAddress
from kvstore.ids import META_SHARD, LogIndex, NodeId, ReplicaId
from kvstore.raft.ready import PeerProgress
from kvstore.server.status import _catching_up, node_status

ADDRESS = NodeAddress(NodeId("n1"), "h:1")
OTHER = ReplicaId(2)


def told(state: str, match_index: int, stored: int, *, size_bytes: int = 1000) -> Any:
    """What is said of a learner that is so far, of a log of 10 entries."""
    host = SimpleNamespace(machine=SimpleNamespace(size_bytes=size_bytes), replicas={OTHER: "n2"})
    match = LogIndex(match_index)
    peer = PeerProgress(OTHER, state, match, LogIndex(match + 1), True, 0.0, stored)
    status = SimpleNamespace(progress=(peer,), last_index=10)
    (row,) = _catching_up(cast("Any", host), cast("Any", status), [OTHER])
    return row


@pytest.mark.parametrize(
    ("state", "match_index", "stored", "bytes_sent"),
    [
        ("probe", 0, 0, 0),
        ("snapshot", 0, 300, 300),
        ("replicate", 5, 0, 500),
        ("replicate", 10, 0, 1000),
        ("replicate", 12, 0, 1000),
    ],
)
def test_how_much_a_learner_has(state: str, match_index: int, stored: int, bytes_sent: int) -> None:
    assert told(state, match_index, stored) == {
        "node": "n2", "state": state, "match_index": match_index, "last_index": 10,
        "bytes_sent": bytes_sent, "bytes_total": 1000,
    }  # fmt: skip


def test_a_snapshot_may_be_larger_than_it_was_taken_for() -> None:
    row = told("snapshot", 0, 1200)
    assert (row["bytes_sent"], row["bytes_total"]) == (1200, 1200)


def test_of_an_empty_shard_nothing_is_sent() -> None:
    assert told("replicate", 10, 0, size_bytes=0)["bytes_sent"] == 0


async def test_the_meta_group_stands_apart() -> None:
    rig = Rig(voters=1)
    await rig.lead()
    said = node_status(ADDRESS, [rig.host], uptime_s=1.0, now=rig.now, loop={"beat_ms": 4.0})
    assert ([row["role"] for row in said["shards"]], said["meta"]) == (["leader"], None)
    assert said["loop"] == {"beat_ms": 4.0}
    rig.host.shard = META_SHARD
    said = node_status(ADDRESS, [rig.host], uptime_s=1.0, now=rig.now, loop={"beat_ms": 4.0})
    assert (said["shards"], said["meta"]["role"]) == ([], "leader")
