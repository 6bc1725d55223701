"""``kv moves``: what is under way and what waits, once or followed to the end."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from elastic_nodes import Elastic, run
from rich.console import Console
from rich.progress import Progress

from kvstore.cli import moves
from kvstore.cli.movement import Movement, movements
from kvstore.cli.moves import Bars, Lines, line_of, outcome
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import META_GROUP, GroupId, NodeId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import NodeState, ShardMap, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result

    from kvstore.cli.survey import Survey

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
FOUNDERS = tuple(NodeAddress(NodeId(f"n{i}"), f"h:{i}") for i in (1, 2, 3))


def grown(
    shards: int = 2, founders: tuple[NodeAddress, ...] = FOUNDERS, at: str = "h:4"
) -> ShardMap:
    """The founders hold all, and ``n4`` nothing."""
    founded = bootstrap(ClusterConfig("c", founders, shards=shards, replicas=3))
    return changes.admit(founded, N4, at, 1.0, "")


MAP = grown()
G1 = GroupId(1)
MOVING = changes.begin(MAP, G1, N4, N2)
WAITING = Movement(G1, "n4", "n2", "waiting", 0, 2000, is_begun=False)


@pytest.fixture
async def larger() -> Any:
    async with Elastic().running("n1", "n2", "n3", "n4") as cluster:
        founders = tuple(NodeAddress(n, cluster.addresses[n]) for n in (N1, N2, N3))
        cluster.map = grown(founders=founders, at=cluster.addresses[N4])
        yield cluster


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


def test_without_a_terminal_it_is_said_how_long_it_will_be_and_what_holds_it_up() -> None:
    timed = Movement(G1, "n4", "n2", "snapshot", 100, 2000, eta_s=12.3)
    assert line_of(timed, "snapshot") == "shard 0  n2→n4  snapshot  100 B of 2.0 kB  12s left"
    assert line_of(timed, "done") == "shard 0  n2→n4  done"
    blocked = replace(WAITING, why="n4 does not answer")
    assert line_of(blocked, "waiting") == "shard 0  n2→n4  waiting (n4 does not answer)"


def test_one_that_has_not_begun_ends_without_a_word_unless_it_was_made() -> None:
    written: list[str] = []
    lines = Lines(lambda move, stage: written.append(line_of(move, stage)), lambda: 1.0)
    lines.show(MAP, [WAITING])
    lines.show(MAP, [replace(WAITING, why="n4 does not answer")])
    lines.show(MAP, [])
    assert written == [
        "shard 0  n2→n4  waiting",
        "shard 0  n2→n4  waiting (n4 does not answer)",
    ]
    lines.show(MAP, [WAITING])
    lines.show(changes.finish(MOVING, MOVING.changes[0]), [])
    assert written[2:] == ["shard 0  n2→n4  waiting", "shard 0  n2→n4  done"]


def test_what_goes_back_and_is_wanted_again_goes_back_first() -> None:
    written: list[str] = []
    lines = Lines(lambda move, stage: written.append(stage), lambda: 1.0)
    lines.show(MOVING, [Movement(G1, "n4", "n2", "going back"), WAITING])
    lines.show(MAP, [WAITING])
    assert written == ["going back", "waiting"]


def test_on_a_terminal_many_that_wait_share_a_bar() -> None:
    console = Console(file=io.StringIO(), width=100)
    waiting = [replace(WAITING, group=GroupId(group)) for group in range(1, 8)]
    with Progress(console=console, auto_refresh=False) as progress:
        bars, shard_map = Bars(progress), grown(shards=8)
        bars.show(shard_map, waiting)
        assert [task.description for task in progress.tasks] == [
            *(f"shard {shard}  n2→n4" for shard in range(4)),
            "3 more",
        ]
        begun = Movement(GroupId(7), "n4", "n2", "snapshot", 100, 2000)
        bars.show(shard_map, [begun, *waiting[:5]])
        assert [task.description for task in progress.tasks][-2:] == ["shard 6  n2→n4", "1 more"]
        bars.show(shard_map, waiting[:1])
        assert [task.description for task in progress.tasks] == ["shard 0  n2→n4"]
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("given up") == 1, "only the one that had begun"


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
    assert header.split() == ["SHARD", "MOVE", "STAGE", "BYTES", "OF", "BEHIND", "ETA"]
    (change,) = elastic.map.changes
    assert change.add is not None
    assert change.remove is not None
    ends = f"{change.remove.node}→{change.add.node}"
    assert line.split() == ["0", ends, *["snapshot", "200", "B", "800", "B", "6", "-"]]


def with_move(shard_map: ShardMap) -> ShardMap:
    """The first shard's last copy, which does not lead, is moving to whoever has none."""
    held = [replica.node for replica in shard_map.replicas[0]]
    comes = next(node.id for node in shard_map.nodes if node.id not in held)
    goes = next(node for node in reversed(held) if node != N2)
    return changes.succeed(shard_map, changes.begin(shard_map, G1, comes, goes))


async def test_those_that_wait_are_listed_behind(
    kv: Callable[..., Result], larger: Elastic
) -> None:
    options = ("--endpoints", larger.endpoints("n1"))
    larger.becomes(changes.set_state(larger.map, N3, NodeState.DRAINING))
    larger.becomes(changes.begin(larger.map, G1, N4, N3))
    told = json.loads((await run(kv, "moves", *options, "-o", "json")).out)["moves"]
    assert [(move["shard"], move["under_way"], move["why"]) for move in told] == [
        *((0, True, None), ("meta", False, None), (1, False, None)),
    ]
    assert {(move["stage"], move["from"], move["to"]) for move in told} == {("waiting", "n3", "n4")}
    larger.silent = {"n4"}
    shown = await run(kv, "moves", *options)
    assert shown.out.decode().count("waiting (n4 does not answer)") == 3


@pytest.mark.parametrize("follow", [False, True])
async def test_how_long_a_move_will_take_yet_is_told(
    kv: Callable[..., Result], larger: Elastic, monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    for name in ("POLL_S", "PACE_S", "QUIET_S", "LINE_EVERY_S"):
        monkeypatch.setattr(moves, name, 0.01)
    larger.map = changes.begin(larger.map, G1, N4, N3)
    sent = count(100, 10)

    def look() -> None:
        """Bytes come with each look, and after a while they have all come."""
        row = peer("snapshot", 4, min(800, next(sent)))
        larger.rows["n2", 0] = {"catching_up": row}
        if row[0]["bytes_sent"] == 800 and larger.map.changes:
            larger.becomes(changes.finish(larger.map, larger.map.changes[0]))

    look()
    larger.on_look = look
    options = ("--endpoints", larger.endpoints("n2"), "-o", "json")
    result = await run(kv, "moves", *(["-f"] if follow else []), *options)
    lines = [json.loads(line) for line in result.out.splitlines()]
    told = lines if follow else lines[0]["moves"]
    assert told[0]["stage"] == "snapshot"
    if follow:
        assert (told[0]["eta_s"], told[-1]["stage"], told[-1]["eta_s"]) == (None, "done", None)
    else:
        assert told[0]["eta_s"] >= 0


async def test_following_goes_on_while_something_waits(
    kv: Callable[..., Result], larger: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "POLL_S", 0.01)
    monkeypatch.setattr(moves, "QUIET_S", 0.0)
    calm = larger.map
    larger.becomes(changes.set_state(larger.map, N3, NodeState.DRAINING))
    looks = count()

    def look() -> None:
        """Long after the quiet time the order is taken back."""
        if next(looks) == 40:
            larger.becomes(replace(calm, version=larger.map.version))

    larger.on_look = look
    result = await run(kv, "moves", "-f", "--endpoints", larger.endpoints("n2"))
    assert result.code == 0
    assert next(looks) > 40
    lines = result.out.decode().splitlines()
    assert "waiting" in lines[0]
    assert lines[-1] == "nothing moves"


async def test_following_outlives_an_outage(
    kv: Callable[..., Result], larger: Elastic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "POLL_S", 0.01)
    monkeypatch.setattr(moves, "QUIET_S", 0.0)
    larger.map = with_move(larger.map)
    (change,) = larger.map.changes
    looks, rounds = count(), []
    survey = moves.survey_endpoints

    async def look(*args: Any) -> Survey:
        number = next(looks)
        larger.silent = set(larger.addresses) if number in (1, 2) else set()
        rounds.append(number)
        if number == 3:
            larger.becomes(changes.finish(larger.map, change))
        return await survey(*args)

    monkeypatch.setattr(moves, "survey_endpoints", look)
    result = await run(kv, "moves", "-f", "--endpoints", larger.endpoints("n2"))
    assert result.code == 0
    assert [line.split()[-1] for line in result.out.decode().splitlines()] == [
        *("kB", "done", "moves"),
    ]
    assert result.error_line == (
        f"kv: note: no node answers at {larger.endpoints('n2')}; waiting for one that does"
    )
    assert len(rounds) > 3


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
