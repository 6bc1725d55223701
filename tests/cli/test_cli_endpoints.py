from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.cli.endpoints import ADDRESS_DEFAULT, parse, resolve
from kvstore.cli.launcher import layout
from kvstore.cli.launcher.layout import ClusterSpec, Layout
from kvstore.cli.options import Settings
from kvstore.errors import ConfigError, InvalidArgument


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KV_ENDPOINTS", raising=False)


def make_cluster(directory: str, base_port: int) -> None:
    spec = ClusterSpec(id="c", nodes=2, replicas=2, base_port=base_port)
    layout.save(Layout(Path(directory), spec))


def test_with_nothing_said_it_is_the_first_port() -> None:
    assert resolve(Settings()).addresses == (ADDRESS_DEFAULT,)


def test_each_source_goes_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cluster(".kv", 7400)
    make_cluster("other", 7600)
    in_default = ("127.0.0.1:7401", "127.0.0.1:7402")
    in_other = ("127.0.0.1:7601", "127.0.0.1:7602")
    assert resolve(Settings()).addresses == in_default
    monkeypatch.setenv("KV_ENDPOINTS", "h:1")
    assert resolve(Settings()).addresses == ("h:1",)
    assert resolve(Settings(directory=Path("other"))).addresses == in_other
    both = Settings(endpoints="g:2", directory=Path("other"))
    assert resolve(both).addresses == ("g:2",)


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_ENDPOINTS", "")
    assert resolve(Settings()).addresses == (ADDRESS_DEFAULT,)


def test_a_local_cluster_tells_its_shards_too() -> None:
    make_cluster(".kv", 7400)
    cluster = resolve(Settings()).cluster
    assert cluster is not None
    assert [node.id for node in cluster.nodes] == ["n1", "n2"]


@pytest.mark.parametrize("text", ["", " , ", "host", "host:", ":1", "host:0", "host:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--endpoints"):
        parse(text, "--endpoints")


def test_spaces_and_a_last_comma_do_no_harm() -> None:
    assert parse(" a:1, b:2, ", "x") == ("a:1", "b:2")


def test_a_directory_without_a_cluster_is_refused_when_named() -> None:
    with pytest.raises(InvalidArgument, match="no cluster in nowhere"):
        resolve(Settings(directory=Path("nowhere")))


def test_a_broken_cluster_file_is_named() -> None:
    make_cluster(".kv", 7400)
    Path(".kv/cluster.toml").write_text("nodes = ")
    with pytest.raises(ConfigError, match=r"cluster\.toml"):
        resolve(Settings())
