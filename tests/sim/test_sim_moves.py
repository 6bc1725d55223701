"""Clusters whose shard map changes: they are drawn, they move, and what must not be is noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import GroupId, NodeId, ReplicaId, replica_id
from kvstore.raft.messages import GroupConfig, VoteResponse
from kvstore.sharding import changes
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.storage import records
from sim.control import RATES
from sim.held import HeldRecord
from sim.maps import MapRecord
from sim.run import Run
from sim.settled import what_is_left
from sim.swarm import draw
from sim.world import Violation, World

if TYPE_CHECKING:
    from sim.node import SimNode

N1, N4 = NodeId("n1"), NodeId("n4")
GROUP = GroupId(1)
NODES = tuple(NodeAddress(NodeId(f"n{n}"), f"n{n}:1") for n in (1, 2, 3))
FIRST = bootstrap(ClusterConfig("c", NODES, shards=2))
JOINED = changes.succeed(FIRST, changes.admit(FIRST, N4, "n4:1", 1.0, ""))
COMING = changes.succeed(JOINED, changes.begin(JOINED, GROUP, N4, N1))
THERE = changes.succeed(COMING, changes.finish(COMING, COMING.changes[0]))


# -- whole runs -----------------------------------------------------------------------------------


def controlled_seeds(count: int) -> list[int]:
    seeds = (seed for seed in range(7_100, 8_000) if draw(World(seed).rng).is_controlled)
    return [next(seeds) for _ in range(count)]


@pytest.mark.parametrize("seed", controlled_seeds(3))
def test_groups_move_and_all_is_where_the_map_says(seed: int) -> None:
    run = Run(seed)
    run.disturb()
    run.heal()
    run.judge()
    newest = run.checks.maps.newest
    assert newest is not None
    assert newest.version > 2, "somebody was admitted, and something was moved"
    assert any(newest.stays)
    node = next(node for node in run.nodes if newest.held_by(node.id))
    group = next(iter(newest.held_by(node.id)))
    node.driver.remove(group)
    assert f"{node.id} runs" in what_is_left(run.checks, run._members())


def test_some_seeds_are_controlled_and_everything_is_drawn() -> None:
    controls = [draw(World(seed).rng).control for seed in range(600)]
    drawn = [control for control in controls if control is not None]
    assert 0.25 < len(drawn) / len(controls) < 0.45
    for name in RATES:
        assert any(getattr(control, name) > 0 for control in drawn), name
    assert {control.spares for control in drawn} == {1, 2}


# -- maps -----------------------------------------------------------------------------------------


def record_of(*maps: ShardMap) -> MapRecord:
    record = MapRecord()
    for shard_map in maps:
        record.goes_by(N1, 1, shard_map)
    return record


def test_a_version_names_one_map() -> None:
    record = record_of(FIRST, JOINED, COMING, THERE)
    assert record.newest == THERE
    with pytest.raises(Violation, match="two maps of version 2"):
        record.known(replace(JOINED, is_rebalancing=True))


def test_nobody_goes_back_to_an_older_map() -> None:
    with pytest.raises(Violation, match="n1 goes back from version 3 to 2"):
        record_of(FIRST, COMING, JOINED)
    record = record_of(COMING)
    record.goes_by(N1, 2, FIRST)
    record.acted_on(N1, COMING)
    with pytest.raises(Violation, match="n1 goes back from version 3 to 1"):
        record.goes_by(N1, 3, FIRST)
    record.forget(N1)
    record.goes_by(N1, 5, FIRST)


def test_a_number_stays_the_same_nodes() -> None:
    record = record_of(JOINED)
    assert record.node_of(4) == N4
    others = tuple(
        replace(node, id=NodeId("n9")) if node.id == N4 else node for node in COMING.nodes
    )
    with pytest.raises(Violation, match="n9 has the number of n4"):
        record.known(replace(COMING, nodes=others))


def test_an_id_is_given_once() -> None:
    gone = changes.succeed(THERE, changes.begin(THERE, GROUP, N1, N4))
    again = replace(gone.changes[0], add=COMING.changes[0].add)
    with pytest.raises(Violation, match="begun by version 3, and on n4, begun by 5"):
        record_of(COMING, THERE, replace(gone, changes=(again,)))


@pytest.mark.parametrize("is_later_known_first", [False, True])
def test_nobody_is_removed_by_the_version_that_takes_its_last_replica(
    is_later_known_first: bool,
) -> None:
    emptied = changes.succeed(THERE, replace(COMING, changes=()))
    gone = changes.succeed(emptied, changes.expel(emptied, N4))
    record_of(THERE, emptied, gone)
    at_once = changes.succeed(THERE, changes.expel(emptied, N4))
    record = MapRecord()
    first, second = (at_once, THERE) if is_later_known_first else (THERE, at_once)
    record.known(first)
    with pytest.raises(Violation, match="version 5 is without n4, which still held"):
        record.known(second)


# -- what is held ---------------------------------------------------------------------------------


class Place:
    """As much of a node as the record looks at."""

    def __init__(self, name: str) -> None:
        self.id = NodeId(name)
        self.data_life = 0


def held(config: GroupConfig) -> tuple[HeldRecord, SimNode]:
    record = HeldRecord(lambda group: config)
    return record, cast("SimNode", Place("n4"))


def note(record: HeldRecord, node: SimNode, replica: int) -> None:
    assert record.durable(node, records.encode_replica(GROUP, ReplicaId(replica)))


def test_a_voter_is_not_given_up() -> None:
    copy = replica_id(4, 0, 1)
    for config in (GroupConfig((copy,)), GroupConfig((ReplicaId(2),), voters_outgoing=(copy,))):
        record, node = held(config)
        note(record, node, copy)
        with pytest.raises(Violation, match="gives up replica"):
            note(record, node, 0)


def test_whoever_was_given_up_is_silent_and_does_not_come_again() -> None:
    copy = replica_id(4, 0, 1)
    record, node = held(GroupConfig((ReplicaId(2),)))
    note(record, node, copy)
    assert record.replica_of(node, GROUP) == copy
    assert record.groups_of(node) == {GROUP}
    note(record, node, 0)
    assert record.groups_of(node) == set()
    with pytest.raises(Violation, match="which it does not hold"):
        record.replica_of(node, GROUP)
    vote = VoteResponse(copy, ReplicaId(2), cast("Any", 1), pre_vote=False, granted=True)
    with pytest.raises(Violation, match="was given up"):
        record.sent(GROUP, vote)
    host: Any = type("Host", (), {"shard": 0, "core": type("Core", (), {"replica": copy})})
    with pytest.raises(Violation, match="begins again"):
        record.runs(node, host)
