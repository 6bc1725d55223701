"""``kv node drain`` and ``remove``: why nothing moves, what it costs, and Ctrl-C."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from elastic_nodes import Elastic, run

from kvstore.cli import emptying, fates
from kvstore.cli.emptying import NO_TAKER, SAY_AFTER_S, Reason
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import InvalidArgument
from kvstore.ids import META_GROUP, GroupId, NodeId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import NodeState, bootstrap
from kvstore.wire.admin import Action, Moving, Order, OrderReply, encode_order_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
BLOCKED = "meta and shards 0, 1: n4 does not answer"


@pytest.fixture
async def elastic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``n4`` has joined and holds nothing yet; orders are taken."""
    monkeypatch.setattr(emptying, "POLL_S", 0.01)
    monkeypatch.setattr(emptying, "SAY_AFTER_S", 0.0)
    async with Elastic().running("n1", "n2", "n3", "n4") as cluster:
        cluster.admit(N4, shards=2)
        cluster.on_order = obeying(cluster)
        yield cluster


def obeying(elastic: Elastic, plan: tuple[Moving, ...] = ()) -> Callable[[Order], bytes]:
    """The map says what is ordered; ``plan`` is what would move."""

    def answer(order: Order) -> bytes:
        if order.action is Action.PLAN:
            return encode_order_reply(OrderReply(elastic.map.version, list(plan)))
        state = NodeState.DRAINING if order.action is Action.DRAIN else NodeState.REMOVING
        elastic.becomes(changes.set_state(elastic.map, order.node, state))
        return encode_order_reply(OrderReply(elastic.map.version, []))

    return answer


async def drained(kv: Callable[..., Result], elastic: Elastic, *options: str) -> Result:
    """``n1``, asked by way of the leader."""
    options = options or ("--timeout", "1")
    return await run(kv, "node", "drain", "n1", "--endpoints", elastic.endpoints("n2"), *options)


def give_n4(elastic: Elastic, group: GroupId) -> None:
    begun = changes.begin(elastic.map, group, N4, N1)
    change = begun.change_of(group)
    assert change is not None
    elastic.becomes(changes.finish(begun, change))


# -- why nothing moves ----------------------------------------------------------------------------


async def test_it_is_said_once_why_nothing_moves(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    elastic.silent = {"n4"}
    result = await drained(kv, elastic)
    assert (result.code, result.out) == (3, b"")
    assert result.err.splitlines() == [
        f"kv: note: n1 still holds 3 replicas: {BLOCKED}",
        f"kv: n1 still holds 3 replicas after 1 s ({BLOCKED}); "
        "the order stands (kv node activate n1 undoes it)",
    ]


async def test_nothing_is_said_of_what_only_waits_for_its_turn(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    result = await drained(kv, elastic)
    assert result.error_line.startswith("kv: n1 still holds 3 replicas after 1 s; the order")


async def test_once_it_goes_on_it_ends_as_ever(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.silent = {"n4"}
    looks = 0

    def look() -> None:
        """After some looks ``n4`` is back and everything moves there."""
        nonlocal looks
        looks += 1
        if looks == 12:
            elastic.silent = set()
            for group in list(elastic.map.held_by(N1)):
                give_n4(elastic, group)

    elastic.on_look = look
    result = await drained(kv, elastic, "--timeout", "20")
    assert (result.code, result.out) == (0, b"n1 holds nothing any more (3 replicas moved)\n")
    assert result.error_line == f"kv: note: n1 still holds 3 replicas: {BLOCKED}"


async def test_where_nobody_answers_that_is_said(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    answer = elastic.on_order

    def order(order: Order) -> Any:
        elastic.silent = set(elastic.addresses)
        return answer(order)

    elastic.on_order = order
    result = await drained(kv, elastic)
    assert result.error_line.startswith("kv: no node answers after 1 s; the order stands")


@pytest.mark.parametrize(
    ("plan", "said"),
    [((), NO_TAKER), ((Moving(GroupId(2), N4, N1),), None)],
    ids=["nothing can go", "something can"],
)
async def test_where_nobody_sees_why_the_leader_is_asked(
    kv: Callable[..., Result],
    elastic: Elastic,
    monkeypatch: pytest.MonkeyPatch,
    plan: tuple[Moving, ...],
    said: str | None,
) -> None:
    monkeypatch.setattr(emptying, "ASK_AFTER_S", 0.0)
    elastic.on_order = obeying(elastic, plan)
    result = await drained(kv, elastic, "--timeout", "1")
    notes = [line for line in result.err.splitlines() if "note" in line]
    assert notes == ([f"kv: note: n1 still holds 3 replicas: {said}"] if said else [])
    assert Order(Action.PLAN) in elastic.orders


async def test_the_leader_is_not_asked_about_the_meta_group(
    kv: Callable[..., Result], elastic: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emptying, "ASK_AFTER_S", 0.0)
    for group in list(elastic.map.held_by(N1)):
        if group != META_GROUP:
            give_n4(elastic, group)
    result = await drained(kv, elastic)
    assert result.error_line.startswith("kv: n1 still holds 1 replica after 1 s; the order")
    assert [order.action for order in elastic.orders] == [Action.DRAIN]


def test_a_reason_is_said_once_it_has_been_so_for_a_while() -> None:
    shard_map = bootstrap(ClusterConfig("c", (NodeAddress(N1, "h:1"),), shards=1, replicas=1))
    reason = Reason(10.0)
    assert reason.look(shard_map, "", 10.0) == ""
    assert reason.look(shard_map, "a", 11.0) == ""
    assert reason.look(shard_map, "a", 11.0 + SAY_AFTER_S) == "a"
    assert reason.look(shard_map, "a", 30.0) == "", "once is enough"
    assert reason.look(shard_map, "b", 31.0) == ""
    assert reason.why == "b"
    assert reason.look(shard_map, "", 32.0) == "", "it goes on before it was worth a word"
    assert reason.look(shard_map, "b", 33.0) == ""
    assert reason.look(shard_map, "b", 33.0 + SAY_AFTER_S) == "b"
    assert reason.quiet_s(40.0) == 30.0
    reason.look(replace(shard_map, version=2), "b", 50.0)
    assert reason.quiet_s(51.0) == 1.0


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["drain", "remove"])
async def test_ctrl_c_while_the_order_is_given_says_that_it_may_stand(
    kv: Callable[..., Result],
    elastic: Elastic,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    async def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fates, "give", interrupted)
    result = await run(kv, "node", command, "n1", "--endpoints", elastic.endpoints())
    assert result.code == 130
    assert result.error_line == (
        "kv: interrupted; the order may stand nevertheless (kv node activate n1 undoes it)"
    )


# -- zones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zones", "node", "command", "is_warned"),
    [
        ("aabc", "n4", "drain", True),
        ("aabc", "n4", "remove", True),
        ("aabc", "n1", "drain", False),
        ("", "n4", "drain", False),
    ],
)
async def test_that_the_zone_rule_is_given_up_is_said(
    kv: Callable[..., Result],
    elastic: Elastic,
    zones: str,
    node: str,
    command: str,
    is_warned: bool,
) -> None:
    members = tuple(
        NodeAddress(n, elastic.addresses[n], zone=zones[i : i + 1])
        for i, n in enumerate((N1, N2, N3, N4))
    )
    elastic.map = bootstrap(ClusterConfig("c", members, shards=8, replicas=3))
    options = ("--no-wait", "--endpoints", elastic.endpoints("n2"))
    result = await run(kv, "node", command, node, *options)
    assert result.code == 0
    assert result.err == (
        f"kv: warning: without {node} there are too few failure zones: 8 of 8 shards will have "
        "2 replicas in one\n"
        if is_warned
        else ""
    )


async def test_nobody_is_warned_of_what_no_map_tells(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    elastic.on_order = lambda order: encode_order_reply(OrderReply(99, []))
    result = await run(
        kv, "node", "remove", "n1", "--no-wait", "--endpoints", elastic.endpoints("n2")
    )
    assert (result.code, result.err) == (0, "")


async def test_a_refused_order_ends_it(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = lambda order: InvalidArgument("too few")
    result = await drained(kv, elastic)
    assert (result.code, result.error_line) == (2, "kv: too few")
