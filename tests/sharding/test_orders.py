"""What an administrator may order, what is refused, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from steered_cluster import N1, N2, N3, N4, N5, PATIENCE_S, Cluster

from kvstore.config import ShardingConfig
from kvstore.errors import InvalidArgument
from kvstore.ids import NodeId, ShardId
from kvstore.sharding import changes, orders
from kvstore.sharding.shard_map import NodeState, ShardMap


def test_what_leaves_too_few_is_refused() -> None:
    it = Cluster()
    for refuse in (orders.drain, lambda m, k, n: orders.remove(m, k, n, is_forced=False)):
        with pytest.raises(InvalidArgument, match="add one first"):
            refuse(it.map, it.known(), N3)
    forced = orders.remove(it.map, it.known(), N3, is_forced=True)
    it.map = changes.succeed(it.map, forced)
    it.settle()
    assert it.map.removed == (N3,)
    assert it.held() == {N1: 8, N2: 8}


def test_what_nobody_alive_could_take_is_not_taken_off_a_node() -> None:
    it = Cluster(4)
    it.settle()
    it.die(N4)
    for order in (orders.drain, lambda m, k, n: orders.remove(m, k, n, is_forced=False)):
        with pytest.raises(
            InvalidArgument, match=r"n4 cannot take what n3 holds.*start n4, or add"
        ):
            order(it.map, it.known(), N3)


def test_who_was_removed_is_told_so_by_every_order() -> None:
    it = Cluster(4)
    it.settle()
    it.map = changes.set_state(it.map, N4, NodeState.REMOVING)
    it.settle()
    for order in (orders.drain, orders.activate, lambda m, k, n: orders.weigh(m, k, n, 2.0)):
        with pytest.raises(InvalidArgument, match="n4 was removed already"):
            order(it.map, it.known(), N4)


def test_who_is_lost_gets_its_share_by_itself_once_it_has_been_there_for_a_while() -> None:
    it = Cluster(4)
    it.settle()
    it.die(N3, PATIENCE_S)
    it.settle()
    with pytest.raises(InvalidArgument, match="once it is started"):
        orders.activate(it.map, it.known(), N3)
    it.join(N3)
    it.seen[N3] = replace(it.seen[N3], is_settled=False)
    it.settle()
    assert it.held()[N3] == 0, "it may be gone again in a moment"
    it.join(N3)
    it.settle()
    assert it.held()[N3] == 6


def test_who_does_not_answer_is_not_made_a_leader() -> None:
    it = Cluster()
    it.die(N1)
    with pytest.raises(InvalidArgument, match="n1 does not answer"):
        orders.prefer(it.map, it.known(), ShardId(0), N1)


def test_what_has_no_majority_is_not_taken_off_a_node_even_by_force() -> None:
    it = Cluster(4)
    it.settle()
    it.die(N1)
    it.die(N2)
    with pytest.raises(InvalidArgument, match="would have no majority"):
        orders.remove(it.map, it.known(), N1, is_forced=True)


def test_what_would_have_no_majority_without_a_node_is_not_taken_off_it() -> None:
    it = Cluster()
    it.die(N1)
    with pytest.raises(InvalidArgument, match="would have no majority"):
        orders.remove(it.map, it.known(), N3, is_forced=True)
    it.map = changes.succeed(it.map, orders.remove(it.map, it.known(), N1, is_forced=True))
    it.settle()
    assert it.map.removed == (N1,)


def test_groups_without_a_majority_do_not_keep_others_from_healing() -> None:
    it = Cluster(5, shards=64)
    it.settle()
    for node in (N1, N2):
        it.die(node, PATIENCE_S)
    for _ in range(400):
        if not it.step():
            break
        for change in it.map.changes:
            members = [replica.node for replica in it.map.members(change.group)]
            if sum(node in (N3, N4, N5) for node in members) > len(members) // 2:
                it.obey(change)
    for members in it.map.replicas:
        dead = {replica.node for replica in members} & {N1, N2}
        assert len(dead) != 1, "what could be healed was healed"


def test_who_was_to_go_without_another_in_its_place_stays_if_it_is_wanted_again() -> None:
    it = Cluster()
    forced = orders.remove(it.map, it.known(), N3, is_forced=True)
    it.map = changes.succeed(it.map, forced)
    it.step()
    assert any(change.add is None for change in it.map.changes)
    it.map = changes.succeed(it.map, orders.activate(it.map, it.known(), N3))
    it.settle()
    assert it.held() == {N1: 8, N2: 8, N3: 8}


def test_nobody_is_drained_who_is_not_there() -> None:
    it = Cluster()
    with pytest.raises(InvalidArgument, match="no node n9; there are n1, n2, n3"):
        orders.drain(it.map, it.known(), NodeId("n9"))


def test_a_drained_node_holds_nothing_until_it_is_active_again() -> None:
    it = Cluster(4)
    it.settle()
    it.map = changes.succeed(it.map, orders.drain(it.map, it.known(), N2))
    it.settle()
    assert it.map.held_by(N2) == {}
    assert it.map.has(N2)
    it.map = changes.succeed(it.map, orders.activate(it.map, it.known(), N2))
    it.settle()
    assert it.held()[N2] == 6


def leaders_of(shard_map: ShardMap) -> list[NodeId]:
    return [members[0].node for members in shard_map.replicas]


def is_even(leaders: list[NodeId]) -> bool:
    counts = [leaders.count(node) for node in (N1, N2, N3)]
    return max(counts) - min(counts) <= 1


def test_a_preferred_leader_stays_and_the_leaders_stay_even() -> None:
    it = Cluster()
    for shard in map(ShardId, range(8)):
        for replica in it.map.replicas_of(shard):
            before = leaders_of(it.map)
            it.map = changes.succeed(it.map, orders.prefer(it.map, it.known(), shard, replica.node))
            it.settle()
            after = leaders_of(it.map)
            assert after[shard] == replica.node
            assert is_even(after)
            assert sum(a != b for a, b in zip(before, after, strict=True)) <= 2


def test_an_order_to_lead_that_cannot_be_is_refused() -> None:
    it = Cluster()
    with pytest.raises(InvalidArgument, match="no shard 8; there are 0 to 7"):
        orders.prefer(it.map, it.known(), ShardId(8), N1)
    it.join(N4)
    it.step()
    with pytest.raises(InvalidArgument, match="n4 has no replica of shard 0; n1, n2, n3 have one"):
        orders.prefer(it.map, it.known(), ShardId(0), N4)


def test_a_plan_tells_what_would_move() -> None:
    it = Cluster(policy=ShardingConfig(balances=False))
    it.join(N4)
    it.settle()
    planned = orders.what_would_move(it.map, it.known())
    assert len(planned) == 6
    assert {move.add for move in planned} == {N4}
