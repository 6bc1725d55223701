"""The fault walk, cut short: a few cells on one real cluster, and how a stage is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from chaos.history import History, Sample
from chaos.shim import NoCompiler
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import META_GROUP, GroupId, NodeId
from kvstore.sharding import changes
from kvstore.sharding.shard_map import ShardMap, bootstrap
from walk.cell import longest_pause_s, quiet_shards
from walk.cluster import SHARDS
from walk.stages import Move, Stage, move_of, stage_of
from walk.walk import Unusable, parts, walk
from walk.whole import missing

if TYPE_CHECKING:
    from pathlib import Path

N1, N2, N3, N4 = map(NodeId, ("n1", "n2", "n3", "n4"))
GROUP = GroupId(1)
SHORT = ("kill-target-snapshot", "kill-leader-joint")


async def test_moves_end_well_whoever_dies(tmp_path: Path) -> None:
    said: list[str] = []
    try:
        results = await walk(tmp_path / "walk", 1, only=SHORT, say=said.append)
    except NoCompiler as missing_compiler:
        pytest.skip(f"NOT TRIED: {missing_compiler}")
    assert sorted(result.name for result in results) == sorted(SHORT)
    assert all(result.holds for result in results), said


def test_every_stage_is_walked_by_every_victim() -> None:
    names = [cell.name for part in parts() for cell in part.cells]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("kill-") for name in names) == 4 * len(Stage)


async def test_a_directory_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(Unusable, match="holds other things"):
        await walk(tmp_path, 1, say=lambda line: None)
    assert (tmp_path / "mine").exists()


def test_a_shard_that_never_answers_again_pauses_until_the_end() -> None:
    history = History(SHARDS)
    for tenth in range(100):
        for shard in range(SHARDS):
            is_ok = shard != 1 or tenth < 40
            history.samples.append(Sample(100 + tenth / 10, 0.01, shard, False, is_ok))
    assert longest_pause_s(history, 102.0, 110.0) == pytest.approx(110.0 - 103.9)
    assert longest_pause_s(history, 102.0, 103.9) == pytest.approx(0.1)
    assert quiet_shards(history, 102.0) == []
    assert quiet_shards(history, 103.5) == [1], "four answers are not many"
    assert longest_pause_s(History(SHARDS), 102.0, 110.0) == 8.0
    assert quiet_shards(History(SHARDS), 102.0) == list(range(SHARDS))


# -- stages --------------------------------------------------------------------------------------


def founded() -> ShardMap:
    nodes = tuple(NodeAddress(name, f"127.0.0.1:{9000 + i}") for i, name in enumerate((N1, N2, N3)))
    cluster = ClusterConfig("walk", nodes, shards=1, replicas=3)
    return changes.admit(bootstrap(cluster), N4, "127.0.0.1:9009", 1.0, "")


def moving() -> tuple[ShardMap, Move]:
    """A map by which shard 0 goes from n1 to n4, and that move."""
    before = founded()
    shard_map = changes.succeed(before, changes.begin(before, GROUP, N4, N1))
    move = move_of(shard_map.changes[0])
    assert move is not None
    return shard_map, move


def row(voters: str, learners: str = "", leader: str = "n2", **progress: Any) -> dict[str, Any]:
    """What a node says of shard 0; ``progress`` is that of n4, as its leader sees it."""
    return {
        "id": 0,
        "role": "leader",
        "leader": leader,
        "term": 1,
        "replicas": voters.split(),
        "learners": learners.split(),
        "commit_index": 9,
        "applied_index": 9,
        "catching_up": [{"node": N4, **progress}] if progress else [],
    }


def status(**rows: dict[str, Any] | None) -> dict[NodeId, dict[str, Any]]:
    """By node, what it says of all that it has."""
    return {
        NodeId(name): {"shards": [] if said is None else [said], "meta": None}
        for name, said in rows.items()
    }


OLD, NEW = "n1 n2 n3", "n2 n3 n4"


@pytest.mark.parametrize(
    ("said", "stage"),
    [
        (row(OLD), Stage.ORDERED),
        (row(OLD, "n4", state="probe", match_index=0), Stage.LEARNING),
        (row(OLD, "n4", state="snapshot", match_index=0), Stage.SNAPSHOT),
        (row(OLD, "n4", state="replicate", match_index=8), Stage.CATCHING_UP),
        (row(NEW, "n4", state="replicate", match_index=9), Stage.JOINT),
        (row(NEW), Stage.COMMITTED),
        (row(NEW, leader="n3"), None),
    ],
)
def test_a_stage_is_told_by_the_groups_leader(said: dict[str, Any], stage: Stage | None) -> None:
    shard_map, move = moving()
    assert stage_of(move, shard_map, status(n2=said)) is stage


def test_a_move_that_is_made_is_over_once_its_source_has_nothing() -> None:
    shard_map, move = moving()
    made = changes.finish(shard_map, shard_map.changes[0])
    assert stage_of(move, made, status(n1=row(OLD), n2=row(NEW))) is Stage.LEAVING
    assert stage_of(move, made, status(n1=None, n2=row(NEW))) is None


def test_a_move_that_was_given_up_is_none() -> None:
    shard_map, move = moving()
    cancelled = changes.cancel(shard_map, shard_map.changes[0])
    assert move_of(cancelled.changes[0]) is None
    assert stage_of(move, cancelled, status(n2=row(OLD))) is None


# -- what is missing -----------------------------------------------------------------------------


def whole() -> dict[NodeId, dict[str, Any]]:
    found = status(n1=row(OLD), n2=row(OLD), n3=row(OLD), n4=None)
    for name in (N1, N2, N3):
        found[name]["meta"] = row(OLD)
    return found


def lacks(shard_map: ShardMap, statuses: dict[NodeId, dict[str, Any]]) -> list[str]:
    return list(missing(shard_map, dict.fromkeys(statuses, 1), statuses, frozenset()))


def test_nothing_is_missing_from_a_cluster_that_is_as_its_map_says() -> None:
    assert lacks(founded(), whole()) == []
    assert founded().change_of(META_GROUP) is None


def test_whatever_is_not_as_the_map_says_is_missed() -> None:
    shard_map, _ = moving()
    assert "changes are under way" in lacks(replace(shard_map, version=1), whole())[0]
    silent = whole()
    del silent[N4]
    assert lacks(founded(), silent) == ["n4 does not answer"]
    extra = whole()
    extra[N4]["shards"] = [row(OLD)]
    assert lacks(founded(), extra) == ["shard 0 is held by n4, not as the map says"]
    torn = whole()
    torn[N3]["shards"] = []
    assert lacks(founded(), torn) == ["shard 0 is not held by n3"]
    behind = whole()
    behind[N3]["shards"][0]["applied_index"] = -100
    assert lacks(founded(), behind) == ["shard 0: n3 has applied -100 of 9"]
    late = dict.fromkeys(whole(), 1) | {N2: 0}
    assert list(missing(founded(), late, whole(), frozenset())) == ["n2 follows version 0, not 1"]
    joint = whole()
    joint[N2]["shards"] = [row(NEW, "n4")]
    assert any("its members are" in said for said in lacks(founded(), joint))
