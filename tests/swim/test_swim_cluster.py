"""Whole clusters on a simulated network: joining, dying, parting, healing, leaving."""

from __future__ import annotations

import dataclasses
import random

import pytest
from swim_hardships import Anomaly, Clogged, Starving
from swim_world import Conditions, SwimMember, SwimWorld, address_of, alive

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.claims import Metadata, State
from kvstore.swim.core import SwimCore
from kvstore.swim.messages import PushPull
from kvstore.swim.ready import EventKind

LAN = PROFILES["lan"]
SEEDS = (0, 1, 2, 3, 4)


def names(count: int, prefix: str = "n") -> list[NodeId]:
    return [NodeId(f"{prefix}{number}") for number in range(count)]


def settled(seed: int, members: int) -> SwimWorld:
    """A cluster that runs and has nothing to tell."""
    world = SwimWorld(seed, members)
    world.run(5.0)
    world.log.clear()
    return world


# -- joining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_all_who_begin_together_find_each_other(seed: int) -> None:
    world = SwimWorld(seed)
    for name in names(30):
        world.start(name, seeds=names(3))
    world.run_until(world.agree, 15.0)
    world.run(60.0)
    assert world.agree()
    assert world.seen(EventKind.SUSPECTED) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_one_living_seed_of_many_is_enough(seed: int) -> None:
    world = settled(seed, 8)
    world.start(NodeId("x"), seeds=[*names(5, "nobody"), NodeId("n3")])
    world.run_until(world.agree, 5.0)


def test_seeds_that_begin_late_are_asked_until_they_answer() -> None:
    world = SwimWorld(1)
    world.start(NodeId("a"), seeds=[NodeId("s")])
    world.start(NodeId("b"), seeds=[NodeId("s")])
    world.run(60.0)
    assert not world.agree()
    world.start(NodeId("s"))
    world.run_until(world.agree, 15.0)


def test_a_seed_that_answers_nothing_does_no_harm() -> None:
    world = settled(1, 4)
    world.cuts.add((NodeId("n0"), NodeId("x")))
    world.start(NodeId("x"), seeds=[NodeId("n0")])
    world.run(60.0)
    assert world.members[NodeId("x")].view().keys() == {"x"} | set(names(4)), "told by the others"
    assert world.states_of(NodeId("x")) == {State.ALIVE}


def test_islands_that_never_met_find_each_other_by_their_seeds() -> None:
    """Each side joined through its own seed: nobody there has ever heard of the other side."""
    world = SwimWorld(1)
    here, there = names(4, "a"), names(4, "b")
    world.part(here, there)
    for name in (*here, *there):
        world.start(name, seeds=[here[0], there[0]])
    world.run(120.0)
    assert all(len(member.view()) == 4 for member in world.living)
    world.heal()
    world.run_until(world.agree, 60.0)


def test_whoever_joins_costs_a_bounded_number_of_whole_views() -> None:
    world = settled(1, 30)
    views: list[PushPull] = []
    world.on_sent = lambda message: views.append(message) if isinstance(message, PushPull) else None
    world.start(NodeId("x"), seeds=names(3))
    world.run_until(world.agree, 5.0)
    asked = [view for view in views if view.sender.node == "x" and not view.is_reply]
    assert 3 <= len(asked) <= 6, "the seeds, and who was quicker than they with its gossip"
    assert len(views) <= 12


# -- dying and coming back ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("members", [2, 3, 8, 30])
def test_who_dies_is_dead_to_all_and_nobody_else_is(seed: int, members: int) -> None:
    world = settled(seed, members)
    victim = NodeId("n1")
    world.kill(victim)
    world.run_until(lambda: world.states_of(victim) == {State.DEAD}, 60.0)
    assert world.agree()
    assert {seen.event.node for seen in world.log} == {victim}


@pytest.mark.parametrize("has_disk", [True, False])
def test_who_begins_again_is_alive_to_all(has_disk: bool) -> None:
    world = settled(1, 8)
    victim = NodeId("n1")
    world.kill(victim)
    world.run_until(lambda: world.states_of(victim) == {State.DEAD}, 60.0)
    if has_disk:
        world.restart(victim)
    else:
        world.start(victim, seeds=names(1))
    world.run_until(world.agree, 5.0)
    assert {seen.event.node for seen in world.seen(EventKind.JOINED)} >= {victim}


def test_who_begins_again_before_it_is_missed_is_never_dead() -> None:
    world = settled(1, 8)
    world.kill(NodeId("n1"))
    world.run(0.5)
    world.restart(NodeId("n1"))
    world.run(60.0)
    assert world.agree()
    assert world.seen(EventKind.DIED) == []


def test_who_begins_again_elsewhere_is_found_there() -> None:
    """Its disk is lost, and it listens at another address: nobody may keep to the old one."""
    world = settled(1, 8)
    moved = NodeId("n1")
    world.kill(moved)
    core = SwimCore(
        moved,
        Metadata("elsewhere:1"),
        incarnation=1,
        seeds=(address_of(NodeId("n0")),),
        config=LAN,
        rng=random.Random(1),
        now=world.now,
    )
    member = world.members[NodeId("elsewhere")] = SwimMember(world, core, NodeId("elsewhere"))
    member.settle()
    world.run(5.0)
    found = {view[moved].metadata for m in world.living for view in [m.view()]}
    assert found == {Metadata("elsewhere:1")}
    assert core.incarnation > 1


def test_a_tombstone_outlives_the_views_of_those_who_did_not_hear() -> None:
    world = settled(1, 8)
    victim, away = NodeId("n1"), NodeId("n2")
    world.part([away])
    world.kill(victim)
    rest = set(names(8)) - {victim, away}
    world.run_until(
        lambda: all(world.members[n].view()[victim].state is State.DEAD for n in rest), 60.0
    )
    # It is told of the living, in the incarnation that it died in, by one that slept.
    rows = [(alive(name), 0.0) for name in names(8)]
    world.heal()
    world.kill(away)
    world.log.clear()
    world.start(away, incarnation=2, known=rows)
    world.run(60.0)
    assert world.states_of(victim) == {State.DEAD}
    assert world.seen(EventKind.JOINED, victim)[0].by == away
    assert {seen.by for seen in world.seen(EventKind.JOINED, victim)} == {away}


# -- leaving and being removed --------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 8, 30])
def test_who_leaves_has_left_and_has_not_died(members: int) -> None:
    world = settled(1, members)
    leaver = NodeId("n1")
    world.members[leaver].core.leave(world.now)
    world.members[leaver].settle()
    world.run(0.5)
    world.kill(leaver)
    world.run(60.0)
    assert world.states_of(leaver) == {State.LEFT}
    assert world.seen(EventKind.DIED) == world.seen(EventKind.SUSPECTED) == []


@pytest.mark.parametrize("has_disk", [True, False])
def test_who_has_left_may_come_back(has_disk: bool) -> None:
    world = settled(1, 8)
    leaver = NodeId("n1")
    world.members[leaver].core.leave(world.now)
    world.members[leaver].settle()
    world.run(1.0)
    world.kill(leaver)
    world.run(10.0)
    if has_disk:
        world.restart(leaver)
    else:
        world.start(leaver, seeds=names(1))
    world.run_until(world.agree, 5.0)


def test_who_was_removed_while_it_was_away_stays_so_whatever_it_says() -> None:
    world = settled(1, 8)
    away = NodeId("n1")
    world.part([away])
    for member in world.living:
        if member.node != away:
            member.core.remove(away, world.now)
            member.settle()
    others = [member for member in world.living if member.node != away]
    world.heal()
    world.run(60.0)
    assert {member.view()[away].state for member in others} == {State.REMOVED}
    world.kill(away)
    world.restart(away)
    world.run(30.0)
    assert {member.view()[away].state for member in others} == {State.REMOVED}


def test_one_member_alone_removes_nobody() -> None:
    world = settled(1, 8)
    away = NodeId("n1")
    world.members[NodeId("n0")].core.remove(away, world.now)
    world.members[NodeId("n0")].settle()
    world.run(30.0)
    believed = {member.node: member.view()[away].state for member in world.living}
    assert believed.pop(NodeId("n0")) is State.REMOVED
    assert set(believed.values()) == {State.ALIVE}


# -- a bad network --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_both_sides_of_a_healed_partition_find_each_other(seed: int) -> None:
    world = settled(seed, 12)
    one = names(5)
    world.part(one)
    world.run(90.0)
    for member in world.living:
        dead = {n for n, status in member.view().items() if status.state is State.DEAD}
        assert dead == (set(names(12)) - set(one) if member.node in one else set(one))
    world.log.clear()
    world.heal()
    world.run_until(world.agree, 20.0)
    died = [seen for seen in world.seen(EventKind.DIED) if seen.by != seen.event.node]
    assert died == [], "nobody is dead on both sides, not for a moment"


def test_whom_one_member_cannot_reach_lives_on() -> None:
    """Others can: this is what indirect probes are for."""
    world = settled(1, 8)
    world.cuts |= {(NodeId("n1"), NodeId("n2")), (NodeId("n2"), NodeId("n1"))}
    world.run(120.0)
    assert world.agree()
    assert world.seen(EventKind.DIED) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lossy_network_kills_nobody(seed: int) -> None:
    world = SwimWorld(seed, 12, conditions=Conditions(loss=0.15, delay_s_max=0.1))
    world.run(120.0)
    assert world.seen(EventKind.DIED) == []


def test_news_that_nearly_nobody_heard_is_mended_by_the_exchange_of_views() -> None:
    deaf = dataclasses.replace(LAN, retransmit_mult=1, gossip_fanout=1, piggyback_bytes_max=0)
    world = SwimWorld(1, 8, config=deaf)
    world.start(NodeId("x"), known=[(alive(NodeId("n0")), 0.0)])
    world.run(1.0)
    assert not world.agree(), "nothing fits into a message"
    world.run_until(world.agree, 400.0, step_s=5.0)


def test_two_of_one_name_are_reported_and_make_no_storm() -> None:
    world = settled(1, 8)
    double = NodeId("x")
    core = SwimCore(
        NodeId("n3"),
        Metadata(address_of(double)),
        incarnation=1,
        seeds=(address_of(NodeId("n0")),),
        config=LAN,
        rng=random.Random(1),
        now=world.now,
    )
    member = world.members[double] = SwimMember(world, core, double)
    member.settle()
    sent = 0

    def count(_: object) -> None:
        nonlocal sent
        sent += 1

    world.on_sent = count
    world.run(60.0)
    assert {seen.event.node for seen in world.seen(EventKind.CONFLICT)} == {"n3"}
    assert sent < 60 * 9 * 10, "each probes and is probed each second, and gossips all the time"
    assert all(view.keys() == set(names(8)) for m in world.living for view in [m.view()])


# -- hard times -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("anomaly", [Anomaly(0.5, 0.001), Anomaly(2.0, 0.004), Anomaly(8.0, 0.016)])
def test_a_starving_member_harms_nobody_but_itself(seed: int, anomaly: Anomaly) -> None:
    world = settled(seed, 12)
    starving = names(3)
    for name in starving:
        world.members[name].hardship = Starving(world, anomaly)
    world.run(60.0)
    assert {seen.event.node for seen in world.seen(EventKind.DIED)} <= set(starving)


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_does_one_whose_messages_are_late(seed: int) -> None:
    world = settled(seed, 12)
    clogged = names(3)
    for name in clogged:
        world.members[name].hardship = Clogged(world, Anomaly(8.0, 0.5))
    world.run(60.0)
    assert world.seen(EventKind.SUSPECTED), "it does miss answers"
    assert {seen.event.node for seen in world.seen(EventKind.DIED)} <= set(clogged)


def test_without_lifeguard_it_does() -> None:
    config = dataclasses.replace(
        LAN, awareness_max=0, suspicion_max_mult=1.0, buddy=False, late_s_max=float("inf")
    )
    world = SwimWorld(1, 12, config=config)
    clogged = names(3)
    for name in clogged:
        world.members[name].hardship = Clogged(world, Anomaly(8.0, 0.5))
    world.run(60.0)
    assert {seen.event.node for seen in world.seen(EventKind.DIED)} - set(clogged)


def test_a_cluster_that_starves_altogether_still_finds_the_dead() -> None:
    """Nobody ever runs for long enough to be sure; that must not make everybody wait for ever."""
    world = settled(1, 5)
    for name in names(5):
        world.members[name].hardship = Starving(world, Anomaly(0.5, 0.02))
    world.run(10.0)
    world.kill(NodeId("n4"))
    world.run(300.0)
    assert {seen.by for seen in world.seen(EventKind.DIED, NodeId("n4"))} == set(names(4))


# -- the simulator itself -------------------------------------------------------------------------


def test_one_seed_is_one_run() -> None:
    def run(seed: int) -> list[str]:
        world = SwimWorld(seed, 10, conditions=Conditions(loss=0.1))
        world.members[NodeId("n1")].hardship = Starving(world, Anomaly(1.0, 0.004))
        world.members[NodeId("n2")].hardship = Clogged(world, Anomaly(1.0, 0.1))
        world.run(5.0)
        world.kill(NodeId("n3"))
        world.run(30.0)
        return list(map(str, world.log))

    assert run(1) == run(1)
    assert run(1) != run(2)
