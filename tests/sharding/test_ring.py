from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import NodeId, ShardId
from kvstore.sharding import ring

shard_counts = st.integers(0, 10).map(lambda bits: 1 << bits)


@given(key=st.binary(min_size=1, max_size=64), shards=shard_counts)
def test_a_key_lies_in_the_arc_of_its_shard(key: bytes, shards: int) -> None:
    shard = ring.shard_of(key, shards)
    arc = (1 << ring.RING_BITS) // shards
    start = ring.arc_start(shard, shards)
    assert 0 <= shard < shards
    assert start <= ring.position(key) < start + arc


@given(key=st.binary(max_size=64), shards=st.integers(0, 9).map(lambda bits: 1 << bits))
def test_twice_the_shards_split_each_in_two(key: bytes, shards: int) -> None:
    assert ring.shard_of(key, 2 * shards) >> 1 == ring.shard_of(key, shards)


@given(key=st.binary(min_size=1, max_size=64), shards=shard_counts)
def test_a_key_belongs_to_one_shard(key: bytes, shards: int) -> None:
    owners = [s for s in range(shards) if ring.belong_to(ShardId(s), shards)([key])]
    assert owners == [ring.shard_of(key, shards)]


def test_positions_never_change() -> None:
    """Stored data is found by them: a change here loses every cluster's keys."""
    assert ring.position(b"") == 0x2D06800538D394C2
    assert ring.position(b"key") == xxhash.xxh3_64_intdigest(b"key")
    assert ring.arc_start(ShardId(3), 4) == 0xC000000000000000


@pytest.mark.parametrize(
    ("shard", "shards", "arc"),
    [
        (0, 1, ("00", "ff")), (0, 8, ("00", "1f")), (7, 8, ("e0", "ff")), (9, 256, ("09", "09")),
        (1, 512, ("008", "00f")), (1023, 1024, ("ffc", "fff")),
    ],
)  # fmt: skip
def test_an_arc_as_people_read_it(shard: int, shards: int, arc: tuple[str, str]) -> None:
    assert ring.arc_in_hex(ShardId(shard), shards) == arc


def test_keys_spread_evenly() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[ring.shard_of(b"key-%d" % number, 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize(("weight", "count"), [(1.0, 128), (0.5, 64), (2.5, 320), (0.0001, 1)])
def test_tokens_follow_the_weight(weight: float, count: int) -> None:
    tokens = ring.tokens(NodeId("n1"), weight)
    assert len(set(tokens)) == count
    assert tokens[:1] == [ring.position(b"n1#0")]


def test_a_walk_meets_every_node_once_in_the_order_of_its_first_token() -> None:
    walked = ring.Ring({7: [10, 50], 3: [20, 10], 5: [40]})
    assert list(walked.clockwise(0)) == [3, 7, 5]
    assert list(walked.clockwise(11)) == [3, 5, 7]
    assert list(walked.clockwise(41)) == [7, 3, 5]
    assert list(walked.clockwise(51)) == [3, 7, 5]
    assert list(ring.Ring({}).clockwise(0)) == []
