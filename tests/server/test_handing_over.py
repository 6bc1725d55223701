"""Requests while leadership passes on: they wait, and are sent to whoever leads next."""

from __future__ import annotations

import pytest
from server_support import OWN, Asked, Rig, settle

from kvstore.errors import NotLeader
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.raft.messages import AppendRequest, AppendResponse, TimeoutNow, VoteRequest
from kvstore.server.shard_host import HOLD_S

TWO, THREE = ReplicaId(2), ReplicaId(3)


def refusals(*asked: Asked) -> list[tuple[str | None, bool]]:
    """Where each was sent, and whether it may have been done."""
    errors = [each.error for each in asked]
    assert all(isinstance(error, NotLeader) for error in errors)
    return [(e.leader, e.may_have_applied) for e in errors if isinstance(e, NotLeader)]


def stand(rig: Rig) -> Term:
    """Replica 2 asks for a vote, because it was told to take over."""
    core = rig.host.core
    term = Term(core.term + 1)
    rig.hear(VoteRequest(TWO, OWN, term, core.last_index, core.term, False, by_transfer=True))
    return term


async def test_writes_wait_while_a_leader_hands_over_and_reads_do_not() -> None:
    rig = Rig()
    await rig.lead()
    rig.host.core.transfer_leadership(TWO, rig.now)
    last = rig.host.core.last_index
    write, read = rig.write(), rig.read()
    await rig.confirm()
    assert rig.host.core.last_index == last
    assert (write.answers, read.answers) == (0, 1)


async def test_a_hand_over_that_fails_lets_the_writes_go_on() -> None:
    rig = Rig()
    await rig.lead()
    rig.host.core.transfer_leadership(TWO, rig.now)
    write = rig.write()
    await settle()
    rig.now += 10
    rig.driver.tick()
    await settle()
    await rig.acknowledge()
    assert len(write.replies) == 1


async def test_a_hand_over_to_who_dies_is_over() -> None:
    rig = Rig()
    await rig.lead()
    rig.host.core.transfer_leadership(TWO, rig.now)
    write = rig.write()
    await settle()
    rig.driver.peer_gone(rig.host.replicas[THREE])
    assert rig.host.core.is_handing_over
    rig.driver.peer_gone(rig.host.replicas[TWO])
    await settle()
    await rig.acknowledge(by=THREE)
    assert len(write.replies) == 1


async def test_who_loses_the_lead_answers_once_it_is_known_who_has_it() -> None:
    rig = Rig()
    await rig.lead()
    in_log, unconfirmed = rig.write(), rig.read()
    await settle()
    rig.host.core.transfer_leadership(TWO, rig.now)
    queued, queued_read = rig.write(), rig.read()
    term = stand(rig)
    await settle()
    assert not rig.host.is_leader
    late, late_read = rig.write(), rig.read()
    await settle()
    everything = in_log, unconfirmed, queued, queued_read, late, late_read
    assert not any(each.answers for each in everything)
    rig.hear(AppendRequest(TWO, OWN, term, LogIndex(0), Term(0), (), LogIndex(0)))
    await settle()
    assert refusals(*everything) == [("n2", True)] + [("n2", False)] * 5
    assert not rig.host.is_busy
    assert refusals(rig.write(), rig.read()) == [("n2", False)] * 2


async def test_what_gathered_behind_an_entry_goes_on_to_the_next_leader() -> None:
    rig = Rig()
    await rig.lead()
    under_way = rig.write()
    await settle()
    gathered = [rig.write(), rig.write()]
    await settle()
    await rig.depose()
    assert refusals(under_way, *gathered) == [("n3", True), ("n3", False), ("n3", False)]
    assert rig.host._writes_bytes == 0


async def test_nobody_waits_for_long_where_nobody_leads() -> None:
    rig = Rig()
    await rig.lead()
    in_log = rig.write()
    await settle()
    stand(rig)
    await settle()
    queued = rig.write()
    rig.now += HOLD_S / 2
    rig.driver.tick()
    assert not in_log.answers
    assert not queued.answers
    rig.now += HOLD_S
    rig.driver.tick()
    assert refusals(in_log, queued) == [(None, True), (None, False)]
    assert refusals(rig.write()) == [(None, False)]


async def test_who_leads_again_goes_on_with_what_waits() -> None:
    rig = Rig()
    await rig.lead()
    stand(rig)
    await settle()
    write, read = rig.write(), rig.read()
    await settle()
    await rig.lead()
    assert not rig.host.is_holding
    await rig.confirm()
    await rig.acknowledge()
    assert (len(write.replies), len(read.replies)) == (1, 1)


@pytest.mark.parametrize("is_there", [True, False])
async def test_the_successor_is_told_to_stand_once_it_has_all(*, is_there: bool) -> None:
    rig = Rig()
    await rig.lead()
    rig.write()
    await settle()
    core = rig.host.core
    rig.host.core.transfer_leadership(TWO, rig.now)
    held = LogIndex(core.last_index - (not is_there))
    rig.hear(AppendResponse(TWO, OWN, core.term, held))
    await settle()
    assert bool(rig.peers.messages(TimeoutNow)) is is_there
