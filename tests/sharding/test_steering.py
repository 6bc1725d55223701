"""What the controller does next: by rule, and to its end in clusters that come and go."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steered_cluster import N1, N2, N3, N4, N5, PATIENCE_S, Cluster, bootstrap_of, report_of

from kvstore.config import ShardingConfig
from kvstore.errors import InvalidArgument
from kvstore.ids import NUMBER_MAX, STAY_MAX, GroupId, NodeId, ReplicaId
from kvstore.sharding import changes, orders
from kvstore.sharding.farewells import FAREWELL_S_MAX
from kvstore.sharding.known import Seen
from kvstore.sharding.shard_map import NodeState


def test_a_cluster_at_rest_is_left_alone() -> None:
    assert not Cluster().step()


def test_who_joins_gets_its_share_and_nobody_else_anything() -> None:
    it = Cluster(shards=16)
    before = it.map
    it.join(N4)
    it.settle()
    it.check()
    assert it.held() == {N1: 12, N2: 12, N3: 12, N4: 12}
    assert it.most_under_way <= it.policy.moves_max
    for old, new in zip(before.replicas, it.map.replicas, strict=True):
        assert {r.node for r in new} - {r.node for r in old} <= {N4}


def test_leaders_are_spread_in_the_end() -> None:
    it = Cluster(shards=16)
    it.join(N4)
    it.settle()
    leads = [members[0].node for members in it.map.replicas]
    assert {leads.count(node) for node in (N1, N2, N3, N4)} == {4}


def test_the_meta_group_grows_to_five_and_shrinks_again() -> None:
    it = Cluster()
    for node, size in [(N4, 3), (N5, 5)]:
        it.join(node)
        it.settle()
        assert len(it.map.meta) == size
    it.map = changes.set_state(it.map, N2, NodeState.REMOVING)
    it.settle()
    assert N2 not in {replica.node for replica in it.map.meta}
    assert len(it.map.meta) == 3
    assert it.map.removed == (N2,)
    it.check()


def test_the_meta_group_shrinks_by_whoever_is_dead() -> None:
    it = Cluster(5)
    it.settle()
    it.die(N2)
    it.map = changes.succeed(it.map, orders.drain(it.map, it.known(), N5))
    it.settle()
    assert {replica.node for replica in it.map.meta} == {N1, N3, N4}


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.REMOVING])
def test_the_meta_group_keeps_its_live_voters_until_somebody_can_come(state: NodeState) -> None:
    it = Cluster()
    it.join(N4)
    it.settle()
    it.unfit = frozenset({N4})
    it.map = changes.set_state(it.map, N2, state)
    it.settle()
    assert {replica.node for replica in it.map.meta} == {N1, N2, N3}
    it.unfit = frozenset()
    it.settle()
    assert {replica.node for replica in it.map.meta} == {N1, N3, N4}


def test_the_meta_group_lets_go_of_the_dead_though_nobody_can_come() -> None:
    it = Cluster()
    it.join(N4)
    it.settle()
    it.unfit = frozenset({N4})
    it.die(N2)
    it.map = changes.set_state(it.map, N2, NodeState.REMOVING)
    it.settle()
    assert {replica.node for replica in it.map.meta} == {N1, N3}


def test_the_meta_group_is_spread_over_zones_once_there_are_enough() -> None:
    it = Cluster()
    it.seen = {}
    it.map = replace(it.map, nodes=tuple(replace(node, zone="a") for node in it.map.nodes))
    for node in it.map.nodes:
        it.seen[node.id] = Seen(node.address, 1.0, "a", True)
    it.join(N4)
    it.seen[N4] = replace(it.seen[N4], zone="b")
    it.settle()
    assert {replica.node for replica in it.map.meta} == {N1, N2, N4}
    it.join(N5)
    it.seen[N5] = replace(it.seen[N5], zone="b")
    it.settle()
    assert len(it.map.meta) == 5


def test_a_member_is_found_elsewhere_once_it_has_answered_there() -> None:
    it = Cluster()
    it.seen[N2] = replace(it.seen[N2], address="h:92", has_answered=False)
    it.settle()
    assert it.map.node(N2).address == "h:2"
    it.seen[N2] = replace(it.seen[N2], has_answered=True)
    it.settle()
    assert it.map.node(N2).address == "h:92"


def test_who_is_removed_is_not_admitted_again() -> None:
    it = Cluster()
    it.join(N4)
    it.settle()
    it.map = changes.set_state(it.map, N4, NodeState.REMOVING)
    it.settle()
    assert it.map.removed == (N4,)
    assert not it.map.has(N4)
    assert not it.step()


def being_removed() -> Cluster:
    """n4 is to be removed, holds nothing since the map of this very version, and knows an older."""
    it = Cluster()
    it.join(N4)
    it.settle()
    it.deaf = {N4}
    it.map = changes.succeed(it.map, orders.remove(it.map, it.known(), N4, is_forced=False))
    it.settle()
    assert it.map.held_by(N4) == {}
    return it


def test_who_is_removed_goes_once_it_knows_the_map_that_took_its_last_replica() -> None:
    it = being_removed()
    emptied_by = it.map.version
    assert it.map.node(N4).state is NodeState.REMOVING, "it has yet to hear that it holds nothing"
    it.seen[N4] = replace(it.seen[N4], map_version=emptied_by - 1)
    assert not it.step()
    it.map = changes.succeed(it.map, orders.weigh(it.map, it.known(), N1, 1.5))
    it.settle()
    assert it.map.removed == ()
    it.seen[N4] = replace(it.seen[N4], map_version=emptied_by)
    assert it.step(), "of what followed it need not know"
    assert it.map.removed == (N4,)


def test_nobody_is_expelled_by_the_version_that_takes_its_last_replica() -> None:
    it = Cluster(policy=ShardingConfig(moves_max=1))
    it.join(N4)
    it.settle()
    it.map = changes.succeed(it.map, orders.remove(it.map, it.known(), N4, is_forced=False))
    last_held: dict[GroupId, ReplicaId] = {}
    while it.map.has(N4):
        last_held = it.map.held_by(N4)
        for change in it.map.changes:
            it.obey(change)
        assert it.step()
    assert last_held == {}


def test_who_is_to_go_and_says_nothing_is_waited_for_no_longer_than_so() -> None:
    it = being_removed()
    it.now = FAREWELL_S_MAX - 0.1
    assert not it.step()
    it.now = FAREWELL_S_MAX
    assert it.step()
    assert it.map.removed == (N4,)


def test_who_is_to_go_and_is_dead_is_not_waited_for() -> None:
    it = being_removed()
    it.die(N4)
    assert it.step()
    assert it.map.removed == (N4,)


def test_who_is_to_go_and_gets_its_share_again_is_waited_for_anew() -> None:
    it = being_removed()
    it.map = changes.succeed(it.map, orders.activate(it.map, it.known(), N4))
    it.settle()
    assert it.held()[N4] == 6
    it.now = FAREWELL_S_MAX
    it.map = changes.succeed(it.map, orders.remove(it.map, it.known(), N4, is_forced=False))
    it.settle()
    assert it.map.node(N4).state is NodeState.REMOVING
    assert it.map.held_by(N4) == {}


def test_a_dead_node_is_replaced_only_after_a_while_and_where_another_can() -> None:
    it = Cluster()
    it.die(N3, PATIENCE_S)
    assert not it.step(), "there is no other"
    it.join(N4)
    it.settle()
    assert it.map.node(N3).state is NodeState.LOST
    assert it.held() == {N1: 8, N2: 8, N3: 0, N4: 8}
    assert {replica.node for replica in it.map.meta} == {N1, N2, N4}


@pytest.mark.parametrize(("after_s", "gone_s"), [(60.0, 59.0), (0.0, 10_000.0)])
def test_it_is_given_the_time_that_is_configured(after_s: float, gone_s: float) -> None:
    it = Cluster(4, policy=ShardingConfig(replace_after_s=after_s))
    it.settle()
    it.die(N3, gone_s)
    it.settle()
    assert it.map.node(N3).state is NodeState.ACTIVE


def test_a_lost_node_that_comes_back_gets_its_share_again() -> None:
    it = Cluster(4)
    it.settle()
    it.die(N3, PATIENCE_S)
    it.settle()
    assert it.held()[N3] == 0
    it.join(N3)
    it.settle()
    assert it.held() == dict.fromkeys((N1, N2, N3, N4), 6)


def test_a_change_is_cancelled_when_whoever_comes_is_gone_and_ends_when_the_group_says() -> None:
    it = Cluster()
    it.join(N4)
    it.step()
    change = it.map.changes[0]
    it.die(N4, 5.0)
    assert not it.step(), "it may come back"
    it.die(N4, 10.0)
    assert it.step()
    given_up = it.map.change_of(change.group)
    assert given_up is not None
    assert given_up.cancelled_at == it.map.version
    it.reports[change.group] = replace(
        report_of(it.map, change.group), epoch=given_up.cancelled_at - 1
    )
    assert not it.step(), "by an older map it could still be made"
    it.obey(given_up, undo=True)
    assert it.step()
    assert it.map.change_of(change.group) is None
    assert it.map.members(change.group) == bootstrap_of(it).members(change.group)


def test_a_cancelled_change_that_was_made_all_the_same_is_finished() -> None:
    it = Cluster()
    it.join(N4)
    it.step()
    change = it.map.changes[0]
    it.die(N4, 10.0)
    it.step()
    given_up = it.map.change_of(change.group)
    assert given_up is not None
    it.obey(given_up)
    it.step()
    assert change.add in it.map.members(change.group)


def test_a_change_that_does_not_come_on_is_cancelled_and_keeps_no_other_from_its_place() -> None:
    it = Cluster(policy=ShardingConfig(moves_max=1))
    it.join(N4)
    it.step()
    (first,) = it.map.changes
    it.stalled = frozenset({first.group})
    it.step()
    given_up = it.map.change_of(first.group)
    assert given_up is not None
    assert given_up.cancelled_at
    assert len(it.map.changes) == 2, "another goes on in its place"


def test_a_node_that_takes_nothing_in_is_given_nothing_and_keeps_what_it_has() -> None:
    it = Cluster(4)
    it.settle()
    it.unfit = frozenset({N4})
    it.map = changes.succeed(it.map, orders.weigh(it.map, it.known(), N4, 4.0))
    it.settle()
    assert it.held()[N4] == 6
    it.unfit = frozenset()
    it.settle()
    assert it.held()[N4] == 8


def test_what_leaves_a_node_goes_where_it_is_taken_in() -> None:
    it = Cluster(5)
    it.settle()
    before = it.held()
    it.unfit = frozenset({N4})
    it.map = changes.succeed(it.map, orders.drain(it.map, it.known(), N1))
    it.settle()
    assert it.map.held_by(N1) == {}
    assert it.held()[N4] == before[N4]


def test_a_node_that_takes_nothing_in_can_be_drained() -> None:
    it = Cluster(4)
    it.settle()
    it.unfit = frozenset({N4})
    it.map = changes.succeed(it.map, orders.drain(it.map, it.known(), N4))
    it.settle()
    assert it.map.held_by(N4) == {}


def test_a_group_whose_ids_are_used_up_keeps_its_copies_and_holds_up_no_other() -> None:
    it = Cluster(shards=4)
    stays = (STAY_MAX, STAY_MAX, 0, 0, 0)
    it.map = replace(it.map, stays=stays)
    it.join(N4)
    it.settle()
    assert {replica.node for replica in it.map.replicas[0]} == {N1, N2, N3}
    assert it.held()[N4] > 0


def test_a_cluster_whose_numbers_are_used_up_admits_nobody_and_goes_on() -> None:
    it = Cluster(4)
    it.settle()
    it.map = replace(it.map, last_number=NUMBER_MAX)
    it.join(N5)
    it.map = changes.succeed(it.map, orders.drain(it.map, it.known(), N4))
    it.settle()
    assert it.map.held_by(N4) == {}
    assert not it.map.has(N5)


def test_a_report_from_before_the_change_is_none_of_it() -> None:
    it = Cluster(4)
    it.settle()
    replica = it.map.replicas[0][0]
    group = GroupId(1)
    before = replace(report_of(it.map, group), voters=frozenset())
    draining = changes.set_state(it.map, replica.node, NodeState.DRAINING)
    it.map = changes.succeed(it.map, changes.begin(draining, group, None, replica.node))
    it.reports[group] = before
    it.step()
    assert replica in it.map.members(group)
    it.reports[group] = replace(before, epoch=it.map.version)
    it.step()
    assert replica not in it.map.members(group)


def test_a_joint_configuration_is_no_end() -> None:
    it = Cluster()
    it.join(N4)
    it.step()
    change = it.map.changes[0]
    it.obey(change)
    joint = replace(it.reports[change.group], outgoing=frozenset({ReplicaId(1)}))
    it.reports[change.group] = joint
    assert not it.step()


def test_nothing_moves_for_balance_alone_unless_it_is_wanted() -> None:
    it = Cluster(policy=ShardingConfig(balances=False))
    it.join(N4)
    it.settle()
    assert it.held()[N4] == 0
    it.map = changes.succeed(it.map, orders.rebalance(it.map, it.known()))
    it.settle()
    assert it.held()[N4] == 6
    assert not it.map.is_rebalancing


# -- everything at once ---------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_whatever_happens_it_comes_to_rest_and_all_is_as_it_should_be(seed: int) -> None:
    rng = random.Random(seed)
    it = Cluster(rng.randint(3, 5), 1 << rng.randrange(5))
    for _ in range(rng.randint(1, 40)):
        it.step()
        _something_happens(it, rng)
    for node in it.seen:
        it.seen[node] = replace(it.seen[node], is_alive=True, gone_s=0.0)
    it.settle()
    it.check()
    assert len(it.map.meta) in (3, 5)


def _something_happens(it: Cluster, rng: random.Random) -> None:
    names = sorted(it.seen)
    match rng.randrange(6):
        case 0:
            it.join(NodeId(f"n{len(names) + 1}"), rng.choice([0.5, 1.0, 2.0]))
        case 1:
            it.die(rng.choice(names), rng.choice([0.1, 15.0, 100.0]))
        case 2:
            it.join(rng.choice(names))
        case 3:
            _order_something(it, rng, rng.choice(names))
        case _:
            for change in it.map.changes:
                if rng.random() < 0.5:
                    it.obey(change, undo=bool(change.cancelled_at) and rng.random() < 0.7)


def _order_something(it: Cluster, rng: random.Random, node: NodeId) -> None:
    known = it.known()
    try:
        match rng.randrange(4):
            case 0:
                ordered = orders.drain(it.map, known, node)
            case 1:
                ordered = orders.activate(it.map, known, node)
            case 2:
                ordered = orders.remove(it.map, known, node, is_forced=False)
            case _:
                ordered = orders.weigh(it.map, known, node, rng.choice([0.5, 1.0, 2.0]))
    except InvalidArgument:
        return
    it.map = changes.succeed(it.map, ordered)
