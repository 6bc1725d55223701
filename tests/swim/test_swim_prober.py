"""Probes, direct and through others, as one member makes and serves them (SWIM section 4.1)."""

from __future__ import annotations

import dataclasses

import pytest
from swim_solo import QUIET, A, B, C, D, E, F, Solo, claim, gossip, metadata, ping, sender

from kvstore.ids import NodeId
from kvstore.swim.claims import State
from kvstore.swim.messages import Ack, Nack, Ping, PingRequest
from kvstore.swim.prober import RELAYS_MAX
from kvstore.swim.ready import EventKind

TIMEOUT_S = QUIET.probe_timeout_s
INTERVAL_S = QUIET.probe_interval_s
ALL = (B, C, D, E, F)


def requested(solo: Solo) -> tuple[Ping, list[PingRequest]]:
    """A probe that was not answered: the ping, and what others were asked."""
    _, sent = solo.wait_for(Ping)
    solo.silent.add(sent.target)
    solo.wait(TIMEOUT_S)
    return sent, solo.take(PingRequest)


def helpers(solo: Solo) -> list[NodeId]:
    """Whom the last requests went to."""
    return [out.node for out in solo.outbox if isinstance(out.message, PingRequest) and out.node]


# -- direct ---------------------------------------------------------------------------------------


def test_one_member_is_probed_each_interval_and_each_once_in_a_round() -> None:
    solo = Solo(*ALL)
    for _ in range(3):
        solo.wait(5 * INTERVAL_S)
        assert sorted(sent.target for sent in solo.take(Ping)) == list(ALL)


def test_a_ping_is_answered_with_its_number() -> None:
    solo = Solo(B)
    solo.step(ping(B, 77))
    (sent,) = solo.outbox
    assert (sent.node, sent.address) == (B, "b:1")
    assert isinstance(sent.message, Ack)
    assert sent.message.sequence == 77


def test_a_ping_for_another_that_lived_here_is_not_answered() -> None:
    solo = Solo(B)
    solo.step(ping(B, 77, target=C))
    assert solo.take(Ack) == []


def test_an_answer_in_time_asks_nobody_else() -> None:
    solo = Solo(*ALL)
    solo.wait(20.0)
    assert solo.take(PingRequest) == []
    assert solo.happened() == []


def test_an_answer_of_somebody_else_or_to_something_else_does_not_count() -> None:
    solo = Solo(*ALL)
    _, sent = solo.wait_for(Ping)
    other = next(node for node in ALL if node != sent.target)
    solo.step(Ack(sender(other), sent.sequence), Ack(sender(sent.target), sent.sequence + 1))
    solo.silent.add(sent.target)
    solo.wait(INTERVAL_S)
    assert solo.happened() == [(EventKind.SUSPECTED, sent.target)]


# -- through others -------------------------------------------------------------------------------


def test_unanswered_for_the_timeout_a_few_others_are_asked() -> None:
    solo = Solo(*ALL)
    _, sent = solo.wait_for(Ping)
    solo.silent.add(sent.target)
    solo.wait(TIMEOUT_S - 0.01)
    assert helpers(solo) == []
    solo.wait(0.01)
    asked = helpers(solo)
    assert len(set(asked)) == len(asked) == 3
    assert sent.target not in asked
    address = metadata(sent.target).address
    for request in solo.take(PingRequest):
        assert (request.target, request.target_address) == (sent.target, address)


def test_where_fewer_others_are_all_of_them_are_asked() -> None:
    solo = Solo(B, C)
    sent, requests = requested(solo)
    assert len(requests) == 1
    assert requests[0].target == sent.target


@pytest.mark.parametrize("is_direct", [True, False])
def test_an_answer_by_any_way_ends_the_probe(is_direct: bool) -> None:
    solo = Solo(*ALL)
    _, sent = solo.wait_for(Ping)
    solo.silent.add(sent.target)
    solo.wait(TIMEOUT_S)
    source = sent.target if is_direct else helpers(solo)[0]
    solo.step(Ack(sender(source), sent.sequence))
    solo.silent.clear()
    solo.wait(5.0)
    assert solo.happened() == []


def has_answered(solo: Solo, node: NodeId) -> bool:
    return solo.view()[node].has_answered


def test_who_was_only_heard_of_or_through_others_has_not_answered_yet() -> None:
    solo = Solo(B, C)
    solo.silent.update((B, C))
    assert [has_answered(solo, node) for node in (A, B, C)] == [True, False, False]
    solo.step(gossip(C, claim(B, incarnation=2)), ping(B, incarnation=2))
    sent, _ = requested(solo)
    helper = C if sent.target == B else B
    solo.step(Ack(sender(helper, incarnation=2), sent.sequence))
    assert [has_answered(solo, node) for node in (B, C)] == [False, False]


def test_who_answers_at_the_address_that_it_says_has_answered_until_it_is_gone_or_moves() -> None:
    solo = Solo(B)
    _, sent = solo.wait_for(Ping)
    solo.step(Ack(sender(B, life=2), sent.sequence))
    assert not has_answered(solo, B)
    for unsaid in (claim(B, State.LEFT), claim(B, incarnation=3, life=2)):
        solo.wait(10.0)
        assert has_answered(solo, B)
        solo.step(gossip(B, unsaid))
        assert not has_answered(solo, B)
        solo.step(gossip(B, claim(B, incarnation=2)))


def test_unanswered_by_the_end_of_the_interval_it_is_suspected() -> None:
    solo = Solo(*ALL)
    sent, _ = requested(solo)
    solo.wait(INTERVAL_S - TIMEOUT_S - 0.01)
    assert solo.happened() == []
    solo.wait(0.01)
    assert solo.happened() == [(EventKind.SUSPECTED, sent.target)]
    solo.wait(0.5)
    assert claim(sent.target, State.SUSPECT, accuser=A) in solo.said_of(sent.target)


def test_one_of_the_dead_that_comes_back_while_it_is_asked_is_not_suspected() -> None:
    solo = Solo(B, known=[(claim(C, State.DEAD), 0.0)])
    solo.tick()
    assert [ping.target for ping in solo.take(Ping)] == [C]
    solo.step(gossip(B, claim(C, incarnation=2)))
    solo.silent.add(C)
    solo.wait(INTERVAL_S)
    assert solo.happened() == [(EventKind.JOINED, C)]
    assert solo.core.local_health == 0


def test_a_probe_says_nothing_of_an_incarnation_that_began_after_it() -> None:
    solo = Solo(*ALL)
    sent, _ = requested(solo)
    solo.step(gossip(sent.target, claim(sent.target, incarnation=2)))
    solo.wait(INTERVAL_S - TIMEOUT_S)
    assert solo.happened() == []
    assert solo.state(sent.target) is State.ALIVE


# -- local health (Lifeguard section IV-A) --------------------------------------------------------


@pytest.mark.parametrize(("nacks", "worse"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_each_helper_that_says_nothing_at_all_speaks_against_us(nacks: int, worse: int) -> None:
    solo = Solo(*ALL)
    _, sent = solo.wait_for(Ping)
    solo.silent.update(ALL)
    solo.wait(TIMEOUT_S)
    asked = helpers(solo)
    for helper in asked[:nacks]:
        solo.step(Nack(sender(helper), sent.sequence))
    solo.wait(INTERVAL_S - TIMEOUT_S)
    assert solo.core.local_health == worse


def test_the_nack_of_one_who_was_not_asked_does_not_count() -> None:
    solo = Solo(*ALL)
    sent, requests = requested(solo)
    for request in requests:
        solo.nack(request, helper=NodeId("x"))
    solo.silent.update(ALL)
    solo.wait(INTERVAL_S - TIMEOUT_S)
    assert solo.happened() == [(EventKind.SUSPECTED, sent.target)]
    assert solo.core.local_health == 3


def test_without_helpers_a_failed_probe_counts_once() -> None:
    solo = Solo(B)
    solo.silent.add(B)
    solo.wait_for(Ping)
    solo.wait(INTERVAL_S)
    assert solo.core.local_health == 1


def test_an_unhealthy_node_probes_more_slowly_and_waits_longer() -> None:
    solo = Solo(*ALL)
    for by in range(2):  # suspected twice
        solo.is_suspected(A, incarnation=1 + by)
    assert solo.core.local_health == 2
    solo.silent.update(ALL)
    solo.wait_for(Ping)  # the interval before the next is already of that health
    began = solo.now
    _, sent = solo.wait_for(PingRequest)
    assert solo.now - began == pytest.approx(3 * TIMEOUT_S)
    solo.wait_for(Ping)
    assert solo.now - began == pytest.approx(3 * INTERVAL_S)
    assert (EventKind.SUSPECTED, sent.target) in solo.happened()


def test_each_answer_in_time_heals() -> None:
    solo = Solo(*ALL)
    for by in range(2):
        solo.is_suspected(A, incarnation=1 + by)
    solo.wait(20.0)
    assert solo.core.local_health == 0


# -- helping --------------------------------------------------------------------------------------


def asking(sequence: int = 9, target: NodeId = C, source: NodeId = B) -> PingRequest:
    return PingRequest(sender(source), sequence, target, metadata(target).address)


def test_a_helper_pings_and_passes_the_answer_on() -> None:
    solo = Solo(B)
    solo.step(asking())
    (sent,) = [out for out in solo.outbox if isinstance(out.message, Ping)]
    assert (sent.node, sent.address) == (C, "c:1"), "whom we need not know"
    assert isinstance(sent.message, Ping)
    assert sent.message.sequence != 9
    solo.step(Ack(sender(C), sent.message.sequence))
    (passed_on,) = solo.take(Ack)
    assert (passed_on.sequence, passed_on.sender.node) == (9, A)


def test_a_helper_that_cannot_reach_the_target_says_so_in_time_and_goes_on_waiting() -> None:
    solo = Solo(B)
    solo.step(asking())
    (sent,) = [m for m in solo.take(Ping) if m.target == C]
    solo.silent.update((B, C))
    solo.wait(0.8 * TIMEOUT_S - 0.01)
    assert solo.take(Nack) == []
    solo.wait(0.01)
    (nack,) = solo.take(Nack)
    assert nack.sequence == 9
    solo.step(Ack(sender(C), sent.sequence))
    (passed_on,) = solo.take(Ack)
    assert passed_on.sequence == 9
    assert TIMEOUT_S + 0.8 * TIMEOUT_S < INTERVAL_S, "or it would come too late"


def test_an_answer_of_somebody_else_is_not_passed_on() -> None:
    solo = Solo(B, D)
    solo.step(asking())
    (sent,) = [m for m in solo.take(Ping) if m.target == C]
    solo.step(Ack(sender(D), sent.sequence))
    assert solo.take(Ack) == []


def test_after_the_interval_a_helper_forgets() -> None:
    solo = Solo(B)
    solo.step(asking())
    (sent,) = [m for m in solo.take(Ping) if m.target == C]
    solo.silent.add(C)
    solo.wait(INTERVAL_S)
    solo.outbox.clear()
    solo.step(Ack(sender(C), sent.sequence))
    assert solo.take(Ack) == []


def test_a_helper_takes_on_only_so_much() -> None:
    solo = Solo(B)
    solo.step(*(asking(sequence) for sequence in range(RELAYS_MAX + 10)))
    assert len([m for m in solo.take(Ping) if m.target == C]) == RELAYS_MAX
    solo.silent.add(C)
    solo.wait(INTERVAL_S)
    solo.step(asking())
    assert len([m for m in solo.take(Ping) if m.target == C]) == 1


# -- buddy (Lifeguard section IV-C) ---------------------------------------------------------------


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD])
def test_whoever_is_accused_hears_it_first_in_whatever_is_sent_to_it(state: State) -> None:
    solo = Solo(B, C, D)
    accused = claim(C, state, accuser=B)
    solo.step(gossip(B, accused))
    solo.wait(30.0)  # the news has long gone round
    solo.outbox.clear()
    solo.step(ping(C), asking(source=B), *(gossip(D, claim(e)) for e in (E, F)))
    (ack,) = solo.take(Ack)
    (relayed,) = [m for m in solo.take(Ping) if m.target == C]
    assert relayed.claims[0].node == ack.claims[0].node == C
    assert ack.claims[0].state >= state


def test_it_can_be_switched_off() -> None:
    solo = Solo(B, C, D, config=dataclasses.replace(QUIET, buddy=False))
    solo.is_suspected(C)
    solo.wait(10.0)
    solo.outbox.clear()
    solo.step(ping(C))
    (ack,) = solo.take(Ack)
    assert ack.claims == ()


# -- hints ----------------------------------------------------------------------------------------


def test_a_hint_probes_at_once() -> None:
    solo = Solo(*ALL)
    solo.hint(D)
    (sent,) = solo.take(Ping)
    assert sent.target == D
    solo.silent.add(D)
    solo.wait(TIMEOUT_S - 0.01)
    assert [request.target for request in solo.take(PingRequest)] == []


def test_who_refuses_connections_is_asked_for_by_others_at_once() -> None:
    solo = Solo(*ALL)
    solo.hint(D, is_gone=True)
    solo.tick()
    assert [request.target for request in solo.take(PingRequest)] == [D] * 3
    solo.silent.add(D)
    solo.wait(INTERVAL_S)
    assert (EventKind.SUSPECTED, D) in solo.happened(), "a hint is no verdict: it has its time"


def test_many_hints_are_one_probe() -> None:
    solo = Solo(*ALL)
    for _ in range(50):
        solo.hint(D)
        solo.hint(D, is_gone=True)
    solo.tick()
    assert [sent.target for sent in solo.take(Ping) if sent.target == D] == [D]
    assert len([r for r in solo.take(PingRequest) if r.target == D]) == 3


@pytest.mark.parametrize("node", [A, NodeId("x")])
def test_a_hint_at_ourselves_or_at_a_stranger_is_none(node: NodeId) -> None:
    solo = Solo(B)
    solo.hint(node, is_gone=True)
    assert solo.outbox == []


def test_a_hint_at_one_who_is_gone_is_none() -> None:
    solo = Solo(B, known=[(claim(C, State.DEAD), 0.0)])
    solo.hint(C, is_gone=True)
    assert solo.outbox == []
