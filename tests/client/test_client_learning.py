"""A client whose map is old: it is corrected at once, and no call is the worse for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fake_kv_cluster import PATIENT, QUICK, Do, FakeNode, until

from kvstore import connect
from kvstore.client import link
from kvstore.client.cluster import STRANGERS_MAX
from kvstore.client.learning import MapLearner
from kvstore.errors import NotLeader, Unavailable
from kvstore.ids import NodeId, ShardId
from kvstore.wire.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fake_kv_cluster import FakeCluster

    from kvstore import Client

KEY = b"user:1"


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done by chance or after some time: what is counted is due to refusals alone."""
    monkeypatch.setattr(MapLearner, "look_around", lambda *_, **__: None)
    monkeypatch.setattr(link, "OPENING_S", 60.0)


async def settled(kv: Client, cluster: FakeCluster) -> None:
    """The client has found every leader, and every node."""
    await asyncio.gather(*(kv.put(b"%d" % i, b"v") for i in range(64)))
    await until(lambda: all(node.hellos for node in cluster.nodes.values()))
    assert all(channel.route.leader for channel in kv._cluster.channels)


def refusals(cluster: FakeCluster) -> int:
    return sum(node.refusals for node in cluster.nodes.values())


async def scan_all(kv: Client) -> list[bytes]:
    return [item.key async for item in kv.scan("user:")]


CALLS: dict[str, Callable[[Client], Coroutine[None, None, object]]] = {
    "put": lambda kv: kv.put(KEY, b"v"),
    "get": lambda kv: kv.get(KEY),
    "delete": lambda kv: kv.delete(KEY),
    "compare_and_swap": lambda kv: kv.compare_and_swap(KEY, None, b"v"),
}


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("call", CALLS)
async def test_an_old_map_costs_one_refused_attempt_and_one_question(
    patient_kv: Client, cluster: FakeCluster, call: str
) -> None:
    await settled(patient_kv, cluster)
    old, shard = cluster.leader_of(KEY), cluster.shard_of(KEY)
    newcomers = await cluster.join(3)
    cluster.move(newcomers, [shard])
    refused, asked = refusals(cluster), cluster.total(Kind.SHARD_MAP)
    await CALLS[call](patient_kv)
    await until(lambda: patient_kv._cluster.map_version == cluster.version)
    assert refusals(cluster) - refused == old.refusals == 1
    assert cluster.total(Kind.SHARD_MAP) - asked == 1
    await CALLS[call](patient_kv)
    assert refusals(cluster) - refused == 1, "it goes straight there now"
    assert cluster.total(Kind.SHARD_MAP) - asked == 1


@pytest.mark.usefixtures("unhurried")
async def test_every_shard_at_once_costs_one_question(
    patient_kv: Client, cluster: FakeCluster
) -> None:
    await settled(patient_kv, cluster)
    cluster.move(await cluster.join(3))
    asked = cluster.total(Kind.SHARD_MAP)
    await asyncio.gather(*(patient_kv.put(b"%d" % i, b"w") for i in range(64)))
    await until(lambda: patient_kv._cluster.map_version == cluster.version)
    assert cluster.total(Kind.SHARD_MAP) - asked == 1
    assert all(shard.applied[key] == 2 for shard in cluster.shards for key in shard.rows)


@pytest.mark.usefixtures("unhurried")
async def test_the_next_attempt_does_not_wait_for_the_map(
    patient_kv: Client, cluster: FakeCluster
) -> None:
    await settled(patient_kv, cluster)
    cluster.leader_of(KEY).tells_map = False
    newcomers = await cluster.join(3)
    cluster.move(newcomers)
    before = patient_kv._cluster.map_version
    await patient_kv.put(KEY, b"v")
    assert patient_kv._cluster.map_version == before
    assert newcomers[0].received[Kind.WRITE] == 1


async def one_keeps_its_map_back(kv: Client, cluster: FakeCluster) -> tuple[FakeNode, FakeNode]:
    """There is a newer map. The first node does not give it away, the second does."""
    await settled(kv, cluster)
    silent, other = cluster.node(1), cluster.node(2)
    silent.tells_map = False
    cluster.version = 9
    return silent, other


@pytest.mark.usefixtures("unhurried")
async def test_for_a_version_one_node_is_asked_and_another_when_that_fails(
    kv: Client, cluster: FakeCluster
) -> None:
    silent, other = await one_keeps_its_map_back(kv, cluster)
    before = silent.received[Kind.SHARD_MAP], other.received[Kind.SHARD_MAP]
    learner, links = kv._cluster.learner, kv._cluster.links
    learner.heard_of(9, links[silent.id])
    await until(lambda: silent.received[Kind.SHARD_MAP] > before[0])
    learner.heard_of(9, links[other.id])
    learner.heard_of(8, links[other.id])
    await until(lambda: learner._fetching is None)
    assert silent.received[Kind.SHARD_MAP] == before[0] + 1
    assert other.received[Kind.SHARD_MAP] == before[1]
    learner.heard_of(9, links[other.id])
    await until(lambda: kv._cluster.map_version == 9)


@pytest.mark.usefixtures("unhurried")
async def test_a_version_that_comes_up_meanwhile_is_asked_for_next(
    kv: Client, cluster: FakeCluster
) -> None:
    silent, other = await one_keeps_its_map_back(kv, cluster)
    links = kv._cluster.links
    kv._cluster.learner.heard_of(8, links[silent.id])
    kv._cluster.learner.heard_of(9, links[other.id])
    await until(lambda: kv._cluster.map_version == 9)


@pytest.mark.usefixtures("unhurried")
async def test_a_promise_that_was_not_kept_is_taken_from_another(
    kv: Client, cluster: FakeCluster
) -> None:
    await settled(kv, cluster)
    forgetful, other = cluster.node(1), cluster.node(2)
    forgetful.old_map = cluster.map_reply()
    cluster.version = 9
    learner, links = kv._cluster.learner, kv._cluster.links
    learner.heard_of(9, links[forgetful.id])
    await until(lambda: learner._fetching is None)
    assert kv._cluster.map_version < 9
    learner.heard_of(9, links[other.id])
    await until(lambda: kv._cluster.map_version == 9)


@pytest.mark.parametrize("version", [0, 1])
async def test_an_older_map_does_not_mislead(
    kv: Client, cluster: FakeCluster, version: int
) -> None:
    await settled(kv, cluster)
    trap = FakeNode(NodeId("n9"), cluster)
    await trap.start()
    cluster.version += 1
    await kv.shard_map()
    for node in cluster.nodes.values():
        node.own_version, node.stale_hint, node.stale_address = version, trap.id, trap.address
    cluster.elect(cluster.node(2).id)
    await asyncio.gather(*(kv.put(b"%d" % i, b"w") for i in range(64)))
    assert refusals(cluster)
    assert trap.hellos == 0
    await trap.kill()


async def test_a_newer_map_that_names_the_wrong_one_does_no_harm(
    kv: Client, cluster: FakeCluster
) -> None:
    """It is asked, and what it says is no worse than what anybody says."""
    await settled(kv, cluster)
    trap = FakeNode(NodeId("n9"), cluster)
    await trap.start()
    cluster.version += 1
    cluster.leader_of(KEY).stale_hint = trap.id
    cluster.leader_of(KEY).stale_address = trap.address
    cluster.elect(next(n.id for n in cluster.nodes.values() if n is not cluster.leader_of(KEY)))
    await kv.put(KEY, b"w")
    assert cluster.shard_of(KEY).applied[KEY] == 1
    await trap.kill()


async def test_nodes_of_an_earlier_version_tell_less_and_are_followed_all_the_same(
    kv: Client, cluster: FakeCluster
) -> None:
    await settled(kv, cluster)
    for node in cluster.nodes.values():
        node.own_version = 0
    cluster.move(await cluster.join(3))
    await asyncio.gather(*(kv.put(b"%d" % i, b"w") for i in range(64)))
    assert kv._cluster.map_version == cluster.version


async def test_a_bounded_number_of_unknown_nodes_is_dialled(
    kv: Client, cluster: FakeCluster
) -> None:
    await settled(kv, cluster)
    known = len(kv._cluster.links)
    for number in range(10, 10 + 2 * STRANGERS_MAX):
        error = NotLeader("moved", leader=f"n{number}", address="127.0.0.1:1", map_version=9)
        assert kv._cluster.directed(cluster.node(1).id, ShardId(0), error) == f"n{number}"
    assert len(kv._cluster.links) == known + STRANGERS_MAX
    cluster.version = 9
    await until(lambda: kv._cluster.map_version == 9)
    assert len(kv._cluster.links) == known, "the map has none of them"


async def test_who_was_named_by_a_still_newer_map_is_kept(kv: Client, cluster: FakeCluster) -> None:
    await settled(kv, cluster)
    (newcomer,) = await cluster.join(1)
    del cluster.nodes[newcomer.id]
    for named_by in (cluster.version + 1, cluster.version):
        name = f"n{number}" if (number := 40 + named_by) else ""
        error = NotLeader("x", leader=name, address=newcomer.address, map_version=named_by)
        kv._cluster.directed(NodeId("n99"), ShardId(0), error)
    await kv.shard_map()
    there = kv._cluster.links.keys() - cluster.nodes.keys()
    assert there == {f"n{41 + cluster.version}"}
    await newcomer.kill()


# -- while shards move ----------------------------------------------------------------------------


async def test_a_scan_goes_on_while_its_shards_move(kv: Client, cluster: FakeCluster) -> None:
    keys = [b"k%05d" % number for number in range(3000)]
    await asyncio.gather(*(kv.put(key, b"v") for key in keys))
    rows = kv.scan("k")
    found = [(await anext(rows)).key for _ in range(10)]
    cluster.move(await cluster.join(3))
    found += [row.key async for row in rows]
    assert found == keys


async def test_no_call_fails_while_leaders_and_shards_wander(
    kv: Client, cluster: FakeCluster
) -> None:
    done = asyncio.Event()

    async def use(number: int) -> int:
        rounds = 0
        while not done.is_set():
            key = b"user:%d" % number
            value = b"%d" % rounds
            await kv.put(key, value)
            item = await kv.get(key)
            assert item is not None
            assert item.value == value
            rounds += 1
        return rounds

    users = [asyncio.create_task(use(number)) for number in range(8)]
    written = cluster.total(Kind.WRITE)
    for step in range(12):
        nodes = list(cluster.nodes.values())
        if step % 3 == 0:
            cluster.move(await cluster.join(1) + nodes[1:3])
            cluster.leave(nodes[:1])
            await nodes[0].kill()
        else:
            cluster.elect(cluster.shards[0].holders[step % 3])
        for node in cluster.nodes.values():
            node.script += [Do.NOT_LEADER_MAYBE, Do.DROP_SERVED]
        written = cluster.total(Kind.WRITE)
        await until(lambda seen=written: cluster.total(Kind.WRITE) > seen + 20)  # type: ignore[misc]
    done.set()
    rounds = await asyncio.gather(*users)
    for number, count in enumerate(rounds):
        key = b"user:%d" % number
        assert cluster.shard_of(key).applied[key] == count


async def test_a_node_that_leaves_while_it_is_dialled_leaves_nothing(cluster: FakeCluster) -> None:
    patient = replace(QUICK, dial_timeout_s=60.0)
    async with connect(cluster.endpoints, options=patient) as kv:
        await settled(kv, cluster)
        (newcomer,) = await cluster.join(1)
        newcomer.freeze()
        await asyncio.gather(*(kv._cluster.learner.fetch(link) for link in links_of(kv)))
        await until(lambda: newcomer.connections)
        cluster.leave([newcomer])
        await kv._cluster.learner.fetch(links_of(kv)[0])
        await until(lambda: not newcomer.connections)
    await newcomer.kill()


def links_of(kv: Client) -> list[link.Link]:
    return [each for each in kv._cluster.links.values() if each.is_open]


async def test_another_node_at_a_known_address_is_not_taken_for_the_old_one(
    kv: Client, cluster: FakeCluster
) -> None:
    await settled(kv, cluster)
    old = cluster.node(1)
    await old.kill()
    other = FakeNode(NodeId("n7"), cluster)
    other.port = old.port
    await other.start()
    cluster.elect(cluster.node(2).id)
    await asyncio.gather(*(kv.put(b"%d" % i, b"w") for i in range(64)))
    async with asyncio.timeout(10):
        while (error := (await kv.node_statuses())[0].error) is None or "n7" not in error.message:
            pass  # until the client has tried the address again
    assert error.message.endswith("n7 answers where n1 was")
    assert not other.received[Kind.WRITE]
    await other.kill()


# -- while it was idle ----------------------------------------------------------------------------


async def replace_all(cluster: FakeCluster, by: list[FakeNode]) -> list[FakeNode]:
    """The nodes ``by`` have everything; returns those that were there before."""
    old = [node for node in cluster.nodes.values() if node not in by]
    for node in by:
        cluster.nodes[node.id] = node
    cluster.move(by)
    cluster.leave(old)
    return old


@pytest.fixture
async def spare(cluster: FakeCluster) -> FakeNode:
    """A node that has an address and does not run."""
    node = FakeNode(NodeId("n4"), cluster)
    await node.start()
    await node.kill()
    return node


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_an_idle_client_turns_to_its_endpoints_when_all_its_nodes_are_gone(
    cluster: FakeCluster, spare: FakeNode, is_frozen: bool
) -> None:
    # So that the deadline passes before each of the old nodes has been silent for long enough.
    slow = replace(QUICK, timeout_s=3.0, attempt_timeout_s=0.5, attempt_timeout_s_max=60.0)
    async with connect(f"{cluster.node(1).address},{spare.address}", options=slow) as kv:
        await settled(kv, cluster)
        await spare.start()
        old = await replace_all(cluster, [spare])
        for node in old:
            if is_frozen:
                node.freeze()
            else:
                await node.kill()
        await kv.put(KEY, b"v")
        assert cluster.shard_of(KEY).applied[KEY] == 1
        assert kv._cluster.links.keys() == {spare.id}
        assert len(spare.connections) == 1
    for node in old:
        await node.kill()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("answers", [False, True])
async def test_who_always_promises_a_newer_map_keeps_nobody_from_the_endpoints(
    cluster: FakeCluster, spare: FakeNode, answers: bool
) -> None:
    """The one node left of those that are known: it never has what it promises."""
    async with connect(f"{cluster.node(1).address},{spare.address}", options=QUICK) as kv:
        await settled(kv, cluster)
        liar, *others = cluster.nodes.values()
        liar.old_map = cluster.map_reply()
        liar.tells_map, liar.knows_leader, liar.boasts = answers, False, True
        await spare.start()
        await replace_all(cluster, [spare])
        for node in others:
            await node.kill()
        await kv.put(KEY, b"v")
        assert cluster.shard_of(KEY).applied[KEY] == 1
        assert liar.refusals
    await liar.kill()


async def test_the_map_too_is_found_by_the_endpoints(cluster: FakeCluster, spare: FakeNode) -> None:
    async with connect(f"{cluster.node(1).address},{spare.address}", options=QUICK) as kv:
        await settled(kv, cluster)
        await spare.start()
        for node in await replace_all(cluster, [spare]):
            await node.kill()
        assert [node.id for node in (await kv.shard_map()).nodes] == [spare.id]


async def test_an_endpoint_may_be_the_address_of_another_node_by_now(cluster: FakeCluster) -> None:
    async with connect(cluster.node(1).address, options=PATIENT) as kv:
        await settled(kv, cluster)
        successor = FakeNode(NodeId("n4"), cluster)
        successor.port = cluster.node(1).port
        for node in await replace_all(cluster, [successor]):
            await node.kill()
        await successor.start()
        await kv.put(KEY, b"v")
        assert successor.received[Kind.WRITE] == 1


async def test_when_the_endpoints_are_gone_too_the_error_says_what_to_do(
    kv: Client, cluster: FakeCluster
) -> None:
    await settled(kv, cluster)
    for node in cluster.nodes.values():
        await node.kill()
    with pytest.raises(Unavailable, match=r"refused.*connect anew") as caught:
        await kv.put(KEY, b"v", timeout_s=1)
    assert caught.value.retryable
