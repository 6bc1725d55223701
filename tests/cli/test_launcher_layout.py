from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvstore import config
from kvstore.cli.launcher import layout
from kvstore.cli.launcher.layout import ClusterSpec, Layout
from kvstore.errors import ConfigError, InvalidArgument
from kvstore.ids import NodeId

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ClusterSpec(id="local-1", nodes=3, shards=8, replicas=3, base_port=7400)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    layout.save(Layout(tmp_path, SPEC))
    assert layout.load(tmp_path) == Layout(tmp_path, SPEC)


def test_ids_and_addresses_are_those_of_the_contract(tmp_path: Path) -> None:
    nodes = Layout(tmp_path, SPEC).nodes
    assert [(node.id, node.address, node.admin_port) for node in nodes] == [
        ("n1", "127.0.0.1:7401", 7501),
        ("n2", "127.0.0.1:7402", 7502),
        ("n3", "127.0.0.1:7403", 7503),
    ]


def test_a_nodes_file_is_a_configuration_that_a_node_accepts(tmp_path: Path) -> None:
    saved = Layout(tmp_path, SPEC)
    layout.save(saved)
    for node in saved.nodes:
        loaded = config.load(node.config_file)
        assert loaded.node_id == node.id
        assert loaded.address.address == node.address
        assert loaded.admin_port == node.admin_port
        assert loaded.data_dir == node.data_dir
        assert loaded.cluster == SPEC.config()


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 100}, "--nodes"),
        ({"replicas": 4}, "--replicas"),
        ({"replicas": 0}, "--replicas"),
        ({"shards": 6}, "--shards"),
        ({"shards": 0}, "--shards"),
        ({"shards": 2048}, "--shards"),
        ({"base_port": 65_500}, "--base-port"),
        ({"base_port": -1}, "--base-port"),
    ],
)
def test_what_cannot_be_started_is_refused(change: dict[str, int], option: str) -> None:
    with pytest.raises(InvalidArgument, match=option):
        ClusterSpec(id="c", **change).check()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"added": (3,)}, "added"),
        ({"added": (5, 4)}, "added"),
        ({"added": (4, 4)}, "added"),
        ({"added": (100,)}, "added"),
        ({"removed": (4,)}, "removed"),
        ({"base_port": 65_430, "added": (9,)}, "--base-port"),
    ],
)
def test_numbers_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        ClusterSpec(id="c", **change).check()


def grown(directory: Path) -> Layout:
    """Founded by three, then n4, n6 and n7 came and n1 and n6 went."""
    layout_now = Layout(directory, SPEC)
    for number in (4, 6, 7):
        layout_now = layout_now.with_added(number)
    return layout_now.with_removed(6).with_removed(1)


def test_a_cluster_that_grew_and_shrank_is_saved_and_loaded(tmp_path: Path) -> None:
    saved = grown(tmp_path)
    layout.save_spec(saved)
    loaded = layout.load(tmp_path)
    assert loaded == saved
    assert [(node.id, node.address) for node in loaded.nodes] == [
        ("n2", "127.0.0.1:7402"), ("n3", "127.0.0.1:7403"), ("n4", "127.0.0.1:7404"),
        ("n7", "127.0.0.1:7407"),
    ]  # fmt: skip
    assert [node.id for node in loaded.former] == ["n6", "n1"]
    assert loaded.number_of("n7") == 7
    assert loaded.without_added(7).without_added(4).spec.added == (6,)
    with pytest.raises(InvalidArgument, match=r"n6 was removed .*n2, n3, n4, n7"):
        loaded.node("n6")


def test_who_was_added_later_is_asked_too_but_did_not_found_the_cluster(tmp_path: Path) -> None:
    cluster = grown(tmp_path).spec.config()
    assert cluster.nodes == SPEC.config().nodes
    assert cluster.seeds == ("127.0.0.1:7404", "127.0.0.1:7407")


def test_a_node_that_joins_is_told_whom_to_ask(tmp_path: Path) -> None:
    text = layout.joining_toml(grown(tmp_path), 7, weight=2.5, zone='r "1"')
    text += "[sharding]\nmoves_max = 3\n"
    loaded = config.parse(text, relative_to=tmp_path / "n7")
    assert loaded.joining == config.NodeAddress(NodeId("n7"), "127.0.0.1:7407", 2.5, 'r "1"')
    assert (loaded.cluster.id, loaded.cluster.nodes) == (SPEC.id, ())
    assert loaded.seeds == ("127.0.0.1:7402", "127.0.0.1:7403", "127.0.0.1:7404")
    assert loaded.data_dir == tmp_path / "n7" / "data"
    assert loaded.sharding.moves_max == 3


def test_an_unknown_node_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'n9'.*n1, n2, n3"):
        Layout(tmp_path, SPEC).node("n9")


def test_no_cluster_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="kv cluster up"):
        layout.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("format = 1", "format = 2"),
        ("format = 1", ""),
        ("nodes = 3", ""),
        ("nodes = 3", 'nodes = "many"'),
        ("shards = 8", "shards = 7"),
        ("shards = 8", "shards = ["),
        ("shards = 8", "shards = " + "[" * 200_000),
        ("shards = 8", "shards = 8\nadded = [2]"),
        ("shards = 8", "shards = 8\nremoved = [7]"),
        ("shards = 8", "shards = 8\nadded = 4"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    layout.save(Layout(tmp_path, SPEC))
    path = layout.cluster_file(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=r"cluster\.toml"):
        layout.load(tmp_path)


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    path = layout.cluster_file(tmp_path)
    path.mkdir()
    with pytest.raises(ConfigError) as refused:
        layout.load(tmp_path)
    assert refused.value.message == f"{path}: cannot be read: Is a directory"
