from __future__ import annotations

import fcntl
import random
import socket
from typing import TYPE_CHECKING, BinaryIO

import pytest

from kvstore.cli.exits import Exit
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher import layout, logs, ports
from kvstore.cli.launcher.cluster import Wanted
from kvstore.cli.launcher.node import Node
from kvstore.cli.launcher.process import State
from kvstore.errors import InvalidArgument, StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli_result import Result


def test_a_new_cluster_has_the_defaults_and_keeps_them(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "cluster"
    with clusters.opened(directory, Wanted()) as made:
        assert made.is_new
        spec = made.layout.spec
    assert (spec.nodes, spec.replicas, spec.base_port) == (3, 3, 7400)
    with clusters.opened(directory, Wanted(nodes=3)) as again:
        assert not again.is_new
        assert again.layout == made.layout


def test_two_clusters_have_different_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("a", "b"):
        with clusters.opened(tmp_path / name, Wanted()) as made:
            ids.add(made.layout.spec.id)
    assert len(ids) == 2


def test_fewer_nodes_than_the_usual_replicas_take_as_many_as_they_can(tmp_path: Path) -> None:
    with clusters.opened(tmp_path, Wanted(nodes=2)) as made:
        assert made.layout.spec.replicas == 2


@pytest.mark.parametrize(
    ("wanted", "option"),
    [
        (Wanted(nodes=5), "--nodes 3, not 5"),
        (Wanted(shards=16), "--shards 8, not 16"),
        (Wanted(base_port=7500), "--base-port 7400, not 7500"),
        (Wanted(replicas=1), "--replicas 3, not 1"),
    ],
)
def test_other_options_than_it_was_made_with_are_refused(
    tmp_path: Path, wanted: Wanted, option: str
) -> None:
    with clusters.opened(tmp_path, Wanted(shards=8)):
        pass
    with pytest.raises(InvalidArgument, match=option), clusters.opened(tmp_path, wanted):
        pass


def test_what_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with pytest.raises(InvalidArgument), clusters.opened(directory, Wanted(shards=5)):
        pass
    assert not directory.exists()


def test_base_port_0_looks_for_free_ports(tmp_path: Path) -> None:
    with clusters.opened(tmp_path, Wanted(base_port=0)) as made:
        base_port = made.layout.spec.base_port
    assert base_port > 0
    with clusters.opened(tmp_path, Wanted(base_port=0)) as again:
        assert again.layout.spec.base_port == base_port


def test_a_taken_port_is_not_free() -> None:
    base = ports.free_base_port(2, random.Random(7))
    with socket.create_server(("127.0.0.1", base + 102)):
        assert not ports.is_free(base + 102)
        assert ports.free_base_port(2, random.Random(7)) != base


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        clusters.locked(tmp_path),
        pytest.raises(Unavailable, match="another kv command"),
        clusters.locked(tmp_path, wait_s=0.0),
    ):
        pass
    with clusters.locked(tmp_path, wait_s=0.0):
        pass


def test_a_lock_whose_file_was_removed_counts_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster is removed by the lock's holder when another command has just opened it."""
    lock_now = fcntl.flock

    def lock_late(lock: BinaryIO, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock_now)
        layout.lock_file(tmp_path).unlink()
        lock_now(lock, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with (
        clusters.locked(tmp_path),
        pytest.raises(Unavailable, match="another kv command"),
        clusters.locked(tmp_path, wait_s=0.0),
    ):
        pass


@pytest.mark.parametrize("content", [None, "", "not a number", "-1", "0", "999999999"])
def test_a_useless_pid_file_means_dead(tmp_path: Path, content: str | None) -> None:
    with clusters.opened(tmp_path, Wanted()) as made:
        node = made.node("n1")
    if content is not None:
        node.files.pid_file.write_text(content)
    assert node.state() is State.DEAD
    assert node.pid() is None
    with pytest.raises(InvalidArgument, match="n1 is not running"):
        node.kill()


def test_clean_removes_what_was_made(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    with clusters.opened(directory, Wanted()) as made:
        data = made.node("n2").files.data_dir
        data.mkdir()
        (data / "some.sst").write_bytes(b"x")
        assert clusters.clean(made) == []
    assert not directory.exists()


def test_clean_leaves_what_it_did_not_make(tmp_path: Path) -> None:
    with clusters.opened(tmp_path, Wanted()) as made:
        (tmp_path / "n1" / "notes.txt").write_text("mine")
        assert clusters.clean(made) == [made.node("n1").files.directory, tmp_path]
    assert [path.name for path in tmp_path.rglob("*")] == ["n1", "notes.txt"]


def test_clean_refuses_while_a_node_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clusters.opened(tmp_path, Wanted()) as made:
        monkeypatch.setattr(Node, "state", lambda _node: State.PAUSED)
        with pytest.raises(InvalidArgument, match="n1, n2, n3 still running"):
            clusters.clean(made)
    assert layout.cluster_file(tmp_path).exists()


def test_the_last_words_are_those_since_the_start(tmp_path: Path) -> None:
    with clusters.opened(tmp_path, Wanted()) as made:
        node = made.node("n1")
    node.files.log_file.write_text("from an earlier life\n")
    node._log_start = node.files.log_file.stat().st_size
    with pytest.raises(StartupError, match="n1 could not start: it wrote nothing"):
        node.check_started()
    with node.files.log_file.open("a") as log:
        log.write("kv: port 7401 is in use\n\n")
    with pytest.raises(StartupError, match=r"^n1 could not start: port 7401 is in use$"):
        node.check_started()


def test_the_last_warning_is_found_behind_much_that_followed(tmp_path: Path) -> None:
    with clusters.opened(tmp_path, Wanted()) as made:
        node = made.node("n1")
    assert node.last_warning() is None
    at = "2026-01-02 03:04:05.678"
    node.files.log_file.write_text(f"{at} WARNING n1 from an earlier life\n")
    node._log_start = node.files.log_file.stat().st_size
    assert node.last_warning() is None
    with node.files.log_file.open("a") as log:
        log.write(f"{at} WARNING n1 turned away\n")
        log.writelines(f"{at} INFO    n1 WARNING: {i} votes are wanted\n" for i in range(1000))
    assert node.last_warning() == "turned away"
    with node.files.log_file.open("a") as log:
        log.write(f"{at} ERROR   n1 the disk is gone\n")
    assert node.last_warning() == "the disk is gone"


def test_a_restart_in_vain_says_what_the_node_says_and_what_to_do(
    kv: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ""

    def start(self: Node) -> None:
        self.files.directory.mkdir(exist_ok=True)
        self.files.log_file.write_text(said)

    async def wait(*_: object, **__: object) -> None:
        raise Unavailable("not ready after 30 s: n1 has not caught up on shard 0")

    monkeypatch.setattr(Node, "start", start)
    monkeypatch.setattr("kvstore.cli.cluster.wait_until_serving", wait)
    with clusters.opened(tmp_path / ".kv", Wanted()):
        pass
    plain = kv("cluster", "restart", "n1").error_line
    assert plain == "kv: not ready after 30 s: n1 has not caught up on shard 0"
    said = "2026-01-02 03:04:05.678 WARNING n1 the clock is ahead\n"
    assert kv("cluster", "restart", "n1").error_line == (
        f"{plain} (its last warning: the clock is ahead)"
    )
    said = "2026-01-02 03:04:05.678 WARNING n1 turned away: kv repair --config FILE\n"
    assert kv("cluster", "restart", "n1").error_line == (
        f"{plain} (its last warning: turned away: kv repair --config FILE; here: "
        "kv cluster kill n1; kv cluster repair n1)"
    )


def test_a_directory_without_a_name_is_bad_usage(kv: Callable[..., Result], tmp_path: Path) -> None:
    result = kv("--dir", "", "cluster", "status")
    assert result.code == Exit.USAGE
    assert "it is empty: use . for the working directory" in result.error_line
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_read_whole_or_from_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    with pytest.raises(InvalidArgument, match="no log yet"):
        list(logs.read(path))
    path.write_bytes(b"one\ntwo\nthree")
    assert b"".join(logs.read(path)) == b"one\ntwo\nthree"
    assert b"".join(logs.read(path, lines=2)) == b"two\nthree"
    assert b"".join(logs.read(path, lines=0)) == b""
    assert b"".join(logs.read(path, lines=9)) == b"one\ntwo\nthree"


def test_following_a_log_sees_what_is_added(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.write_bytes(b"old\n")
    following = logs.read(path, lines=1, follow=True)
    assert next(following) == b"old\n"
    with path.open("ab") as log:
        log.write(b"new\n")
    assert next(following) == b"new\n"
