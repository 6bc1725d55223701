"""One map follows another: ids are never used again, and nobody is lost on the way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import InvalidArgument
from kvstore.ids import META_GROUP, STAY_MAX, GroupId, NodeId, number_of, stay_of
from kvstore.sharding import changes, map_wire
from kvstore.sharding.shard_map import NodeState, Replica, ShardMap, bootstrap

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))
CLUSTER = ClusterConfig(
    id="c",
    nodes=tuple(NodeAddress(node, f"h:{at}") for at, node in enumerate((N1, N2, N3), 1)),
    shards=4,
)
FIRST = bootstrap(CLUSTER)
SHARD = GroupId(1)


def with_four() -> ShardMap:
    return changes.admit(FIRST, N4, "h:4", 1.0, "")


def nodes_of(shard_map: ShardMap, group: GroupId) -> list[NodeId]:
    return [replica.node for replica in shard_map.members(group)]


def test_whoever_is_admitted_gets_the_next_number_and_holds_nothing() -> None:
    four = with_four()
    assert four.node(N4).number == 4
    assert four.held_by(N4) == {}
    assert changes.admit(changes.expel(four, N4), N5, "h:5", 1.0, "").node(N5).number == 5


@pytest.mark.parametrize("node", [N1, N4])
def test_a_name_is_admitted_once(node: NodeId) -> None:
    gone = changes.expel(with_four(), N4)
    with pytest.raises(InvalidArgument, match="is or was a member"):
        changes.admit(gone, node, "h:9", 1.0, "")


def test_a_change_brings_in_a_replica_in_the_place_of_another() -> None:
    begun = changes.begin(with_four(), SHARD, N4, N2)
    change = begun.change_of(SHARD)
    assert change is not None
    assert change.add is not None
    assert (number_of(change.add.id), stay_of(change.add.id)) == (4, 1)
    assert begun.members(SHARD) == FIRST.members(SHARD), "nothing has happened yet"
    assert begun.held_by(N4) == {SHARD: change.add.id}
    assert N4 in begun.neighbours(N2)
    assert begun.neighbours(N4) == {N1, N2, N3}
    done = changes.finish(begun, change)
    place = nodes_of(FIRST, SHARD).index(N2)
    assert nodes_of(done, SHARD)[place] == N4
    assert done.changes == ()
    assert SHARD not in done.held_by(N2)


def test_whoever_comes_back_comes_under_another_id() -> None:
    shard_map, seen = with_four(), {replica.id for replica in FIRST.members(SHARD)}
    for add, remove in [(N4, N2), (N2, N4), (N4, N3), (N3, N4)]:
        shard_map = changes.begin(shard_map, SHARD, add, remove)
        change = shard_map.change_of(SHARD)
        assert change is not None
        assert change.add is not None
        assert change.add.id not in seen
        seen.add(change.add.id)
        shard_map = changes.finish(shard_map, change)


def test_an_id_of_a_change_that_was_given_up_is_not_used_again() -> None:
    begun = changes.begin(with_four(), SHARD, N4, N2)
    first = begun.changes[0]
    given_up = changes.cancel(begun, first)
    assert given_up.changes[0].cancelled_at == begun.version + 1
    back = changes.abandon(given_up, given_up.changes[0])
    assert back.members(SHARD) == FIRST.members(SHARD)
    again = changes.begin(back, SHARD, N4, N2).changes[0]
    assert first.add is not None
    assert again.add is not None
    assert stay_of(again.add.id) == stay_of(first.add.id) + 1


def test_a_group_has_one_change_at_a_time() -> None:
    begun = changes.begin(with_four(), SHARD, N4, N2)
    with pytest.raises(InvalidArgument, match="already"):
        changes.begin(begun, SHARD, N4, N3)


def test_a_group_that_was_changed_too_often_stays() -> None:
    stays = [0] * 5
    stays[SHARD] = STAY_MAX
    worn = replace(with_four(), stays=tuple(stays))
    with pytest.raises(InvalidArgument, match="stays now"):
        changes.begin(worn, SHARD, N4, N2)
    assert changes.begin(worn, SHARD, None, N2).changes, "one can still go"


def test_nobody_is_expelled_who_holds_something() -> None:
    with pytest.raises(InvalidArgument, match="still holds"):
        changes.expel(FIRST, N1)
    coming = changes.begin(with_four(), META_GROUP, N4, None)
    with pytest.raises(InvalidArgument, match="still holds"):
        changes.expel(coming, N4)


def test_a_preferred_leader_comes_first() -> None:
    preferred = changes.prefer(FIRST, [members[-1].node for members in FIRST.replicas])
    for before, after in zip(FIRST.replicas, preferred.replicas, strict=True):
        assert after == (before[-1], *before[:-1])


def test_what_is_under_way_is_seen_to_its_end() -> None:
    begun = changes.begin(with_four(), SHARD, N4, N2)
    begun = changes.begin(begun, GroupId(2), N4, N3)
    begun = changes.cancel(begun, begun.changes[1])
    end = changes.after(begun)
    assert end.changes == ()
    assert N4 in nodes_of(end, SHARD)
    assert N2 not in nodes_of(end, SHARD)
    assert nodes_of(end, GroupId(2)) == nodes_of(FIRST, GroupId(2))


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_whatever_is_done_the_map_stays_whole(seed: int, steps: int) -> None:
    rng, shard_map = random.Random(seed), FIRST
    given_out: dict[GroupId, set[int]] = {
        g: {r.id for r in FIRST.members(g)} for g in FIRST.groups()
    }
    for _ in range(steps):
        before = shard_map
        shard_map = changes.succeed(before, _any_step(before, rng))
        for change in set(shard_map.changes) - set(before.changes):
            if change.add is not None and not change.cancelled_at:
                assert change.add.id not in given_out[change.group]
                given_out[change.group].add(change.add.id)
        assert map_wire.decode(map_wire.encode(shard_map)) == shard_map
        assert shard_map.version == before.version + 1


def _any_step(shard_map: ShardMap, rng: random.Random) -> ShardMap:
    if shard_map.changes and rng.random() < 0.5:
        change = rng.choice(shard_map.changes)
        if change.cancelled_at:
            return changes.abandon(shard_map, change)
        return rng.choice((changes.finish, changes.cancel))(shard_map, change)
    match rng.randrange(4):
        case 0:
            number = shard_map.last_number + 1
            return changes.admit(shard_map, NodeId(f"n{number}"), f"h:{number}", 1.0, "")
        case 1:
            node = rng.choice(shard_map.nodes)
            state = rng.choice(list(NodeState))
            return changes.set_weight(changes.set_state(shard_map, node.id, state), node.id, 2.0)
        case 2:
            idle = [node.id for node in shard_map.nodes if not shard_map.held_by(node.id)]
            return changes.expel(shard_map, rng.choice(idle)) if idle else shard_map
    return _begin_any(shard_map, rng)


def _begin_any(shard_map: ShardMap, rng: random.Random) -> ShardMap:
    group = rng.choice(list(shard_map.groups()))
    if shard_map.change_of(group) is not None:
        return shard_map
    members = shard_map.members(group)
    holders = {replica.node for replica in members}
    others = [node.id for node in shard_map.nodes if node.id not in holders]
    add = rng.choice([None, *others])
    remove = rng.choice([None, *members] if len(members) > 1 or add else [None])
    if add is None and remove is None:
        return shard_map
    return changes.begin(
        shard_map, group, add, remove.node if isinstance(remove, Replica) else None
    )
