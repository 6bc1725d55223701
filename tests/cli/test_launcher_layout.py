from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvstore import config
from kvstore.cli.launcher import layout
from kvstore.cli.launcher.layout import ClusterSpec, Layout
from kvstore.errors import ConfigError, InvalidArgument

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
