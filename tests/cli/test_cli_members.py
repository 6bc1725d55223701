"""``kv members``: one node's view, or everybody's side by side."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from asked_nodes import AskedNode, nobody

from kvstore.cli.members import HEADER, _compared, _in_order, _json, _row, duration
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import Overloaded
from kvstore.ids import NodeId
from kvstore.sharding import map_wire
from kvstore.sharding.shard_map import MapNode, bootstrap
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.ready import MemberStatus
from kvstore.wire.kinds import Kind
from kvstore.wire.membership import MemberRow, MembersReply, encode_members_reply
from kvstore.wire.requests import encode_shard_map_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asked_nodes import Question
    from cli_result import Result

    from kvstore.errors import KVError

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
ALIVE = MemberRow(N1, "h:1", "alive", 4, 245.6, 0.04, "b", 2.0, "0.1.0", 7, 0.5)
NEVER_MET = MemberRow(N3, "", "removed", 0, 1.0, 0.0, "", 0.0, "", 0, 0.0)


# -- one member -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0s"), (0.34, "0.3s"), (9.94, "9.9s"), (9.96, "10s"), (12.4, "12s"),
        (59.4, "59s"), (59.6, "1m00s"), (245.0, "4m05s"), (3599.4, "59m59s"),
        (3599.6, "1h00m"), (11_400.0, "3h10m"), (86_399.0, "23h59m"), (86_400.0, "1d00h"),
        (187_200.0, "2d04h"), (31_536_000.0, "365d00h"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_row_for_the_eye() -> None:
    assert dict(zip(HEADER, _row(ALIVE, None), strict=True)) == {
        "member": "n1", "address": "h:1", "state": "alive", "incarnation": "4", "age": "4m06s",
        "phi": "0.0", "zone": "b", "weight": "2", "version": "0.1.0", "map": "7", "load": "0.50",
    }  # fmt: skip


def test_by_the_map_a_node_may_have_another_weight_than_by_its_configuration() -> None:
    place = MapNode(N1, 1, "h:1", weight=0.5, zone="c")
    row = dict(zip(HEADER, _row(ALIVE, place), strict=True))
    assert (row["zone"], row["weight"]) == ("c", "0.5")
    said = _json(ALIVE, place)
    assert (said["zone"], said["weight"]) == ("c", 0.5)
    assert said["configured"] == {"zone": "b", "weight": 2.0}


def test_what_is_not_known_is_a_dash() -> None:
    assert list(_row(NEVER_MET, None)) == [
        *("n3", "-", "removed", "0", "1.0s", "-", "-", "0", "-", "-", "0.00"),
    ]


def test_members_stand_as_people_count() -> None:
    names = [NodeId(name) for name in ("n10", "b", "n2", "n1", "a2b", "a10b", "7")]
    assert sorted(names, key=_in_order) == ["7", "a2b", "a10b", "b", "n1", "n2", "n10"]


def test_a_row_for_programs() -> None:
    assert _json(ALIVE, None) == {
        "id": "n1", "address": "h:1", "state": "alive", "incarnation": 4, "age_s": 245.6,
        "phi": 0.04, "zone": "b", "weight": 2.0, "version": "0.1.0", "map_version": 7,
        "load": 0.5, "configured": {"zone": "b", "weight": 2.0},
    }  # fmt: skip


def member(name: str, state: str = "alive", incarnation: int = 1) -> MemberRow:
    return MemberRow(NodeId(name), "h:1", state, incarnation, 1.0, 0.0, "", 1.0, "", 1, 0.0)


def test_views_stand_side_by_side() -> None:
    first = MembersReply(N1, [member("n1"), member("n2")])
    views = {
        N1: {row.id: row for row in first.members},
        N2: {row.id: row for row in (member("n2", incarnation=3), member("n4", "dead"))},
    }
    assert _compared(first, views) == [
        ["n1", "alive (1)", "-"],
        ["n2", "alive (1)", "alive (3)"],
        ["n4", "-", "dead (1)"],
    ]


# -- the command ----------------------------------------------------------------------------


class Cluster:
    """Nodes that listen, each with a view of its own."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.views: dict[str, list[tuple[str, State]]] = {}
        self.weights: dict[str, float] = {}
        """By the shard map; empty while there is none."""

    async def start(self, nodes: AsyncExitStack, *names: str) -> None:
        for name in names:
            node = AskedNode(name, self._answer_of(name))
            self.addresses[name] = await nodes.enter_async_context(node.listening())

    def _answer_of(self, name: str) -> Callable[[Question], None]:
        def answer(question: Question) -> None:
            if question.kind == Kind.SHARD_MAP:
                question.answer(self._map())
                return
            assert (question.kind, question.body) == (Kind.MEMBERS, b"")
            if name not in self.views:
                question.answer(Overloaded("not now"))
                return
            statuses = [self._status(*seen) for seen in self.views[name]]
            question.answer(encode_members_reply(NodeId(name), statuses))

        return answer

    def _map(self) -> bytes | KVError:
        if not self.weights:
            return Overloaded("none yet")
        nodes = (
            NodeAddress(NodeId(name), self.addresses[name], weight)
            for name, weight in self.weights.items()
        )
        shard_map = bootstrap(ClusterConfig("c", tuple(nodes), shards=2, replicas=1))
        return encode_shard_map_reply(map_wire.encode(shard_map), {}, 1)

    def _status(self, name: str, state: State) -> MemberStatus:
        said = Metadata(self.addresses[name]) if name in self.addresses else None
        return MemberStatus(NodeId(name), said, state, 1, 1.0, 0.0, Vitals())

    def endpoints(self, *names: str) -> str:
        return ",".join(self.addresses[name] for name in names)


@pytest.fixture
async def cluster() -> Any:
    """``n1`` and ``n2`` answer, and both have ``n3`` for dead, which nobody is."""
    made = Cluster()
    async with AsyncExitStack() as nodes:
        await made.start(nodes, "n1", "n2")
        made.addresses["n3"] = await nobody()
        seen = [("n1", State.ALIVE), ("n2", State.ALIVE), ("n3", State.DEAD)]
        made.views = {"n1": seen, "n2": [("n2", State.ALIVE), ("n1", State.SUSPECT)]}
        yield made


async def run(kv: Callable[..., Result], *arguments: str) -> Result:
    """A command beside the loop in which the nodes live."""
    return await asyncio.to_thread(kv, "members", *arguments)


async def test_the_first_that_answers_says_how_it_sees_them(
    kv: Callable[..., Result], cluster: Cluster
) -> None:
    result = await run(kv, "--endpoints", cluster.endpoints("n3", "n2", "n1"), "-o", "json")
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)["members"]
    assert [(row["id"], row["address"], row["state"]) for row in rows] == [
        ("n2", cluster.addresses["n2"], "alive"),
        ("n1", cluster.addresses["n1"], "suspect"),
    ]


async def test_the_weight_is_that_of_the_map(kv: Callable[..., Result], cluster: Cluster) -> None:
    cluster.weights = {"n1": 2.5, "n2": 1.0}
    options = ("--endpoints", cluster.endpoints("n1"), "-o", "json")
    told = json.loads((await run(kv, *options)).out)["members"]
    assert [(row["id"], row["weight"], row["configured"]["weight"]) for row in told] == [
        *(("n1", 2.5, 1.0), ("n2", 1.0, 1.0), ("n3", 1.0, 1.0)),
    ]
    views = json.loads((await run(kv, "--from", "all", *options)).out)["views"]
    assert [view[0]["weight"] for view in views.values()] == [2.5, 1.0]


async def test_one_that_has_no_time_is_passed_over(
    kv: Callable[..., Result], cluster: Cluster
) -> None:
    del cluster.views["n1"]
    result = await run(kv, "--endpoints", cluster.endpoints("n1", "n2"), "-o", "json")
    assert [row["id"] for row in json.loads(result.out)["members"]] == ["n2", "n1"]


@pytest.mark.parametrize("output", ["simple", "table"])
async def test_a_table_has_a_line_for_each(
    kv: Callable[..., Result], cluster: Cluster, output: str
) -> None:
    result = await run(kv, "--endpoints", cluster.endpoints("n1"), "-o", output)
    lines = [line.strip("│ ").split() for line in result.out.decode().splitlines()]
    rows = [line for line in lines if line and line[0] in cluster.addresses]
    assert [[cell for cell in row if cell != "│"][:4] for row in rows] == [
        [name, cluster.addresses[name], state, "1"]
        for name, state in (("n1", "alive"), ("n2", "alive"), ("n3", "dead"))
    ]


async def test_another_ones_view_on_demand(kv: Callable[..., Result], cluster: Cluster) -> None:
    for asked, states in (("n2", ["alive", "suspect"]), ("n1", ["alive", "alive", "dead"])):
        arguments = ("--from", asked, "--endpoints", cluster.endpoints("n1"), "-o", "json")
        result = await run(kv, *arguments)
        assert [row["state"] for row in json.loads(result.out)["members"]] == states


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ("n9", 2, "there is no member 'n9' that n1 could name"),
        ("n4", 2, "there is no member 'n4' that n1 could name"),
        ("n3", 3, "connection refused"),
    ],
)
async def test_one_that_is_not_there_to_be_asked(
    kv: Callable[..., Result], cluster: Cluster, asked: str, code: int, words: str
) -> None:
    cluster.views["n1"].append(("n4", State.REMOVED))  # and was never met
    result = await run(kv, "--from", asked, "--endpoints", cluster.endpoints("n1"))
    assert (result.code, result.out) == (code, b"")
    assert words in result.error_line


async def test_whoever_took_over_an_address_does_not_answer_for_whoever_was_there(
    kv: Callable[..., Result], cluster: Cluster
) -> None:
    cluster.addresses["n3"] = cluster.addresses["n2"]
    result = await run(kv, "--from", "n3", "--endpoints", cluster.endpoints("n1"))
    assert result.code == 3
    assert result.error_line == f"kv: {cluster.addresses['n2']}: n2 answers where n3 was"
    shown = await run(kv, "--from", "all", "--endpoints", cluster.endpoints("n1"), "-o", "json")
    said = json.loads(shown.out)
    assert (list(said["views"]), said["silent"]) == (["n1", "n2"], ["n3"])


async def test_all_views_side_by_side(kv: Callable[..., Result], cluster: Cluster) -> None:
    arguments = ("--from", "all", "--endpoints", cluster.endpoints("n1"))
    result = await run(kv, *arguments)
    assert result.code == 0
    assert [line.split() for line in result.out.decode().splitlines()] == [
        ["MEMBER", "BY", "N1", "BY", "N2"],
        ["n1", "alive", "(1)", "suspect", "(1)"],
        ["n2", "alive", "(1)", "alive", "(1)"],
        ["n3", "dead", "(1)", "-"],
    ]
    assert result.err == "kv: note: n3 does not answer\n"
    said = json.loads((await run(kv, *arguments, "-o", "json")).out)
    states: Mapping[str, list[str]] = {
        node: [row["state"] for row in rows] for node, rows in said["views"].items()
    }
    assert states == {"n1": ["alive", "alive", "dead"], "n2": ["alive", "suspect"]}
    assert said["silent"] == ["n3"]


async def test_two_that_have_never_met_stand_side_by_side(
    kv: Callable[..., Result], cluster: Cluster
) -> None:
    cluster.views["n1"] = [("n1", State.ALIVE)]
    endpoints = f"{cluster.endpoints('n1', 'n2')},{await nobody()}"
    result = await run(kv, "--from", "all", "--endpoints", endpoints)
    assert [line.split() for line in result.out.decode().splitlines()] == [
        ["MEMBER", "BY", "N1", "BY", "N2"],
        ["n1", "alive", "(1)", "suspect", "(1)"],
        ["n2", "-", "alive", "(1)"],
    ]


async def test_nobody_answers(kv: Callable[..., Result]) -> None:
    address = await nobody()
    result = await run(kv, "--endpoints", address)
    assert result.code == 3
    assert result.error_line == f"kv: no node answers at {address}"
