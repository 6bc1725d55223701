"""Every request ends in exactly one answer, whatever becomes of it."""

from __future__ import annotations

import pytest
from server_support import LIMITS, NODES, Asked, Rig, batch, command, settle, until

from kvstore.errors import Internal, NotLeader, Overloaded, Unavailable
from kvstore.ids import LogIndex, ReplicaId, Term
from kvstore.kv import commands, replies
from kvstore.raft.messages import AppendRequest, VoteRequest, VoteResponse
from kvstore.server.pending import Read, Write
from kvstore.server.shard_host import GATHER_S
from kvstore.server.status import shard_status


def decoded(asked: Asked) -> replies.BatchReply:
    (body,) = asked.replies
    reply = replies.decode_reply(body, 1)
    assert isinstance(reply, replies.BatchReply)
    return reply


async def test_an_applied_write_is_answered_once() -> None:
    rig = Rig()
    await rig.lead()
    asked = rig.write()
    await rig.acknowledge()
    assert decoded(asked).effects == [True]
    await rig.depose()
    rig.host.expire(rig.now + 100)
    rig.host.fail_all(Unavailable("stop"))
    assert asked.answers == 1
    assert not rig.host.is_busy


async def test_writes_of_one_tick_share_an_entry_and_keep_their_order() -> None:
    rig = Rig()
    await rig.lead()
    before = rig.host.core.last_index
    first, second = rig.write(value=b"1"), rig.write(value=b"2")
    await rig.acknowledge()
    assert rig.host.core.last_index == before + 1
    assert (len(first.replies), len(second.replies)) == (1, 1)
    assert rig.host.machine.get_many([b"k"])[0][0] == b"2"


async def test_an_entry_holds_no_more_than_its_bound_but_one_batch_at_least() -> None:
    rig = Rig()
    await rig.lead()
    before = rig.host.core.last_index
    asked = [rig.write(value=bytes(700_000)) for _ in range(3)]
    await rig.acknowledge()
    await rig.acknowledge()
    assert rig.host.core.last_index == before + 3
    assert [len(each.replies) for each in asked] == [1, 1, 1]


async def test_what_arrives_while_an_entry_is_under_way_shares_the_next_one() -> None:
    rig = Rig()
    await rig.lead()
    before = rig.host.core.last_index
    asked = []
    for _ in range(3):
        asked.append(rig.write())
        await settle()
    assert rig.host.core.last_index == before + 1
    await rig.acknowledge()
    assert rig.host.core.last_index == before + 2
    await rig.acknowledge()
    assert [len(each.replies) for each in asked] == [1, 1, 1]


async def test_nothing_gathers_for_longer_than_its_time() -> None:
    rig = Rig()
    await rig.lead()
    before = rig.host.core.last_index
    rig.write()
    await settle()
    rig.now += 0.9 * GATHER_S
    rig.write()
    await settle()
    assert rig.host.core.last_index == before + 1
    rig.now += 0.2 * GATHER_S
    await until(lambda: rig.host.core.last_index == before + 2)


async def test_a_follower_names_the_leader() -> None:
    rig = Rig()
    await rig.depose()
    for asked in (rig.write(), rig.read()):
        assert isinstance(asked.error, NotLeader)
        assert asked.error.leader == NODES[ReplicaId(3)]
        assert not asked.error.may_have_applied


async def test_a_replica_that_knows_no_leader_says_so() -> None:
    rig = Rig()
    assert isinstance(rig.write().error, NotLeader)
    assert rig.write().error.leader is None


async def test_a_deposed_leader_answers_what_it_cannot_finish() -> None:
    rig = Rig()
    await rig.lead()
    in_log, read = rig.write(), rig.read()
    await settle()
    queued, queued_read = rig.write(), rig.read()
    await rig.depose()
    assert in_log.error.may_have_applied
    assert not queued.error.may_have_applied
    assert isinstance(read.error, NotLeader)
    assert {each.error.leader for each in (in_log, read, queued, queued_read)} == {"n3"}
    assert not rig.host.is_busy


async def test_an_entry_that_commits_after_its_leader_fell_is_not_answered_again() -> None:
    rig = Rig()
    await rig.lead()
    asked = rig.write()
    await settle()
    core = rig.host.core
    last, term = core.last_index, core.term
    await rig.depose()
    assert asked.error.may_have_applied
    rig.hear(AppendRequest(ReplicaId(3), ReplicaId(1), Term(term + 1), last, term, (), last))
    await settle()
    assert core.applied_index == last
    assert rig.host.machine.get_many([b"k"]) != [None]
    assert asked.answers == 1


async def test_an_overdue_write_is_answered_as_unknown_and_not_again_when_applied() -> None:
    rig = Rig()
    await rig.lead()
    asked, read = rig.write(), rig.read()
    await settle()
    rig.host.expire(rig.now + 9.9)
    assert (asked.answers, read.answers) == (0, 0)
    rig.host.expire(rig.now + 10)
    assert isinstance(asked.error, Unavailable)
    assert asked.error.may_have_applied
    assert isinstance(read.error, Unavailable)
    await rig.acknowledge()
    assert rig.host.machine.get_many([b"k"]) != [None]
    assert (asked.answers, read.answers) == (1, 1)


async def test_a_write_that_the_engine_holds_up_becomes_overdue_too() -> None:
    rig = Rig()
    await rig.lead()
    rig.engine.fill()
    asked = rig.write()
    await rig.acknowledge()
    assert asked.answers == 0
    rig.host.expire(rig.now + 10)
    assert asked.error.may_have_applied
    rig.engine.failing = None
    rig.driver._applier.retry_write()
    await settle()
    assert rig.host.machine.get_many([b"k"]) != [None]
    assert asked.answers == 1


async def test_a_stopping_node_answers_what_the_engine_holds_up() -> None:
    rig = Rig()
    await rig.lead()
    rig.engine.fill()
    asked = rig.write()
    await rig.acknowledge()
    rig.host.fail_all(Unavailable("the node is stopping"))
    assert isinstance(asked.error, Unavailable)
    assert asked.error.may_have_applied
    assert not rig.host.is_busy


async def test_stopping_answers_everything_that_waits() -> None:
    rig = Rig()
    await rig.lead()
    in_log, asked_index = rig.write(), rig.read()
    await settle()
    queued, queued_read = rig.write(), rig.read()
    rig.host.fail_all(Unavailable("the node is stopping"))
    assert [each.answers for each in (in_log, asked_index, queued, queued_read)] == [1, 1, 1, 1]
    assert not rig.host.is_busy


async def test_a_replaced_entry_is_gone_and_one_passed_over_is_unknown() -> None:
    rig = Rig()
    await rig.lead()
    passed_over, replaced = rig.write(), Asked()
    rig.host.collect(rig.now, 0)
    rig.host.write(Write(1, batch(), replaced))
    rig.host.collect(rig.now + GATHER_S, 0)
    term = rig.host.core.term
    assert rig.host._take_proposal(command(3, term + 1)) is None
    assert passed_over.error.may_have_applied
    assert not replaced.error.may_have_applied


async def test_too_much_uncommitted_is_overloaded() -> None:
    rig = Rig()
    await rig.lead()
    big = bytes(8 << 20)
    asked = [rig.write(value=big) for _ in range(10)]
    await settle()
    refused = [each for each in asked if each.answers]
    assert refused
    assert all(isinstance(each.error, Overloaded) for each in refused)


async def test_reads_wait_for_a_round_and_for_the_state() -> None:
    rig = Rig()
    await rig.lead()
    read = rig.read()
    await settle()
    assert read.answers == 0
    await rig.confirm()
    assert read.replies == [b"[None]"]


async def test_reads_before_the_terms_first_commit_wait_by_one_question() -> None:
    rig = Rig()
    await rig.win(rig.host)
    reads = []
    for _ in range(5):
        reads.append(rig.read())
        await settle()
    assert len(rig.host._confirming) == 1
    await rig.acknowledge()
    later = rig.read()
    await settle()
    assert len(rig.host._confirming) == 2, "its round has begun: what came later is not of it"
    await rig.confirm()
    assert [read.replies for read in [*reads, later]] == [[b"[None]"]] * 6


async def test_nothing_is_served_from_a_state_that_is_being_replaced() -> None:
    rig = Rig()
    await rig.lead()
    read = rig.read()
    await settle()
    rig.host.begin_install()
    await rig.confirm()
    assert read.answers == 0
    assert isinstance(rig.read().error, NotLeader)
    rig.host.installing = False
    rig.host.serve_reads()
    assert read.answers == 1


async def test_a_snapshot_that_is_not_what_it_was_said_to_be_is_fatal() -> None:
    rig = Rig()
    with pytest.raises(Internal, match="snapshot"):
        rig.host.replaced_by_snapshot(LogIndex(7), rig.host.machine.load())


async def test_a_snapshot_drops_what_it_covers() -> None:
    rig, other = Rig(), Rig()
    host = rig.host
    host.commit([command(1, value=b"old"), command(2, value=b"new")])
    into = rig.engine.batch()
    other.host.commit([command(1, value=b"old")])
    other.host.apply()
    other.host.machine.flush(into)
    rig.engine.write(into)
    host.begin_install()
    host.replaced_by_snapshot(LogIndex(1), host.machine.load())
    assert not host.installing
    assert [entry.index for entry in host.to_apply] == [2]
    assert host.to_apply_bytes == len(command(2, value=b"new").payload)
    assert host.clock.last >= host.machine.last_revision == 1


async def test_revisions_rise_above_all_that_was_seen() -> None:
    rig = Rig()
    seen = 1 << 62
    rig.host.observe([command(1, revision=seen)])
    await rig.lead()
    asked = rig.write()
    await rig.acknowledge()
    assert decoded(asked).first_revision == seen + 1


async def test_a_read_is_served_once_even_if_its_index_comes_twice() -> None:
    rig = Rig()
    await rig.lead()
    asked = Asked()
    rig.host.read(Read(lambda: asked.reply(b""), asked))
    rig.driver.wake(rig.host)
    await settle()
    await rig.confirm()
    await rig.confirm()
    assert asked.answers == 1


def test_limits_travel_in_the_entry() -> None:
    assert commands.decode_entry(command(1).payload).limits == LIMITS


async def test_the_status_tells_what_is_written() -> None:
    rig = Rig(voters=1)
    await rig.lead()
    rig.engine.fill()
    rig.write(b"key", b"value")
    await settle()

    def told() -> tuple[int, int]:
        row = shard_status(rig.host, rig.now)
        return row["keys"], row["bytes"]

    assert told() == (0, 0)
    rig.engine.failing = None
    rig.driver._applier.retry_write()
    assert told() == (1, len(b"keyvalue"))


async def test_what_came_to_a_leader_that_was_deposed_unseen_is_answered() -> None:
    """It wins one election and hears of the next within one tick: nobody saw it lead."""
    rig = Rig()
    rig.host.core.campaign(rig.now)
    rig.driver.wake(rig.host)
    await settle()
    rig.hear(VoteResponse(ReplicaId(2), rig.own, Term(1), granted=True, pre_vote=True))
    await settle()
    rig.hear(VoteResponse(ReplicaId(2), rig.own, Term(1), granted=True, pre_vote=False))
    assert rig.host.is_leader
    asked = [rig.write(), rig.read()]
    stands = VoteRequest(ReplicaId(3), rig.own, Term(2), LogIndex(9), Term(1), False, True)
    rig.hear(stands)
    assert not rig.host.is_leader
    await settle()
    rig.host.expire(rig.now)
    assert [type(error) for each in asked for error in each.errors] == [NotLeader, NotLeader]
    assert not rig.host.is_busy
