"""What ``kv node weight`` and ``activate`` say of the moves that follow, or do not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from elastic_nodes import Elastic, run

from kvstore.cli import rebalancing
from kvstore.ids import NodeId
from kvstore.sharding import changes
from kvstore.wire.admin import OrderReply, encode_order_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result

    from kvstore.wire.admin import Order

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
HEAVY = ("node", "weight", "n4", "2.5")
SAID = "n4 has the weight 2.5 from now on"


@pytest.fixture
async def elastic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``n4`` has joined and holds nothing yet."""
    monkeypatch.setattr(rebalancing, "POLL_S", 0.01)
    monkeypatch.setattr(rebalancing, "NOTICED_S_MAX", 0.2)
    async with Elastic().running("n1", "n2", "n3", "n4") as cluster:
        cluster.admit(N4, shards=8)
        cluster.on_order = weighing(cluster)
        yield cluster


def weighing(elastic: Elastic, version_ahead: int = 0) -> Callable[[Order], bytes]:
    def answer(order: Order) -> bytes:
        elastic.becomes(changes.set_weight(elastic.map, order.node, order.weight or 1.0))
        return encode_order_reply(OrderReply(elastic.map.version + version_ahead, []))

    return answer


async def test_what_moves_by_itself_is_said_to(kv: Callable[..., Result], elastic: Elastic) -> None:
    looks = 0

    def look() -> None:
        """The leader of the meta group notices after a moment."""
        nonlocal looks
        looks += 1
        if looks == 10:
            elastic.becomes(replace(elastic.map, is_rebalancing=True))

    elastic.on_look = look
    options = ("--endpoints", elastic.endpoints("n2"))
    result = await run(kv, *HEAVY, *options)
    assert (result.code, result.err) == (0, "")
    assert result.out.decode() == f"{SAID}; 8 replicas move for that: kv moves -f\n"
    said = json.loads((await run(kv, *HEAVY, *options, "-o", "json")).out)
    assert said == {"node": "n4", "weight": 2.5, "moves": 8, "is_rebalancing": True}


async def test_what_does_not_is_not(kv: Callable[..., Result], elastic: Elastic) -> None:
    options = ("--endpoints", elastic.endpoints("n2"))
    result = await run(kv, *HEAVY, *options)
    said = result.out.decode()
    assert said.startswith(f"{SAID}; 8 replicas would have to move for that, but nothing has begun")
    assert said.endswith("where sharding.balances is off, kv rebalance --now lets them\n")
    active = await run(kv, "node", "activate", "n4", *options)
    assert active.out.decode().startswith(
        "n4 gets its share of the replicas again; 6 replicas would have to move for that"
    )
    told = json.loads((await run(kv, *HEAVY, *options, "-o", "json")).out)
    assert told == {"node": "n4", "weight": 2.5, "moves": 8, "is_rebalancing": False}


async def test_where_nothing_has_to_move_that_is_said(
    kv: Callable[..., Result], elastic: Elastic
) -> None:
    nodes = tuple(node for node in elastic.map.nodes if node.id != N4)
    elastic.map = replace(elastic.map, nodes=nodes)
    result = await run(kv, "node", "weight", "n1", "2", "--endpoints", elastic.endpoints("n2"))
    assert result.out == b"n1 has the weight 2 from now on; no replica has to move for that\n"


async def test_what_is_not_known_is_not_said(kv: Callable[..., Result], elastic: Elastic) -> None:
    elastic.on_order = weighing(elastic, version_ahead=1)
    options = ("--endpoints", elastic.endpoints("n2"))
    assert (await run(kv, *HEAVY, *options)).out.decode() == f"{SAID}\n"
    told = json.loads((await run(kv, "node", "activate", "n4", *options, "-o", "json")).out)
    assert told == {"node": "n4", "state": "active", "moves": None, "is_rebalancing": None}


@pytest.mark.parametrize("command", ["weight", "activate"])
def test_help_says_when_nothing_moves(kv: Callable[..., Result], command: str) -> None:
    text = " ".join(kv("node", command, "--help").out.decode().split())
    assert "sharding.balances = false" in text
    assert "kv rebalance --now" in text
