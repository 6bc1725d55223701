"""``kv shards``, ``moves``, ``rebalance`` and ``transfer``, asked of nodes that a test invents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from asked_nodes import nobody
from elastic_nodes import Elastic, run

from kvstore.cli.balance import report
from kvstore.cli.movement import size
from kvstore.cli.shards import HEADER, state_of, to_row
from kvstore.cli.view import ShardView
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import InvalidArgument
from kvstore.ids import GroupId, NodeId, ShardId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import ShardMap, bootstrap
from kvstore.wire.admin import (
    Action,
    Moving,
    Order,
    OrderReply,
    TransferRequest,
    encode_order_reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result


N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
FOUNDERS = tuple(NodeAddress(NodeId(f"n{i}"), f"h:{i}") for i in (1, 2, 3))
MAP = changes.admit(
    bootstrap(ClusterConfig("c", FOUNDERS, shards=2, replicas=3)), N4, "h:4", 1.0, ""
)
G1, G2 = GroupId(1), GroupId(2)
MOVING = changes.begin(MAP, G1, N4, N2)


@pytest.fixture
async def elastic() -> Any:
    async with Elastic().running("n1", "n2", "n3") as cluster:
        yield cluster


# -- shards ---------------------------------------------------------------------------------------


def view(**changed: Any) -> ShardView:
    usual: dict[str, Any] = {
        "id": 0, "leader": "n1", "term": 1, "replicas": ("n1", "n2", "n3"), "commit_index": 9,
        "applied_index": 9, "keys": 7, "size_bytes": 1500, "lag": 2,
    }  # fmt: skip
    return ShardView(**usual | changed)


@pytest.mark.parametrize(
    ("shard_map", "changed", "state"),
    [
        (MAP, {}, "ok"),
        (MOVING, {}, "moving n2→n4"),
        (changes.begin(MAP, G1, N4, None), {}, "moving +n4"),
        (changes.begin(MAP, G1, None, N2), {}, "moving -n2"),
        (changes.cancel(MOVING, MOVING.changes[0]), {}, "going back n2→n4"),
        (MAP, {"unreachable": ("n3",)}, "under-replicated"),
        (MAP, {"learners": ("n3",)}, "under-replicated"),
        (MAP, {"replicas": ("n1", "n2")}, "under-replicated"),
        (MOVING, {"leader": None}, "no leader"),
    ],
)
def test_the_state_is_what_matters_most(
    shard_map: ShardMap, changed: dict[str, Any], state: str
) -> None:
    assert state_of(shard_map, view(**changed)) == state


def test_a_row_for_the_eye() -> None:
    assert dict(zip(HEADER, to_row(MAP, view(unreachable=("n3",))), strict=True)) == {
        "shard": "0", "arc": "00..7f", "keys": "7", "bytes": "1.5 kB", "leader": "n1",
        "replicas": "n1, n2, n3?", "state": "under-replicated", "lag": "2",
    }  # fmt: skip
    unknown = view(leader=None, keys=None, size_bytes=None, lag=None)
    row = dict(zip(HEADER, to_row(MAP, unknown), strict=True))
    assert [row[name] for name in ("keys", "bytes", "leader", "lag")] == ["-"] * 4


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_240_000, "1.2 MB"),
        (999_960, "1.0 MB"), (20_000_000_000, "20.0 GB"), (5_000_000_000_000, "5000.0 GB"),
    ],
)  # fmt: skip
def test_sizes_are_short(count: int | None, text: str) -> None:
    assert size(count) == text


async def test_shards_are_shown(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.rows["n3", 1] = {"last_index": 5}
    options = ("--endpoints", elastic.endpoints("n1"))
    result = await run(kv, "shards", *options)
    assert (result.code, result.err) == (0, "")
    lines = [line.split() for line in result.out.decode().splitlines()]
    assert [(line[1], line[2], line[-2], line[-1]) for line in lines[1:]] == [
        ("00..7f", "100", "ok", "0"),
        ("80..ff", "100", "ok", "4"),
    ]
    said = json.loads((await run(kv, "shards", *options, "-o", "json")).out)
    assert said["map_version"] == elastic.map.version
    assert said["shards"][1] == {
        "id": 1, "arc": {"first": "80", "last": "ff"}, "keys": 100, "bytes": 2000,
        "leader": "n2", "replicas": [r.node for r in elastic.map.replicas[1]],
        "unreachable": [], "state": "ok", "moving": None, "lag": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "command", [("shards",), ("moves",), ("moves", "-f"), ("transfer", "0", "n1")]
)
async def test_nobody_answers(kv: Callable[..., Result], command: tuple[str, ...]) -> None:
    address = await nobody()
    result = await run(kv, *command, "--endpoints", address)
    assert (result.code, result.error_line) == (3, f"kv: no node answers at {address}")


# -- rebalance ------------------------------------------------------------------------------------

PLAN = [Moving(G1, N4, N2), Moving(G2, N4, None)]


def test_a_plan_has_a_line_for_each_move_and_says_how_many_that_is() -> None:
    lines = ["shard 0  n2→n4", "shard 1  +n4"]
    assert report(PLAN, 24, 0, is_ordered=False) == [*lines, "2 of 24 replicas would move"]
    assert report(PLAN, 24, 1, is_ordered=True) == [
        *lines, "1 under way already (kv moves)", "2 of 24 replicas are to move: kv moves -f",
    ]  # fmt: skip
    assert report([], 24, 0, is_ordered=False) == ["nothing would move: it is even"]
    assert report([], 24, 2, is_ordered=True) == [
        "2 under way already (kv moves)", "nothing else would move",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "action"), [("--plan", Action.PLAN), ("--now", Action.REBALANCE)]
)
async def test_rebalance_asks_for_a_plan_or_orders_it(
    kv: Callable[..., Result], elastic: Elastic, option: str, action: Action
) -> None:
    elastic.on_order = lambda order: encode_order_reply(OrderReply(1, PLAN))
    result = await run(
        kv, "rebalance", option, "--endpoints", elastic.endpoints("n1"), "-o", "json"
    )
    assert json.loads(result.out) == {
        "moves": [{"shard": 0, "from": "n2", "to": "n4"}, {"shard": 1, "from": None, "to": "n4"}],
        "replicas": 6, "under_way": 0, "is_ordered": option == "--now",
    }  # fmt: skip
    assert elastic.orders == [Order(action)]


@pytest.mark.parametrize("options", [(), ("--plan", "--now")])
def test_rebalance_does_one_of_two_things(
    kv: Callable[..., Result], options: tuple[str, ...]
) -> None:
    result = kv("rebalance", *options)
    assert result.code == 2
    assert "say either --plan or --now" in result.error_line


# -- transfer -------------------------------------------------------------------------------------


async def test_a_shard_is_handed_over(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = lambda order: encode_order_reply(OrderReply(2, []))

    def answer(request: TransferRequest) -> bytes:
        elastic.leader = request.node
        return b""

    elastic.on_transfer = answer
    options = ("--endpoints", elastic.endpoints("n1"))
    result = await run(kv, "transfer", "1", "n3", *options)
    assert (result.code, result.out) == (0, b"shard 1 is led by n3\n")
    assert elastic.transfers == [TransferRequest(ShardId(1), N3)]
    said = await run(kv, "transfer", "1", "n1", *options, "-o", "json")
    assert json.loads(said.out) == {"shard": 1, "leader": "n1"}


async def test_a_node_without_a_vote_is_refused(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    elastic.on_order = lambda order: encode_order_reply(OrderReply(2, []))
    elastic.on_transfer = lambda request: InvalidArgument("n9 has no vote; n1, n2, n3 have one")
    options = ("--endpoints", elastic.endpoints())
    result = await run(kv, "transfer", "1", "n9", *options)
    assert (result.code, result.error_line) == (2, "kv: n9 has no vote; n1, n2, n3 have one")
    none = await run(kv, "transfer", "2", "n1", *options)
    assert (none.code, none.error_line) == (2, "kv: there is no shard 2; there are 0 to 1")


async def test_a_transfer_without_effect_has_an_end(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    elastic.on_order = lambda order: encode_order_reply(OrderReply(2, []))
    options = ("--endpoints", elastic.endpoints(), "--timeout", "0.3")
    result = await run(kv, "transfer", "0", "n3", *options)
    assert result.code == 3
    assert result.error_line == ("kv: n3 does not lead shard 0 after 0.3 s: n2 leads it still")
