"""``kv node drain``, ``activate``, ``remove`` and ``weight``, and whom an order is given to."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from asked_nodes import nobody
from elastic_nodes import Elastic, run

from kvstore.cli import emptying, rebalancing
from kvstore.cli.emptying import Emptying, judge
from kvstore.cli.endpoints import Endpoints
from kvstore.cli.ordering import give
from kvstore.cli.progress import countdown
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import InvalidArgument, NotLeader, Overloaded, Unavailable
from kvstore.ids import GroupId, NodeId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import NodeState, ShardMap, bootstrap
from kvstore.wire.admin import Action, Order, OrderReply, encode_order_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result

    from kvstore.errors import KVError

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
DONE = encode_order_reply(OrderReply(7, []))
DRAIN = Order(Action.DRAIN, N4)


@pytest.fixture
async def elastic() -> Any:
    async with Elastic().running("n1", "n2", "n3", "n4") as cluster:
        yield cluster


async def ordered(elastic: Elastic, *names: str, order: Order = DRAIN) -> OrderReply:
    return await give(Endpoints(tuple(elastic.addresses[n] for n in names)), order, timeout_s=10)


# -- whom an order is given to ------------------------------------------------------------------


async def test_it_goes_to_whom_another_names(elastic: Elastic) -> None:
    elastic.on_order = lambda order: DONE
    assert await ordered(elastic, "n1") == OrderReply(7, [])
    assert elastic.orders == [DRAIN]


async def test_where_nobody_names_a_leader_all_are_asked(elastic: Elastic) -> None:
    elastic.known_leader = None
    elastic.on_order = lambda order: DONE
    assert await ordered(elastic, "n1") == OrderReply(7, [])


async def test_the_next_is_asked_where_one_is_dead(elastic: Elastic) -> None:
    elastic.on_order = lambda order: DONE
    endpoints = Endpoints((await nobody(), elastic.addresses["n3"]))
    assert await give(endpoints, DRAIN, timeout_s=10) == OrderReply(7, [])


@pytest.mark.parametrize(
    "failure", [Overloaded("changed meanwhile"), NotLeader("lost it"), Unavailable("not in time")]
)
async def test_it_is_given_again_until_it_is_taken(elastic: Elastic, failure: KVError) -> None:
    answers = [failure, failure, DONE]
    elastic.on_order = lambda order: answers.pop(0)
    assert await ordered(elastic, "n2") == OrderReply(7, [])
    assert answers == []


async def test_a_refusal_ends_it(elastic: Elastic) -> None:
    elastic.on_order = lambda order: InvalidArgument("too few")
    with pytest.raises(InvalidArgument, match="too few"):
        await ordered(elastic, "n1")
    assert len(elastic.orders) == 1


async def test_a_removal_that_was_not_answered_may_be_over_when_it_is_given_again(
    elastic: Elastic,
) -> None:
    def answer(order: Order) -> KVError:
        if len(elastic.orders) == 1:
            elastic.becomes(without_n4(elastic.map))
            return Unavailable("not in time", may_have_applied=True)
        return InvalidArgument("n4 was removed already")

    elastic.on_order = answer
    reply = await ordered(elastic, "n2", order=Order(Action.REMOVE, N4))
    assert reply == OrderReply(elastic.map.version, [])
    with pytest.raises(InvalidArgument, match="removed already"):
        await ordered(elastic, "n2", order=Order(Action.REMOVE, N4))


@pytest.mark.parametrize(("is_lost", "is_doubtful"), [(False, False), (True, True)])
async def test_a_failure_says_whether_it_may_stand(
    elastic: Elastic, is_lost: bool, is_doubtful: bool
) -> None:
    elastic.on_order = lambda order: Unavailable("lost") if is_lost else Overloaded("not now")
    with pytest.raises(Unavailable, match="the meta group: no leader has answered") as failed:
        await give(Endpoints((elastic.addresses["n2"],)), DRAIN, timeout_s=0.3)
    assert failed.value.may_have_applied is is_doubtful


# -- when a node is empty -------------------------------------------------------------------------


def of_four(shards: int = 2) -> ShardMap:
    members = tuple(NodeAddress(NodeId(f"n{i}"), f"h:{i}") for i in range(1, 5))
    return bootstrap(ClusterConfig("c", members, shards=shards, replicas=3))


def without(shard_map: ShardMap, node: NodeId) -> ShardMap:
    """Everything on ``node`` is moved to whoever has nothing of it."""
    for group in shard_map.held_by(node):
        held = {replica.node for replica in shard_map.members(group)}
        taker = next(other.id for other in shard_map.nodes if other.id not in held)
        shard_map = changes.begin(shard_map, group, taker, node)
        (change,) = shard_map.changes
        shard_map = changes.finish(shard_map, change)
    return shard_map


def without_n4(shard_map: ShardMap) -> ShardMap:
    return changes.expel(without(shard_map, N4), N4)


def test_it_is_over_when_it_holds_nothing_and_nothing_comes() -> None:
    full = changes.set_state(of_four(), N4, NodeState.DRAINING)
    held = len(full.held_by(N4))
    assert held > 0
    assert judge(full, N4, NodeState.DRAINING) == Emptying(held, is_over=False)
    empty = without(full, N4)
    assert judge(empty, N4, NodeState.DRAINING) == Emptying(0, is_over=True)
    removing = changes.set_state(empty, N4, NodeState.REMOVING)
    assert judge(removing, N4, NodeState.REMOVING) == Emptying(0, is_over=False)
    assert judge(changes.expel(removing, N4), N4, NodeState.REMOVING).is_over
    coming = changes.begin(empty, GroupId(1), N4, None)
    assert judge(coming, N4, NodeState.DRAINING) == Emptying(1, is_over=False)


def test_another_order_may_undo_it_but_not_a_removal_a_draining() -> None:
    active = of_four()
    assert judge(active, N4, NodeState.DRAINING).undone == "n4 is active again, by another order"
    removing = changes.set_state(active, N4, NodeState.REMOVING)
    assert not judge(removing, N4, NodeState.DRAINING).undone


# -- the commands -----------------------------------------------------------------------------


def draining(elastic: Elastic, state: NodeState = NodeState.DRAINING) -> Callable[..., bytes]:
    """An order that the next look finds begun and the one after that carried out."""

    def answer(order: Order) -> bytes:
        elastic.becomes(changes.set_state(elastic.map, order.node, state))
        return encode_order_reply(OrderReply(elastic.map.version, []))

    return answer


async def empties(elastic: Elastic, kv: Callable[..., Result], *arguments: str) -> Result:
    """Run a command; as soon as it has given its order that is carried out."""
    begun = elastic.on_order

    def answer(order: Order) -> Any:
        said = begun(order)
        after = without(elastic.map, order.node)
        is_removal = order.action is Action.REMOVE
        elastic.becomes(changes.expel(after, order.node) if is_removal else after)
        return said

    elastic.on_order = answer
    return await run(kv, *arguments, "--endpoints", elastic.endpoints("n1", "n2"))


async def test_a_node_is_drained(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = draining(elastic)
    result = await empties(elastic, kv, "node", "drain", "n4")
    assert (result.code, result.err) == (0, "")
    assert result.out == b"n4 holds nothing any more (0 replicas moved)\n"
    assert elastic.orders == [DRAIN]


async def test_a_node_is_removed(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = draining(elastic, NodeState.REMOVING)
    result = await empties(elastic, kv, "node", "remove", "n4", "--force")
    assert result.code == 0
    assert result.out == b"n4 is no member any more (0 replicas moved)\n"
    assert result.error_line == "kv: note: if n4 still runs, it can be stopped"
    assert elastic.orders == [Order(Action.REMOVE, N4, is_forced=True)]


async def test_programs_are_told_too(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = draining(elastic)
    result = await empties(elastic, kv, "node", "drain", "n4", "-o", "json")
    assert json.loads(result.out) == {"node": "n4", "state": "drained", "moved": 0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_tells_how_many_replicas_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with countdown("Draining n4", "replicas left") as tell:
        for left in (7, 3, 0):
            tell(left)
    assert "Draining n4" in shown.getvalue()
    assert "0 replicas left" in shown.getvalue()


async def test_one_need_not_wait(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = draining(elastic)
    result = await run(kv, "node", "drain", "n4", "--no-wait", "--endpoints", elastic.endpoints())
    assert (result.code, result.err) == (0, "")
    assert result.out == b"n4 is draining; kv moves shows how far it is\n"


async def test_waiting_may_have_an_end(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = draining(elastic)
    held = len(elastic.map.held_by(N4))
    arguments = ("node", "drain", "n4", "--timeout", "0.5", "--endpoints", elastic.endpoints())
    result = await run(kv, *arguments)
    assert result.code == 3
    assert result.error_line == (
        f"kv: n4 still holds {held} replicas after 0.5 s; the order stands "
        "(kv node activate n4 undoes it)"
    )


async def test_ctrl_c_ends_the_waiting_and_not_the_order(
    kv: Callable[..., Result], elastic: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    elastic.on_order = draining(elastic)

    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(emptying, "survey_endpoints", interrupted)
    result = await run(kv, "node", "drain", "n4", "--endpoints", elastic.endpoints())
    assert result.code == 130
    assert result.error_line == (
        "kv: interrupted; the order stands, n4 is draining (kv node activate n4 undoes it)"
    )


async def test_another_administrator_ends_the_waiting(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    elastic.on_order = draining(elastic, NodeState.ACTIVE)
    result = await run(kv, "node", "drain", "n4", "--endpoints", elastic.endpoints())
    assert (result.code, result.error_line) == (2, "kv: n4 is active again, by another order")


@pytest.mark.parametrize("command", [("drain",), ("remove",), ("activate",), ("weight", "2")])
async def test_a_refusal_is_one_line(
    kv: Callable[..., Result], elastic: Elastic, command: tuple[str, ...]
) -> None:
    elastic.on_order = lambda order: InvalidArgument(f"there is no node {order.node}")
    name, *rest = command
    result = await run(kv, "node", name, "n9", *rest, "--endpoints", elastic.endpoints())
    assert (result.code, result.out) == (2, b"")
    assert result.error_line == "kv: there is no node n9"


async def test_activate_and_weight(
    kv: Callable[..., Result], elastic: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalancing, "NOTICED_S_MAX", 0.0)
    elastic.on_order = lambda order: DONE
    options = ("--endpoints", elastic.endpoints())
    active = await run(kv, "node", "activate", "n4", *options)
    assert active.out == b"n4 gets its share of the replicas again\n"
    heavy = await run(kv, "node", "weight", "n4", "2.5", *options)
    assert heavy.out == b"n4 has the weight 2.5 from now on\n"
    said = await run(kv, "node", "weight", "n4", "2.5", *options, "-o", "json")
    told = json.loads(said.out)
    assert (told["node"], told["weight"]) == ("n4", 2.5)
    assert elastic.orders[1:] == [Order(Action.WEIGHT, N4, 2.5)] * 2


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "101", "heavy"])
def test_a_weight_that_cannot_be_is_refused_here(kv: Callable[..., Result], weight: str) -> None:
    result = kv("node", "weight", "n4", "--", weight)
    assert result.code == 2
    assert "is not a weight from 0.01 to 100" in result.error_line


def test_a_name_that_cannot_be_is_refused_here(kv: Callable[..., Result]) -> None:
    result = kv("node", "drain", "n 4")
    assert result.code == 2
    assert "cannot be the name of a node" in result.error_line
