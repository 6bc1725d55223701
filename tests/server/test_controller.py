"""The meta group keeps the shard map, and its leader steers: one map follows another, never two."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from server_support import Rig, settle, until

from kvstore.config import ClusterConfig, NodeAddress, RaftConfig, ShardingConfig
from kvstore.errors import InvalidArgument, NotLeader, Unavailable
from kvstore.ids import META_GROUP, META_SHARD, GroupId, NodeId
from kvstore.server.administration import ORDERS_MAX, Administration
from kvstore.server.controller import Controller
from kvstore.sharding import changes, orders
from kvstore.sharding.farewells import FAREWELL_S_MAX
from kvstore.sharding.known import Known, Report
from kvstore.sharding.shard_map import NodeState, ShardMap, bootstrap
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.ready import MemberStatus
from kvstore.wire import admin
from kvstore.wire.admin import Action, Order
from kvstore.wire.frames import Frame, FrameDecoder
from kvstore.wire.kinds import Kind
from kvstore.wire.requests import decode_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

N1, N4 = NodeId("n1"), NodeId("n4")
NODES = tuple(NodeAddress(NodeId(f"n{n}"), f"h:{n}") for n in (1, 2, 3))
FIRST = bootstrap(ClusterConfig(id="c", nodes=NODES, shards=4))


def member(
    number: int,
    state: State = State.ALIVE,
    age_s: float = 100.0,
    *,
    map_version: int = 0,
    has_answered: bool = True,
) -> MemberStatus:
    said, vitals = Metadata(f"h:{number}", "", 1.0, "test"), Vitals(1, map_version)
    name = NodeId(f"n{number}")
    return MemberStatus(name, said, state, 1, age_s, 0.0, vitals, has_answered)


class Meta:
    """A controller on a meta group of one voter, or of three that have no leader here."""

    def __init__(self, *, voters: int = 1) -> None:
        self.rig = Rig(voters=voters)
        self.rig.driver.hosts.clear()
        self.host = self.rig._host(META_SHARD, RaftConfig())
        self.rig.driver.add(self.host)
        self.members = [member(number) for number in (1, 2, 3)]
        self.maps: list[ShardMap] = []
        self.announced = 0
        self.controller = self.make()
        self.controller.attach(self.host)

    def make(self) -> Controller:
        def announce() -> None:
            self.announced += 1

        return Controller(
            self.rig.driver,
            founding=FIRST,
            policy=ShardingConfig(),
            admit_after_s=2.0,
            members=lambda: self.members,
            on_map=self.maps.append,
            announce=announce,
            clock=lambda: self.rig.now,
        )

    async def lead(self) -> None:
        self.host.core.campaign(self.rig.now)
        self.rig.driver.wake(self.host)
        await settle()
        assert self.host.is_leader

    async def until_version(self, version: int) -> ShardMap:
        await until(lambda: bool(self.maps) and self.maps[-1].version >= version)
        return self.maps[-1]


@pytest.fixture
async def meta() -> AsyncIterator[Meta]:
    it = Meta()
    await it.lead()
    running = asyncio.create_task(it.controller.run())
    yield it
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert it.rig.fatal == []


async def test_the_first_map_is_that_of_the_founding(meta: Meta) -> None:
    assert await meta.until_version(1) == FIRST
    await until(lambda: meta.announced == 1)


async def test_whoever_joins_is_admitted_and_its_share_begins_to_come(meta: Meta) -> None:
    await meta.until_version(1)
    meta.members.append(member(4))
    after = await meta.until_version(2)
    assert after.has(N4)
    assert after.changes
    assert [m.version for m in meta.maps] == sorted({m.version for m in meta.maps})


@pytest.mark.parametrize(
    "unsettled",
    [member(4, age_s=1.9), member(4, has_answered=False), member(4, State.SUSPECT)],
    ids=["just come", "never answered", "suspected"],
)
async def test_whoever_has_only_been_heard_of_is_not_admitted(
    meta: Meta, unsettled: MemberStatus
) -> None:
    await meta.until_version(1)
    meta.members.append(unsettled)
    seen = meta.controller.known(FIRST).seen[N4]
    assert not seen.is_settled
    assert seen.has_answered == unsettled.has_answered
    await meta.controller._steer(meta.host)
    assert meta.maps[-1] == FIRST


async def test_a_report_ends_a_change(meta: Meta) -> None:
    await meta.until_version(1)
    meta.members.append(member(4))
    begun = await meta.until_version(2)
    change = begun.changes[0]
    assert change.add is not None
    voters = {replica.id for replica in begun.members(change.group)} | {change.add.id}
    voters -= {change.remove.id} if change.remove is not None else set()
    empty: frozenset[Any] = frozenset()
    report = Report(change.group, begun.version, frozenset(voters), empty, empty)
    meta.controller.take([report])
    after = await meta.until_version(3)
    assert change.add in after.members(change.group)


async def until_empty(meta: Meta) -> ShardMap:
    """n4 is to be removed, and holds nothing by the map that this returns."""
    await meta.until_version(1)
    meta.controller._policy = ShardingConfig(balances=False)
    meta.members.append(member(4, map_version=1))
    await meta.until_version(2)
    ordered = await meta.controller.order(
        lambda m, k: orders.remove(m, k, N4, is_forced=False),
    )
    assert ordered.held_by(N4) == {}
    for _ in range(3):
        await meta.controller._steer(meta.host)
    assert meta.maps[-1] == ordered, "it has yet to hear of it"
    return ordered


async def test_who_is_removed_goes_once_its_gossip_says_that_it_knows(meta: Meta) -> None:
    emptied = await until_empty(meta)
    meta.members[-1] = member(4, map_version=emptied.version)
    after = await meta.until_version(emptied.version + 1)
    assert after.removed == (N4,)


async def test_who_is_removed_and_dead_is_not_waited_for(meta: Meta) -> None:
    emptied = await until_empty(meta)
    meta.rig.now += 0.1
    meta.members[-1] = member(4, State.DEAD, map_version=1)
    after = await meta.until_version(emptied.version + 1)
    assert after.removed == (N4,)


async def test_who_is_removed_and_says_nothing_is_waited_for_no_longer_than_so(meta: Meta) -> None:
    emptied = await until_empty(meta)
    meta.rig.now += FAREWELL_S_MAX - 0.1
    await meta.controller._steer(meta.host)
    assert meta.maps[-1] == emptied
    meta.rig.now += 0.2
    after = await meta.until_version(emptied.version + 1)
    assert after.removed == (N4,)


async def test_a_report_to_who_does_not_lead_is_forgotten() -> None:
    meta = Meta(voters=3)
    empty: frozenset[Any] = frozenset()
    meta.controller.take([Report(GroupId(1), 9, empty, empty, empty)])
    assert meta.controller.known(FIRST).reports == {}


async def test_nobody_is_gone_for_longer_than_this_node_has_led(meta: Meta) -> None:
    await meta.until_version(1)
    meta.members[2] = member(3, State.DEAD, age_s=10_000.0)
    meta.rig.now += 7.0
    assert meta.controller.known(FIRST).gone_s(NodeId("n3")) == pytest.approx(7.0)
    assert not meta.controller.known(FIRST).is_alive(NodeId("n3"))


async def test_orders_are_carried_out_one_after_the_other(meta: Meta) -> None:
    await meta.until_version(1)

    def weigh(weight: float) -> Any:
        return lambda shard_map, known: orders.weigh(shard_map, known, N1, weight)

    done = await asyncio.gather(*(meta.controller.order(weigh(w)) for w in (2.0, 3.0, 4.0)))
    assert [m.node(N1).weight for m in done] == [2.0, 3.0, 4.0]
    versions = [m.version for m in done]
    assert versions == sorted(set(versions))
    assert meta.maps[-1].node(N1).weight == 4.0


async def test_an_order_that_is_refused_changes_nothing(meta: Meta) -> None:
    before = await meta.until_version(1)
    with pytest.raises(InvalidArgument, match="add one first"):
        await meta.controller.order(lambda m, k: orders.drain(m, k, N1))
    again = await meta.controller.order(lambda m, k: m)
    assert again == before


async def test_whoever_does_not_lead_says_who_does() -> None:
    meta = Meta(voters=3)
    with pytest.raises(NotLeader):
        await meta.controller.order(lambda m, k: m)


async def test_a_new_replica_passes_on_what_it_has(meta: Meta) -> None:
    await meta.until_version(1)
    meta.maps.clear()
    again = meta.make()
    again.attach(meta.host)
    assert meta.maps == [FIRST]


async def test_a_map_that_was_overtaken_is_not_put_in_the_place_of_another(meta: Meta) -> None:
    await meta.until_version(1)
    stale = meta.controller._stored(meta.host)
    assert stale is not None
    heavier = changes.succeed(FIRST, changes.set_weight(FIRST, N1, 2.0))
    assert await meta.controller._swap(meta.host, stale[0], heavier)
    lighter = changes.succeed(FIRST, changes.set_weight(FIRST, N1, 0.5))
    assert not await meta.controller._swap(meta.host, stale[0], lighter)
    assert heavier in meta.maps
    assert meta.maps[-1].node(N1).weight == 2.0


# -- over the wire --------------------------------------------------------------------------------


class Wire:
    """The connection of an administrator."""

    def __init__(self) -> None:
        self.is_open = True
        self.frames: list[Frame] = []

    def send(self, frame: bytes) -> bool:
        self.frames += FrameDecoder(1 << 20).feed(frame)
        return True

    async def answer(self) -> Frame:
        await until(lambda: bool(self.frames))
        assert len(self.frames) == 1
        return self.frames[0]


def order_frame(order: Order, request: int = 5) -> Frame:
    return Frame(Kind.ORDER, 0, request, admin.encode_order(order))


async def test_an_order_is_answered_once_it_is_committed(meta: Meta) -> None:
    await meta.until_version(1)
    administration = Administration(meta.controller, meta.rig.driver, clock=lambda: meta.rig.now)
    wire = Wire()
    administration.order(wire, order_frame(Order(Action.WEIGHT, N1, 2.0)))
    answer = await wire.answer()
    assert (answer.kind, answer.request) == (Kind.REPLY, 5)
    version = admin.decode_order_reply(answer.body).map_version
    (ordered,) = (shard_map for shard_map in meta.maps if shard_map.version == version)
    assert ordered.node(N1).weight == 2.0


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Order(Action.DRAIN, NodeId("n9")), "no node n9"),
        (Order(Action.DRAIN, N1), "add one first"),
        (Order(Action.REMOVE, N1), "or insist"),
    ],
)
async def test_what_is_refused_is_answered_with_why(meta: Meta, order: Order, words: str) -> None:
    await meta.until_version(1)
    administration = Administration(meta.controller, meta.rig.driver, clock=lambda: meta.rig.now)
    wire = Wire()
    administration.order(wire, order_frame(order))
    answer = await wire.answer()
    assert answer.kind == Kind.ERROR
    assert words in decode_error(answer.body).message
    assert meta.maps[-1] == FIRST


async def test_a_plan_tells_what_would_move_and_moves_nothing(meta: Meta) -> None:
    await meta.until_version(1)
    meta.controller._policy = ShardingConfig(balances=False)
    meta.members.append(member(4))
    await meta.until_version(2)
    administration = Administration(meta.controller, meta.rig.driver, clock=lambda: meta.rig.now)
    wire = Wire()
    administration.order(wire, order_frame(Order(Action.PLAN)))
    moves = admin.decode_order_reply((await wire.answer()).body).moves
    assert len(moves) == 3
    assert {move.add for move in moves} == {N4}
    assert meta.maps[-1].changes == ()


async def test_orders_that_wait_are_answered_when_the_node_stops() -> None:
    meta = Meta(voters=3)
    administration = Administration(meta.controller, meta.rig.driver, clock=lambda: meta.rig.now)
    await meta.controller._turn.__aenter__()
    wires = [Wire() for _ in range(ORDERS_MAX)]
    for wire in wires:
        administration.order(wire, order_frame(Order(Action.WEIGHT, N1, 2.0)))
    with pytest.raises(Exception, match="waiting already"):
        administration.order(Wire(), order_frame(Order(Action.WEIGHT, N1, 2.0)))
    await settle()
    await administration.close()
    errors = [decode_error(wire.frames[0].body) for wire in wires]
    assert all(isinstance(error, Unavailable) and error.may_have_applied for error in errors)
    assert all(len(wire.frames) == 1 for wire in wires)


async def test_what_is_known_of_the_lost_is_what_the_membership_says(meta: Meta) -> None:
    await meta.until_version(1)
    meta.members[1] = replace(member(2), metadata=None)
    known: Known = meta.controller.known(FIRST)
    assert known.is_alive(N1)
    assert not known.is_alive(NodeId("n2"))
    meta.rig.now += 5.0
    meta.members.pop()
    gone_s = meta.controller.known(FIRST).gone_s(NodeId("n3"))
    assert gone_s == pytest.approx(5.0), "forgotten is gone"
    assert FIRST.node(N1).state is NodeState.ACTIVE
    assert META_GROUP in set(FIRST.groups())
