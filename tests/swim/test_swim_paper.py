"""What the papers promise, by section, of whole clusters and of single members.

SWIM is Das, Gupta, Motivala 2002; Lifeguard is Dadgar, Phillips, Currey 2018.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

import pytest
from swim_hardships import Anomaly, Clogged
from swim_solo import QUIET, A, B, C, D, E, F, Solo, claim, gossip, ping, sender
from swim_world import Conditions, SwimWorld, alive

from kvstore.config import PROFILES
from kvstore.ids import NodeId
from kvstore.swim.broadcasts import retransmits
from kvstore.swim.claims import State
from kvstore.swim.messages import Ack, Gossip, Ping, PingRequest
from kvstore.swim.ready import EventKind

if TYPE_CHECKING:
    from kvstore.swim.messages import Message

LAN = PROFILES["lan"]
ALL = (B, C, D, E, F)


# -- SWIM §3.1: the failure detector --------------------------------------------------------------


def test_swim_3_1_each_period_one_member_is_pinged_and_then_k_others_are_asked() -> None:
    solo = Solo(*ALL)
    _, sent = solo.wait_for(Ping)
    solo.silent.add(sent.target)
    solo.wait(QUIET.probe_interval_s - 0.01)
    assert solo.take(Ping) == []
    assert len(solo.take(PingRequest)) == QUIET.indirect_probes


def test_swim_3_1_an_ack_through_one_of_the_k_is_as_good_as_a_direct_one() -> None:
    """Here every direct path to one member is cut, and all members are asked."""
    world = SwimWorld(1, 6)
    victim, only = NodeId("n0"), NodeId("n1")
    for number in range(2, 6):
        world.cuts |= {(victim, NodeId(f"n{number}")), (NodeId(f"n{number}"), victim)}
    world.run(120.0)
    assert world.states_of(victim) == {State.ALIVE}
    world.cuts |= {(victim, only)}
    world.run(120.0)
    assert world.states_of(victim) == {State.DEAD}


# -- SWIM §4.1: news travels on probes ------------------------------------------------------------


@pytest.mark.parametrize("kind", [Ping, Ack, PingRequest, Gossip])
def test_swim_4_1_every_kind_of_message_carries_news(
    kind: type[Ping | Ack | PingRequest | Gossip],
) -> None:
    solo = Solo(B, C, D, config=dataclasses.replace(QUIET, retransmit_mult=50))
    solo.silent.update((B, C, D))
    solo.step(gossip(B, claim(E)), ping(B))
    solo.wait(5.0)
    assert E in {said.node for message in solo.take(kind) for said in message.claims}


def test_swim_4_1_probes_alone_would_bring_it_to_everybody() -> None:
    world = SwimWorld(1, 16, config=dataclasses.replace(LAN, gossip_fanout=0))
    world.run(5.0)
    world.start(NodeId("x"), known=[(alive(NodeId("n0")), 0.0)])
    world.run_until(world.agree, 30.0)


def test_swim_4_1_and_each_member_sends_it_only_so_often() -> None:
    world = SwimWorld(1, 30)
    world.run(10.0)
    sent: Counter[NodeId] = Counter()

    def count(message: Message) -> None:
        if isinstance(message, Ping | Ack | PingRequest | Gossip):
            sent.update(message.sender.node for said in message.claims if said.node == "x")

    world.on_sent = count
    world.start(NodeId("x"), known=[(alive(NodeId("n0")), 0.0)])
    world.run(20.0)
    assert set(sent.values()) == {retransmits(LAN.retransmit_mult, 31)}
    assert len(sent) == 31


# -- SWIM §4.2: suspicion -------------------------------------------------------------------------


def test_swim_4_2_a_suspect_is_still_a_member() -> None:
    solo = Solo(B, C)
    solo.is_suspected(C)
    solo.wait(10.0)
    pinged = {sent.target for sent in solo.take(Ping)}
    assert pinged == {B, C}, "it is probed, and listed, and counted"


def test_swim_4_2_only_the_suspect_itself_can_clear_it() -> None:
    solo = Solo(B, C, D)
    solo.is_suspected(C)
    solo.step(gossip(D, claim(C)), ping(C), Ack(sender(C), 1))
    solo.wait(5.0)  # and it answers our own pings
    assert solo.state(C) is State.SUSPECT
    solo.step(gossip(D, claim(C, incarnation=2)))
    assert solo.state(C) is State.ALIVE


def test_swim_4_2_dead_overrides_whatever_else_is_said_of_that_life() -> None:
    solo = Solo(B, C, D)
    solo.step(gossip(B, claim(C, State.DEAD, 1, B)))
    solo.step(gossip(D, claim(C), claim(C, State.SUSPECT, 1, D)))
    assert solo.state(C) is State.DEAD


@pytest.mark.parametrize("seed", range(3))
def test_swim_4_2_a_suspicion_without_reason_ends_well(seed: int) -> None:
    world = SwimWorld(seed, 12)
    world.run(5.0)
    victim = NodeId("n0")
    suspect = claim(victim, State.SUSPECT, 1, NodeId("n1"))
    suspect = dataclasses.replace(suspect, metadata=alive(victim).metadata)
    world.members[NodeId("n2")].receive(gossip(NodeId("n1"), suspect))
    world.run(60.0)
    assert world.agree()
    assert world.seen(EventKind.DIED) == []
    assert {member.view()[victim].incarnation for member in world.living} == {2}


# -- SWIM §4.3: rounds ----------------------------------------------------------------------------


def test_swim_4_3_a_member_that_fails_is_found_by_every_other_within_two_rounds() -> None:
    """Each on its own: here nobody hears of what the others found."""
    config = dataclasses.replace(LAN, piggyback_bytes_max=0, buddy=False)
    config = dataclasses.replace(config, suspicion_mult=1e6)
    for seed in range(5):
        world = SwimWorld(seed, 8, config=config)
        world.run(5.0)
        world.kill(NodeId("n0"))
        died = world.now
        # 2N - 1 probes of N others, the last of which takes its own interval to fail.
        world.run((2 * 7 - 1) * config.probe_interval_s + config.probe_interval_s)
        found = {seen.by for seen in world.seen(EventKind.SUSPECTED, NodeId("n0"))}
        assert len(found) == 7, f"within {world.now - died:g} s"


# -- SWIM §5: times and loads ---------------------------------------------------------------------


def first_seen_s(world: SwimWorld, kind: EventKind, victim: NodeId, since: float) -> float:
    return min(seen.at for seen in world.seen(kind, victim)) - since


def test_swim_5_the_first_to_find_a_failure_takes_as_long_in_any_cluster() -> None:
    """1 / (1 - 1/e) = 1.6 periods by the paper, where all members begin theirs together."""
    means = []
    for members in (8, 64):
        found = []
        for seed in range(12):
            world = SwimWorld(seed, members)
            world.run(3.0 + world.rng.random())
            world.kill(NodeId("n0"))
            died = world.now
            world.run(15.0)
            found.append(first_seen_s(world, EventKind.SUSPECTED, NodeId("n0"), died))
        means.append(fmean(found) / LAN.probe_interval_s)
    # A period until it is chosen, whose chances are e^-1 not to be; another until that has failed.
    assert all(1.0 < mean < 3.0 for mean in means), means


def test_swim_5_the_load_of_a_member_does_not_depend_on_how_many_there_are() -> None:
    def load(members: int) -> float:
        world = SwimWorld(1, members)
        world.run(10.0)
        sent: list[Message] = []
        world.on_sent = sent.append
        world.run(30.0)
        return len(sent) / members / 30.0

    assert load(8) == pytest.approx(2.0, rel=0.1), "a ping and an ack each second"
    assert load(64) == pytest.approx(load(8), rel=0.1)


def test_swim_5_news_reaches_all_in_a_number_of_rounds_that_grows_with_the_logarithm() -> None:
    def rounds(members: int) -> float:
        world = SwimWorld(1, members)
        world.run(10.0)
        began = world.now
        world.start(NodeId("x"), known=[(alive(NodeId("n0")), 0.0)])
        world.run_until(lambda: world.states_of(NodeId("x")) == {State.ALIVE}, 20.0, 0.02)
        return (world.now - began) / LAN.gossip_interval_s

    few, many = rounds(8), rounds(128)
    assert few < 3.0 * math.log2(8)
    assert many < 3.0 * math.log2(128)


# -- Lifeguard §IV-A: local health ----------------------------------------------------------------


def test_lifeguard_4_a_what_speaks_against_a_node_itself() -> None:
    """A failed probe, a missing nack, a suspicion to refute; an answer speaks for it."""
    solo = Solo(B, C)
    solo.silent.update((B, C))
    _, sent = solo.wait_for(Ping)
    solo.wait(LAN.probe_interval_s)
    assert solo.core.local_health == 1, "the one helper did not even say no"
    solo.is_suspected(A)
    assert solo.core.local_health == 2
    solo.silent.clear()
    solo.wait(20.0)
    assert solo.core.local_health == 0
    assert sent.target in (B, C)


def test_lifeguard_4_a_a_helper_that_is_well_clears_the_one_it_helps() -> None:
    """Who dies does not make the others think ill of themselves."""
    world = SwimWorld(1, 12)
    world.run(5.0)
    world.kill(NodeId("n0"))
    world.run_until(lambda: bool(world.seen(EventKind.DIED)), 60.0)
    assert all(member.core.local_health == 0 for member in world.living)


def test_lifeguard_4_a_a_member_whose_messages_are_late_probes_less_and_accuses_less() -> None:
    def accused(awareness_max: int) -> int:
        world = SwimWorld(1, 16, config=dataclasses.replace(LAN, awareness_max=awareness_max))
        world.members[NodeId("n0")].hardship = Clogged(world, Anomaly(10.0, 0.1))
        world.run(120.0)
        return len([s for s in world.seen(EventKind.SUSPECTED) if s.event.node != "n0"])

    assert accused(8) < accused(0) / 4


# -- Lifeguard §IV-B: dynamic suspicion timeouts --------------------------------------------------


def test_lifeguard_4_b_a_lone_accuser_waits_and_many_do_not() -> None:
    def died_after_s(accusers: int) -> float:
        solo = Solo(*ALL)
        for by in (B, D, E, F)[:accusers]:
            solo.is_suspected(C, by=by)
        began = solo.now
        while solo.state(C) is State.SUSPECT:
            solo.wait(0.1)
        return solo.now - began

    seconds = [died_after_s(accusers) for accusers in (1, 2, 3, 4)]
    assert seconds == [pytest.approx(s, abs=0.11) for s in (24.0, 14.0, 8.15, 4.0)]


def test_lifeguard_4_b_the_dead_have_many_accusers_and_are_found_nearly_as_fast() -> None:
    world = SwimWorld(1, 16)
    world.run(5.0)
    world.kill(NodeId("n0"))
    died = world.now
    world.run_until(lambda: bool(world.seen(EventKind.DIED)), 60.0)
    shortest_s = LAN.suspicion_mult * math.log10(16) * LAN.probe_interval_s
    assert first_seen_s(world, EventKind.DIED, NodeId("n0"), died) < 2 * shortest_s


# -- Lifeguard §IV-C: buddies ---------------------------------------------------------------------


def test_lifeguard_4_c_a_suspect_that_no_news_reaches_hears_it_from_who_probes_it() -> None:
    def refutes(*, buddy: bool) -> bool:
        config = dataclasses.replace(QUIET, buddy=buddy, suspicion_mult=1e3)
        solo = Solo(B, C, D, config=config)
        solo.is_suspected(C)
        solo.wait(60.0)  # all news has been sent as often as it is, and C heard none of it
        solo.outbox.clear()
        other = SwimWorld(1, 0, config=config, conditions=Conditions())
        suspect = other.start(C)
        _, sent = solo.wait_for(Ping)
        while sent.target != C:
            _, sent = solo.wait_for(Ping)
        suspect.receive(sent)
        return suspect.core.incarnation == 2

    assert refutes(buddy=True)
    assert not refutes(buddy=False)
