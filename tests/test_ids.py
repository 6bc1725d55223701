"""What a replica's id says of it, and the numbers of groups."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.ids import (
    LIFE_MAX,
    META_GROUP,
    META_SHARD,
    NUMBER_MAX,
    STAY_MAX,
    GroupId,
    ShardId,
    group_of_shard,
    in_life,
    life_of,
    number_of,
    replica_id,
    shard_of_group,
    stay_of,
)
from kvstore.kv.engine import (
    KEYS_END,
    behind_shard,
    group_of_stamp,
    shard_of_key,
    shard_range,
    stamp_key,
    stamps_range,
)

NUMBERS = st.integers(1, NUMBER_MAX)
LIVES = st.integers(0, LIFE_MAX)
STAYS = st.integers(0, STAY_MAX)


@given(NUMBERS, LIVES, STAYS)
def test_a_replica_id_gives_back_what_it_was_made_of(number: int, life: int, stay: int) -> None:
    replica = replica_id(number, life, stay)
    assert (number_of(replica), life_of(replica), stay_of(replica)) == (number, life, stay)
    assert 0 < replica < 1 << 64


@given(NUMBERS, LIVES, LIVES, STAYS)
def test_another_life_is_of_the_same_copy(number: int, life: int, later: int, stay: int) -> None:
    assert in_life(replica_id(number, life, stay), later) == replica_id(number, later, stay)


def test_the_meta_group_goes_by_a_shard_of_its_own() -> None:
    assert group_of_shard(META_SHARD) == META_GROUP
    assert shard_of_group(META_GROUP) == META_SHARD


def test_the_rows_of_the_meta_group_and_of_the_node_are_no_shards() -> None:
    start, end = shard_range(META_SHARD)
    stamp = stamp_key(META_GROUP)
    last_shard_end = b"\xff\xfd\xff"
    assert last_shard_end < stamp < start < end


@given(st.integers(-1, (1 << 16) - 3).map(ShardId), st.binary(max_size=3))
def test_a_key_tells_whose_row_it_is(shard: ShardId, rest: bytes) -> None:
    start, end = shard_range(shard)
    key = start[:2] + b"\x03" + rest
    assert shard_of_key(key) == shard
    assert key < behind_shard(key) == end <= KEYS_END
    assert behind_shard(key) < shard_range(ShardId(shard + 1))[0] or shard == META_SHARD


@given(st.integers(0, (1 << 32) - 1).map(GroupId))
def test_a_stamp_is_of_its_group_and_no_shards_row(group: GroupId) -> None:
    key = stamp_key(group)
    start, end = stamps_range()
    assert start <= key < end
    assert group_of_stamp(key) == group
    assert shard_of_key(key) is None
    assert key < behind_shard(key) < shard_range(META_SHARD)[0]
