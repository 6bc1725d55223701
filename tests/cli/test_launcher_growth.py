"""The next node of a local cluster: its number, its files, and nothing left if it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvstore import config
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher import growth, layout
from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.node import Node
from kvstore.errors import ConfigError, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli_result import Result

    from kvstore.cli.launcher.cluster import Cluster


@pytest.fixture
def founded(tmp_path: Path) -> Cluster:
    with clusters.opened(tmp_path / "c", Wanted()) as made:
        return made


@pytest.mark.parametrize(
    ("names", "last_number", "number"),
    [
        ([], 0, 4),
        (["n1", "n2", "n3"], 3, 4),
        (["n5", "n2"], 4, 6),
        (["n2"], 7, 8),
        (["node9", "n09", "n9x", "xn9", "n", "n0"], 3, 4),
        (["n10", "n9"], 3, 11),
    ],
)
def test_the_next_number_is_above_all_that_were_used(
    founded: Cluster, names: list[str], last_number: int, number: int
) -> None:
    assert growth.next_number(founded.layout, names, last_number) == number


def test_a_number_in_whose_place_something_lies_is_left_out(founded: Cluster) -> None:
    (founded.directory / "n4").mkdir()
    assert growth.next_number(founded.layout, [], 3) == 5


def test_there_are_ports_for_so_many(founded: Cluster) -> None:
    assert growth.next_number(founded.layout, ["n98"], 3) == 99
    with pytest.raises(InvalidArgument, match="n100 would be the next"):
        growth.next_number(founded.layout, ["n99"], 3)


def test_one_more_is_a_node_like_all_others(founded: Cluster) -> None:
    grown, node = growth.add(founded, 4, weight=0.5, zone="b")
    assert config.load(node.files.config_file).address == config.NodeAddress(
        node.files.id, node.files.address, 0.5, "b"
    )
    assert [known.id for known in clusters.load(founded.directory).nodes] == [
        "n1",
        "n2",
        "n3",
        "n4",
    ]
    again, _ = growth.add(grown, 5, weight=1.0, zone="")
    assert clusters.load(founded.directory).layout == again.layout
    assert clusters.clean(again) == []
    assert not founded.directory.exists()


@pytest.mark.parametrize(
    ("weight", "zone", "words"),
    [(1000.0, "", "weight must be"), (1.0, "z" * 65, "65 characters"), (1.0, "a\tb", "printed")],
)
def test_what_cannot_be_leaves_nothing(
    founded: Cluster, weight: float, zone: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        growth.add(founded, 4, weight=weight, zone=zone)
    assert not (founded.directory / "n4").exists()
    assert clusters.load(founded.directory).layout == founded.layout


def test_one_that_has_not_joined_is_forgotten(founded: Cluster) -> None:
    grown, node = growth.add(founded, 4, weight=1.0, zone="")
    growth.discard(grown, node)
    assert not node.files.directory.exists()
    assert clusters.load(founded.directory).layout == founded.layout


def test_a_former_nodes_files_stay_until_all_are_removed(founded: Cluster) -> None:
    assert growth.retire(founded, founded.node("n2")) is False
    loaded = clusters.load(founded.directory)
    assert [node.id for node in loaded.nodes] == ["n1", "n3"]
    assert [node.id for node in loaded.former] == ["n2"]
    assert (founded.directory / "n2" / "node.toml").exists()
    assert growth.next_number(loaded.layout, [], 3) == 4
    assert clusters.clean(loaded) == []
    assert not founded.directory.exists()


async def test_whoever_does_not_run_has_heard_of_no_name(founded: Cluster) -> None:
    layout.save_spec(founded.layout)
    with pytest.raises(Unavailable, match="kv cluster up"):
        await growth.names_used(founded)


def test_one_of_which_nobody_tells_whether_it_has_joined_stays(
    founded: Cluster, kv: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def names_used(_: Cluster) -> tuple[set[str], int]:
        return {"n1", "n2", "n3"}, 3

    monkeypatch.setattr(growth, "names_used", names_used)  # then the others stop
    monkeypatch.setattr(Node, "start", lambda _: None)
    monkeypatch.setattr(Node, "check_started", lambda _: None)
    added = kv("cluster", "add", "--dir", str(founded.directory), "--timeout", "0.001")
    assert added.code == 3
    assert "n4 may be a member (nobody answers), and stopped (kv cluster restart n4 " in added.err
    assert clusters.load(founded.directory).node("n4").files.config_file.exists()
