"""What servers tell of their loops from their start on is told of one load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from bench.stalls import LATE, OWN, counted, longest_ms

from kvstore.client.client import NodeStatus
from kvstore.errors import Unavailable
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from kvstore import Client


def counts(late: dict[str, int], own: dict[str, int]) -> dict[str, dict[str, int]]:
    return {LATE: late, OWN: own}


def test_only_what_was_not_there_before_counts() -> None:
    before = {"n1": counts({"5": 1, "90": 2}, {"5": 1}), "n2": counts({"7": 1}, {})}
    after = {"n1": counts({"5": 4, "90": 2, "31": 1}, {"5": 2}), "n2": counts({"7": 1}, {})}
    assert longest_ms(before, after, LATE) == {"n1": 31, "n2": 0}
    assert longest_ms(before, after, OWN) == {"n1": 5, "n2": 0}


def test_a_node_that_did_not_tell_both_times_is_left_out() -> None:
    known = counts({"1": 1}, {})
    assert longest_ms({"n1": known, "n2": known}, {"n2": known, "n3": known}, LATE) == {"n2": 0}


class Cluster:
    async def node_statuses(self) -> list[NodeStatus]:
        bodies: list[dict[str, Any] | None] = [
            {"loop": {"beat_ms": 4.0, LATE: {"3": 1}, OWN: {}}},
            {"loop": {}},
            {},
            None,
        ]
        return [
            NodeStatus(NodeId(f"n{n}"), f"h:{n}", body, None if body else Unavailable("gone"))
            for n, body in enumerate(bodies, 1)
        ]


async def test_nodes_that_do_not_answer_or_do_not_tell_are_left_out() -> None:
    assert await counted(cast("Client", Cluster())) == {"n1": {LATE: {"3": 1}, OWN: {}}}
