"""What becomes of calls when nodes misbehave: each write applies once, each call ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fake_kv_cluster import QUICK, Do, FakeNode, until

from kvstore.client import connect
from kvstore.client.batches import ScanPage
from kvstore.client.call import Call
from kvstore.client.operations import NEVER
from kvstore.errors import (
    DeadlineExceeded,
    DiskFull,
    Internal,
    KVError,
    Overloaded,
    ProtocolError,
    SessionExpired,
    Unavailable,
)
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fake_kv_cluster import FakeCluster

    from kvstore import Client

KEY = b"user:1"


def others(cluster: FakeCluster, node: FakeNode) -> list[FakeNode]:
    return [other for other in cluster.nodes.values() if other is not node]


def elect_later(cluster: FakeCluster, node: FakeNode, delay_s: float) -> None:
    asyncio.get_running_loop().call_later(delay_s, cluster.elect, node.id)


@pytest.mark.parametrize("action", [Do.DROP_SERVED, Do.DROP_UNSERVED, Do.NOT_LEADER_MAYBE])
async def test_a_write_whose_outcome_was_lost_applies_once(
    patient_kv: Client, cluster: FakeCluster, action: Do
) -> None:
    leader = cluster.leader_of(KEY)
    leader.script += [action, action]
    revision = await patient_kv.put(KEY, b"v")
    assert cluster.shard_of(KEY).applied[KEY] == 1
    assert cluster.shard_of(KEY).rows[KEY] == (b"v", revision)
    assert leader.received[Kind.WRITE] == 3


async def test_compare_and_swap_gets_its_first_answer_again(
    kv: Client, cluster: FakeCluster
) -> None:
    cluster.leader_of(KEY).script += [Do.DROP_SERVED]
    assert await kv.compare_and_swap(KEY, None, b"mine") is True


async def test_killed_leader(kv: Client, cluster: FakeCluster) -> None:
    leader = cluster.leader_of(KEY)
    await kv.put(KEY, b"1")
    await leader.kill()
    successor = others(cluster, leader)[1]
    elect_later(cluster, successor, 0.05)
    await kv.put(KEY, b"2")
    assert cluster.shard_of(KEY).applied[KEY] == 2
    assert kv._cluster.channels[cluster.shard_of(KEY).id].route.leader == successor.id


async def test_killed_with_requests_unanswered(kv: Client, cluster: FakeCluster) -> None:
    leader = cluster.leader_of(KEY)
    leader.script += [Do.SERVE_SILENTLY]
    put = asyncio.create_task(kv.put(KEY, b"v"))
    await until(lambda: cluster.shard_of(KEY).applied[KEY])
    await leader.kill()
    cluster.elect(others(cluster, leader)[0].id)
    await put
    assert cluster.shard_of(KEY).applied[KEY] == 1


async def test_hints_at_a_dead_leader_are_not_followed_for_ever(
    kv: Client, cluster: FakeCluster
) -> None:
    leader = cluster.leader_of(KEY)
    await kv.put(KEY, b"1")
    await leader.kill()
    for other in others(cluster, leader):
        other.stale_hint = leader.id
    elect_later(cluster, others(cluster, leader)[0], 0.05)
    await kv.put(KEY, b"2")
    assert cluster.shard_of(KEY).applied[KEY] == 2


async def test_hints_that_point_in_a_circle(kv: Client, cluster: FakeCluster) -> None:
    leader = cluster.leader_of(KEY)
    first, second = others(cluster, leader)
    first.stale_hint, second.stale_hint, leader.stale_hint = second.id, first.id, first.id
    cluster.elect(None)
    elect_later(cluster, leader, 0.05)
    await kv.put(KEY, b"v")
    assert cluster.shard_of(KEY).applied[KEY] == 1


async def test_while_nobody_leads_one_request_seeks(kv: Client, cluster: FakeCluster) -> None:
    cluster.elect(None)
    for node in cluster.nodes.values():
        node.knows_leader = False
    keys = [b"%d" % i for i in range(2000)]
    keys = [key for key in keys if cluster.shard_of(key) is cluster.shards[0]]
    puts = [asyncio.create_task(kv.put(key, b"v")) for key in keys]
    while sum(node.received[Kind.WRITE] for node in cluster.nodes.values()) < 12:
        await asyncio.sleep(0)
        more = asyncio.create_task(kv.put(keys[0], b"v"))
        puts.append(more)
    assert cluster.node(1).received[Kind.WRITE] >= 3  # all are asked, again and again
    cluster.elect(cluster.node(3).id)
    await asyncio.gather(*puts)
    assert cluster.shards[0].applied[keys[0]] == len(puts) - len(keys) + 1


async def test_frozen_leader(kv: Client, cluster: FakeCluster) -> None:
    leader = cluster.leader_of(KEY)
    await kv.put(KEY, b"1")
    leader.freeze()
    elect_later(cluster, others(cluster, leader)[0], 0.05)
    await kv.put(KEY, b"2")
    assert cluster.shard_of(KEY).applied[KEY] == 2
    leader.thaw()
    await kv.put(KEY, b"3")
    assert cluster.shard_of(KEY).applied[KEY] == 3


async def test_a_node_that_is_slow_keeps_its_connection(cluster: FakeCluster) -> None:
    # So that even a slow machine answers the third attempt in time.
    options = replace(QUICK, timeout_s=60.0, attempt_timeout_s=0.5, attempt_timeout_s_max=20.0)
    async with connect(cluster.endpoints, options=options) as kv:
        leader = cluster.leader_of(KEY)
        await kv.get(KEY)
        connection = set(leader.connections)
        leader.script += [Do.SERVE_SILENTLY, Do.SWALLOW]
        await kv.put(KEY, b"v")
        assert cluster.shard_of(KEY).applied[KEY] == 1
        assert leader.received[Kind.WRITE] == 3
        assert leader.received[Kind.PING] >= 1
        assert leader.connections == connection


async def test_a_late_answer_to_an_earlier_attempt_settles_the_call(
    kv: Client, cluster: FakeCluster
) -> None:
    leader = cluster.leader_of(KEY)
    leader.script += [Do.SERVE_LATE] + [Do.SWALLOW] * 100
    put = asyncio.create_task(kv.put(KEY, b"v"))
    await until(lambda: leader.received[Kind.WRITE] >= 2)
    leader.answer_late()
    revision = await put
    assert cluster.shard_of(KEY).rows[KEY] == (b"v", revision)


async def test_overload_is_waited_out(kv: Client, cluster: FakeCluster) -> None:
    cluster.leader_of(KEY).script += [Do.OVERLOADED, Do.DISK_FULL, Do.OVERLOADED]
    await kv.put(KEY, b"v")
    assert cluster.shard_of(KEY).applied[KEY] == 1


@pytest.mark.parametrize(
    ("action", "kind"), [(Do.OVERLOADED, Overloaded), (Do.DISK_FULL, DiskFull)]
)
async def test_overload_until_the_deadline_is_reported_as_such(
    kv: Client, cluster: FakeCluster, action: Do, kind: type[KVError]
) -> None:
    cluster.leader_of(KEY).script += [action] * 1000
    with pytest.raises(kind) as caught:
        await kv.put(KEY, b"v", timeout_s=1)
    assert caught.value.retryable
    assert not caught.value.may_have_applied


async def test_an_expired_session_is_replaced_when_nothing_can_have_happened(
    kv: Client, cluster: FakeCluster
) -> None:
    leader = cluster.leader_of(KEY)
    await kv.put(KEY, b"1")
    leader.script += [Do.EXPIRED]
    shard = cluster.shard_of(KEY)
    welcome_at = shard.revision + 1
    await kv.put(KEY, b"2")
    assert shard.applied[KEY] == 2
    assert [created for created, _ in shard.sessions][1:] == [welcome_at]


async def test_an_expired_session_after_a_lost_answer_is_reported(
    kv: Client, cluster: FakeCluster
) -> None:
    leader = cluster.leader_of(KEY)
    leader.script += [Do.DROP_SERVED, Do.EXPIRED]
    with pytest.raises(SessionExpired) as caught:
        await kv.put(KEY, b"v")
    assert caught.value.may_have_applied
    assert cluster.shard_of(KEY).applied[KEY] == 1
    await kv.put(KEY, b"2")  # the client goes on


async def test_sessions_that_are_refused_until_the_deadline_are_reported(
    kv: Client, cluster: FakeCluster
) -> None:
    cluster.leader_of(KEY).script += [Do.EXPIRED] * 100_000
    with pytest.raises((Unavailable, DeadlineExceeded), match="refused: the session is gone"):
        await kv.put(KEY, b"v", timeout_s=0.05)
    assert cluster.shard_of(KEY).applied[KEY] == 0


@pytest.mark.parametrize(("action", "kind"), [(Do.INTERNAL, Internal), (Do.GARBAGE, ProtocolError)])
async def test_errors_that_no_retry_can_mend(
    kv: Client, cluster: FakeCluster, action: Do, kind: type[KVError]
) -> None:
    cluster.leader_of(KEY).script += [action]
    with pytest.raises(kind) as caught:
        await kv.put(KEY, b"v")
    assert caught.value.may_have_applied is (action is Do.GARBAGE)


async def test_deadline_with_an_attempt_unanswered(kv: Client, cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.freeze()
    with pytest.raises(DeadlineExceeded) as caught:
        await kv.put(KEY, b"v", timeout_s=0.05)
    assert caught.value.may_have_applied
    with pytest.raises(DeadlineExceeded) as caught:
        await kv.get(KEY, timeout_s=0.05)
    assert not caught.value.may_have_applied


async def test_deadline_while_nobody_leads(kv: Client, cluster: FakeCluster) -> None:
    cluster.elect(None)
    puts = [kv.put(KEY, b"v", timeout_s=0.1) for _ in range(3)]
    for error in await asyncio.gather(*puts, return_exceptions=True):
        # The last question who leads may just be on its way.
        assert isinstance(error, Unavailable | DeadlineExceeded)
        assert error.retryable
        assert error.may_have_applied is isinstance(error, DeadlineExceeded)
    assert not cluster.shard_of(KEY).applied


async def test_deadline_after_an_attempt_that_may_have_applied(
    kv: Client, cluster: FakeCluster
) -> None:
    cluster.leader_of(KEY).script += [Do.NOT_LEADER_MAYBE] * 100_000
    with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
        await kv.put(KEY, b"v", timeout_s=1)
    assert caught.value.may_have_applied
    with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
        await kv.get(KEY, timeout_s=1)
    assert not caught.value.may_have_applied


async def test_all_nodes_dead_then_back(kv: Client, cluster: FakeCluster) -> None:
    await kv.put(KEY, b"1")
    await cluster.stop()
    while any(status.error is None for status in await kv.node_statuses()):
        pass  # until the client has noticed
    with pytest.raises(Unavailable, match="refused") as caught:
        await kv.put(KEY, b"2", timeout_s=1)
    assert not caught.value.may_have_applied
    put = asyncio.create_task(kv.put(KEY, b"3"))
    await cluster.start()
    await put
    assert cluster.shard_of(KEY).applied[KEY] == 2


async def test_calls_of_one_batch_have_their_own_deadlines(
    kv: Client, cluster: FakeCluster
) -> None:
    cluster.elect(None)
    hurried = asyncio.create_task(kv.put(KEY, b"1", timeout_s=0.05))
    patient = asyncio.create_task(kv.put(KEY, b"2"))
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await hurried
    assert not patient.done()
    cluster.elect(cluster.node(2).id)
    await patient


async def test_a_call_in_a_hurry_that_gathers_with_others_has_its_own_deadline(
    kv: Client, cluster: FakeCluster
) -> None:
    await kv.put(KEY, b"v")
    leader = cluster.leader_of(KEY)
    leader.freeze()
    sent = asyncio.create_task(kv.put(KEY, b"sent", timeout_s=60))
    await until(lambda: leader.is_asked)
    patient = asyncio.create_task(kv.put(KEY, b"gathers", timeout_s=60))
    await asyncio.sleep(0)
    with pytest.raises(KVError) as caught:
        async with asyncio.timeout(10):
            await kv.put(KEY, b"in a hurry", timeout_s=0.03)
    assert isinstance(caught.value, DeadlineExceeded | Unavailable)
    assert not caught.value.may_have_applied
    assert not sent.done()
    assert not patient.done()
    leader.thaw()
    await asyncio.gather(sent, patient)


async def test_a_bug_in_one_call_keeps_no_other_from_its_deadline(
    kv: Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wake(call: Call, now: float) -> None:
        if not isinstance(call.batch, ScanPage):
            wake_well(call, now)
            return
        call.wakes_at = NEVER
        raise ZeroDivisionError

    wake_well = Call.wake
    monkeypatch.setattr(Call, "wake", wake)
    bugs: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, bug: bugs.append(bug))
    await kv.put(KEY, b"v")
    cluster.leader_of(KEY).freeze()
    rows = kv.scan(timeout_s=0.01)
    scan = asyncio.ensure_future(anext(rows))
    await asyncio.sleep(0)
    with pytest.raises(KVError) as caught:
        async with asyncio.timeout(10):
            await kv.put(KEY, b"w", timeout_s=0.02)
    assert isinstance(caught.value, DeadlineExceeded | Unavailable)
    assert bugs
    scan.cancel()
    await asyncio.gather(scan, return_exceptions=True)


async def test_a_deadline_in_a_batch_that_goes_on_for_others_is_of_unknown_outcome(
    kv: Client, cluster: FakeCluster
) -> None:
    """Nothing happened yet, but the batch is sent again for who still waits."""
    leader = cluster.leader_of(KEY)
    leader.script += [Do.DISK_FULL] * 1000
    impatient = asyncio.create_task(kv.put(KEY, b"v", timeout_s=1))
    patient = asyncio.create_task(kv.put(KEY, b"w", timeout_s=20.0))
    with pytest.raises(DiskFull) as caught:
        await impatient
    assert caught.value.may_have_applied
    leader.script.clear()
    await patient
    assert cluster.shard_of(KEY).applied[KEY] == 2


async def test_cancelling_one_call_harms_no_other(kv: Client, cluster: FakeCluster) -> None:
    leader = cluster.leader_of(KEY)
    leader.script += [Do.OVERLOADED] * 3
    keys = [key for i in range(100) if cluster.shard_of(key := b"%d" % i) is cluster.shard_of(KEY)]
    puts = [asyncio.create_task(kv.put(key, b"v")) for key in keys]
    await until(lambda: leader.received[Kind.WRITE])
    puts[0].cancel()
    await asyncio.gather(*puts[1:])
    assert puts[0].cancelled()


async def test_a_call_cancelled_before_it_is_sent_is_not_sent(
    kv: Client, cluster: FakeCluster
) -> None:
    unwanted = asyncio.create_task(kv.put(KEY, b"1"))
    await asyncio.sleep(0)  # it has begun and will be sent at the end of this tick
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    other = await kv.put(KEY, b"2")
    assert cluster.shard_of(KEY).applied[KEY] == 1
    assert cluster.shard_of(KEY).rows[KEY] == (b"2", other)
    assert kv._cluster.gate.operations == 0


async def test_closing_fails_what_is_under_way(cluster: FakeCluster, kv: Client) -> None:
    cluster.leader_of(KEY).freeze()
    cluster.elect(None, [shard for shard in cluster.shards if shard is not cluster.shard_of(KEY)])
    elsewhere = next(
        key for i in range(100) if cluster.shard_of(key := b"%d" % i) is not cluster.shard_of(KEY)
    )
    sent = asyncio.create_task(kv.put(KEY, b"v"))
    read = asyncio.create_task(kv.get(KEY))
    seeking = asyncio.create_task(kv.put(elsewhere, b"v"))
    await until(lambda: any(node.received[Kind.WRITE] for node in cluster.nodes.values()))
    waiting = asyncio.create_task(kv.put(elsewhere, b"v"))
    await asyncio.sleep(0)
    await kv.close()
    with pytest.raises(Unavailable, match="closed"):
        await seeking
    results = await asyncio.gather(sent, read, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    assert [result.may_have_applied for result in results] == [True, False, False]  # type: ignore[union-attr]
    assert kv._opened is None


@pytest.mark.parametrize(
    "call",
    [
        lambda kv: kv.put(KEY, b"v"),
        lambda kv: kv.get(KEY),
        lambda kv: kv.delete(KEY),
        lambda kv: kv.compare_and_swap(KEY, None, b"v"),
    ],
)
async def test_closing_as_a_call_gets_its_turn(
    cluster: FakeCluster, call: Callable[[Client], Coroutine[Any, Any, object]]
) -> None:
    async with connect(cluster.endpoints, options=replace(QUICK, operations_max=1)) as kv:
        gate = kv._cluster.gate
        assert gate.try_enter(1)
        waiting = asyncio.create_task(call(kv))
        await until(lambda: gate._waiting)
        gate.leave(1, 1)
        await kv.close()
        with pytest.raises(Unavailable, match="closed"):
            async with asyncio.timeout(10):
                await waiting


async def test_every_answer_lost_now_and_then(kv: Client, cluster: FakeCluster) -> None:
    """Counters by compare-and-swap add up only if nothing is lost and nothing runs twice."""
    actions = [Do.SERVE, Do.DROP_SERVED, Do.OVERLOADED, Do.SERVE, Do.DROP_UNSERVED, Do.SERVE]
    for node in cluster.nodes.values():
        node.script += actions * 20

    async def count_up(key: str) -> None:
        for _ in range(10):
            item = await kv.get(key)
            present = None if item is None else item.value
            assert await kv.compare_and_swap(key, present, b"%d" % (int(present or b"0") + 1))

    await asyncio.gather(*(count_up(f"counter{i}") for i in range(20)))
    items = await asyncio.gather(*(kv.get(f"counter{i}") for i in range(20)))
    assert [item and item.value for item in items] == [b"10"] * 20
