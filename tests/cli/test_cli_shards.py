"""``kv shards``, ``moves``, ``rebalance`` and ``transfer``, asked of nodes that a test invents."""

from __future__ import annotations

import io
import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from asked_nodes import nobody
from elastic_nodes import Elastic, run
from rich.console import Console
from rich.progress import Progress

from kvstore.cli import moves
from kvstore.cli.balance import report
from kvstore.cli.movement import Movement, movements, size
from kvstore.cli.moves import Bars, Lines, line_of, outcome
from kvstore.cli.shards import HEADER, state_of, to_row
from kvstore.cli.view import ShardView
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.errors import InvalidArgument
from kvstore.ids import META_GROUP, GroupId, NodeId, ShardId
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

    from conftest import Result

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


@pytest.fixture
async def larger() -> Any:
    async with Elastic().running("n1", "n2", "n3", "n4") as cluster:
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


# -- moves ----------------------------------------------------------------------------------------


def leads(group: GroupId, **said: Any) -> dict[str, Any]:
    """What the node says that leads ``group``."""
    row = {"id": group - 1, "role": "leader", "term": 2, "replicas": ["n1", "n2", "n3"]}
    row |= {"bytes": 500, "catching_up": []} | said
    if group == META_GROUP:
        return {"shards": [], "meta": row}
    return {"shards": [row | {"role": "follower", "id": 7}, row]}


def peer(state: str, match_index: int, sent: int) -> list[dict[str, Any]]:
    return [
        {"node": "n4", "state": state, "match_index": match_index, "last_index": 10}
        | {"bytes_sent": sent, "bytes_total": 800}
    ]


@pytest.mark.parametrize(
    ("said", "stage", "sent", "total", "behind"),
    [
        ({}, "waiting", 0, 500, None),
        ({"role": "follower"}, "waiting", 0, None, None),
        ({"catching_up": peer("probe", 0, 0)}, "starting", 0, 800, 10),
        ({"catching_up": peer("snapshot", 0, 200)}, "snapshot", 200, 800, 10),
        ({"catching_up": peer("replicate", 8, 700)}, "log", 700, 800, 2),
        (
            {"catching_up": peer("replicate", 10, 800), "replicas": ["n1", "n4", "n3"]},
            *("switching", 800, 800, 0),
        ),
        ({"replicas": ["n1", "n4", "n3"]}, "switching", 500, 500, None),
    ],
)
@pytest.mark.parametrize("group", [META_GROUP, G1])
def test_the_leader_says_how_far_a_newcomer_is(
    group: GroupId, said: dict[str, Any], stage: str, sent: int, total: int | None, behind: int
) -> None:
    shard_map = changes.begin(MAP, group, N4, N2)
    deposed = leads(group, term=1, catching_up=peer("snapshot", 0, 1))
    statuses = [leads(group, **said)] if said.get("role") else [deposed, leads(group, **said)]
    assert movements(shard_map, statuses) == [
        Movement(group, "n4", "n2", stage, sent, total, behind)
    ]


def test_who_only_goes_and_who_goes_back() -> None:
    assert movements(changes.begin(MAP, G1, None, N2), [leads(G1)]) == [
        Movement(G1, None, "n2", "leaving")
    ]
    cancelled = changes.cancel(MOVING, MOVING.changes[0])
    assert movements(cancelled, [leads(G1)]) == [Movement(G1, "n4", "n2", "going back")]


def test_what_has_become_of_a_move() -> None:
    (change,) = MOVING.changes
    move = Movement(G1, "n4", "n2", "log")
    assert outcome(changes.finish(MOVING, change), move) == "done"
    assert outcome(changes.abandon(MOVING, change), move) == "given up"


def test_without_a_terminal_each_stage_is_a_line() -> None:
    written: list[str] = []
    now = 100.0
    lines = Lines(lambda move, stage: written.append(line_of(move, stage)), lambda: now)

    def looks(shard_map: ShardMap, *found: Movement) -> list[str]:
        written.clear()
        lines.show(shard_map, found)
        return list(written)

    waiting = Movement(G1, "n4", "n2", "waiting")
    assert looks(MOVING, waiting) == ["shard 0  n2→n4  waiting"]
    assert looks(MOVING, waiting) == []
    snapshot = Movement(G1, "n4", "n2", "snapshot", 100, 2000)
    assert looks(MOVING, snapshot) == ["shard 0  n2→n4  snapshot  100 B of 2.0 kB"]
    further = Movement(G1, "n4", "n2", "snapshot", 1000, 2000)
    assert looks(MOVING, further) == [], "a moment ago there was a line"
    now += 2.0
    meta = Movement(META_GROUP, "n4", None, "waiting", 0, 0)
    assert looks(MOVING, meta, further) == [
        "meta  +n4  waiting",
        "shard 0  n2→n4  snapshot  1.0 kB of 2.0 kB",
    ]
    done = changes.finish(MOVING, MOVING.changes[0])
    assert looks(done, meta) == ["shard 0  n2→n4  done"]


def test_on_a_terminal_each_move_is_a_bar_and_leaves_a_line() -> None:
    console = Console(file=io.StringIO(), width=100)
    with Progress(console=console, auto_refresh=False) as progress:
        bars = Bars(progress)
        bars.show(MOVING, [Movement(G1, "n4", "n2", "waiting")])
        bars.show(MOVING, [Movement(G1, "n4", "n2", "snapshot", 100, 2000)])
        (task,) = progress.tasks
        assert (task.description, task.completed, task.total) == ("shard 0  n2→n4", 100, 2000)
        assert task.fields["stage"] == "snapshot"
        bars.show(changes.finish(MOVING, MOVING.changes[0]), [])
        assert not progress.tasks
    assert isinstance(console.file, io.StringIO)
    assert "shard 0  n2→n4  done" in console.file.getvalue()


async def test_moves_are_shown(kv: Callable[..., Result], larger: Elastic) -> None:
    elastic = larger
    options = ("--endpoints", elastic.endpoints("n1"))
    quiet = await run(kv, "moves", *options)
    assert (quiet.code, quiet.out) == (0, b"nothing moves\n")
    elastic.map = with_move(elastic.map)
    elastic.rows["n2", 0] = {"catching_up": peer("snapshot", 4, 200)}
    shown = await run(kv, "moves", *options)
    header, line = shown.out.decode().splitlines()
    assert header.split() == ["SHARD", "MOVE", "STAGE", "BYTES", "OF", "BEHIND"]
    (change,) = elastic.map.changes
    assert change.add is not None
    assert change.remove is not None
    ends = f"{change.remove.node}→{change.add.node}"
    assert line.split() == ["0", ends, *["waiting", "0", "B", "2.0", "kB", "-"]]


def with_move(shard_map: ShardMap) -> ShardMap:
    """The first shard's last copy, which does not lead, is moving to whoever has none."""
    held = [replica.node for replica in shard_map.replicas[0]]
    comes = next(node.id for node in shard_map.nodes if node.id not in held)
    goes = next(node for node in reversed(held) if node != N2)
    return changes.succeed(shard_map, changes.begin(shard_map, G1, comes, goes))


@pytest.mark.parametrize("output", ["simple", "json"])
async def test_moves_are_followed_to_their_end(
    kv: Callable[..., Result], larger: Elastic, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(moves, "POLL_S", 0.01)
    monkeypatch.setattr(moves, "QUIET_S", 0.05)
    elastic = larger
    elastic.map = with_move(elastic.map)
    (change,) = elastic.map.changes
    looks = count()

    def look() -> None:
        """In the third round of four nodes the move is over."""
        if next(looks) == 8:
            elastic.becomes(changes.finish(elastic.map, change))

    elastic.on_look = look
    options = ("--endpoints", elastic.endpoints("n2"), "-o", output)
    result = await run(kv, "moves", "-f", *options)
    assert result.code == 0
    lines = result.out.decode().splitlines()
    if output == "json":
        assert [json.loads(line)["stage"] for line in lines] == ["waiting", "done"]
    else:
        assert [line.split()[3] for line in lines[:-1]] == ["waiting", "done"]
        assert lines[-1] == "nothing moves"


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
