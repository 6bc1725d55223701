"""The contract of ``kv`` from a shell, against real processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cluster_harness import WAIT_S, end, kv

from drivers import ended_after
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher.layout import ClusterSpec, Layout, save
from kvstore.cli.launcher.ports import free_base_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shell:
    """A working directory with commands run in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return kv(*arguments, cwd=self.directory, stdin=stdin)

    def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "-o", "json"))

    def fails(self, code: int, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    def states(self) -> dict[str, str]:
        return {node["id"]: node["state"] for node in self.json("cluster", "status")["nodes"]}

    def pids(self) -> dict[str, int]:
        return {node["id"]: node["pid"] for node in self.json("cluster", "status")["nodes"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory; what still runs in its ``.kv`` at the end is killed."""
    path = tmp_path_factory.mktemp("cli")
    yield path
    if (path / ".kv" / "cluster.toml").exists():
        end(clusters.load(path / ".kv"))


@pytest.fixture(scope="module")
def shell(directory: Path) -> Shell:
    """With three nodes up in ``.kv``, as a newcomer has them."""
    shell = Shell(directory)
    shell.started = shell.ok("cluster", "up", "--shards", "4", "--base-port", "0").decode()
    return shell


@pytest.fixture
def whole(shell: Shell) -> Iterator[Shell]:
    """The same, and after a test that hurt it the cluster is made whole again."""
    yield shell
    for node, state in shell.states().items():
        if state == "paused":
            shell.ok("cluster", "resume", node)
    shell.ok("cluster", "up")


def test_up_prints_what_a_newcomer_needs(shell: Shell) -> None:
    for node, pid in shell.pids().items():
        assert f"{node}" in shell.started
        assert str(pid) in shell.started
    assert any(f"kill -9 {pid}" in shell.started for pid in shell.pids().values())
    assert "kvstore.connect(" in shell.started
    assert ".kv/n1/node.log" in shell.started


def test_cluster_status_has_the_documented_shape(shell: Shell) -> None:
    nodes = shell.json("cluster", "status")["nodes"]
    assert [node["id"] for node in nodes] == ["n1", "n2", "n3"]
    for node in nodes:
        assert node["state"] == "running"
        assert os.path.isdir(node["data_dir"])
        assert os.path.isfile(node["log"])
        os.kill(node["pid"], 0)
    ports = [int(node["address"].rpartition(":")[2]) for node in nodes]
    assert ports == [ports[0], ports[0] + 1, ports[0] + 2]


def test_put_get_delete_scan(shell: Shell) -> None:
    assert shell.ok("put", "user:1", "Ada") == b"OK\n"
    assert shell.ok("get", "user:1") == b"Ada\n"
    item = shell.json("get", "user:1")
    assert (item["key"], item["value"]) == ("user:1", "Ada")
    newer = shell.json("put", "user:2", "Grace")
    assert newer["revision"] > 0
    assert shell.ok("scan", "user:") == b"user:1\tAda\nuser:2\tGrace\n"
    assert shell.ok("delete", "user:1", "user:2", "user:3") == b"2\n"
    assert "key not found: user:1" in shell.fails(1, "get", "user:1")


def test_bytes_are_bytes(shell: Shell) -> None:
    key = os.fsdecode(b"k\xff\xfe")
    value = bytes(range(256))
    shell.ok("put", key, "-", stdin=value)
    assert shell.ok("get", key, "-o", "raw") == value
    assert shell.ok("get", key) == value + b"\n"
    assert shell.json("get", key)["key"] == {"base64": "a//+"}
    assert shell.ok("delete", key) == b"1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("put", "", "v"), "key"),
        (("get", ""), "key"),
        (("put", "k" * 9000, "v"), "key"),
        (("locate", ""), "key"),
    ],
)
def test_bad_keys_are_refused(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    assert said in shell.fails(2, *arguments)


def test_status_and_locate(shell: Shell) -> None:
    status = shell.json("status")
    assert [node["state"] for node in status["nodes"]] == ["serving"] * 3
    assert [shard["id"] for shard in status["shards"]] == [0, 1, 2, 3]
    for shard in status["shards"]:
        assert shard["leader"] in shard["replicas"]
        assert shard["term"] >= 1
        assert shard["commit_index"] >= shard["applied_index"] >= 0
    found = shell.json("locate", "user:1")
    assert found["key"] == "user:1"
    assert found["leader"] in found["replicas"]
    assert status["shards"][found["shard"]]["replicas"] == found["replicas"]


def test_one_endpoint_is_enough_and_common_options_stand_anywhere(shell: Shell) -> None:
    address = shell.json("cluster", "status")["nodes"][1]["address"]
    elsewhere = Shell(Path("/"))
    for arguments in (("--endpoints", address, "status"), ("status", "--endpoints", address)):
        assert len(elsewhere.json(*arguments)["nodes"]) == 3
    cluster = str(shell.directory / ".kv")
    first = elsewhere.ok("-o", "json", "cluster", "status", "--dir", cluster)
    second = elsewhere.ok("--dir", cluster, "cluster", "-o", "json", "status")
    assert json.loads(first) == json.loads(second) == shell.json("cluster", "status")


def test_kill_pause_resume_restart(whole: Shell) -> None:
    shell = whole
    pids = shell.pids()
    shell.ok("cluster", "kill", "n1")
    assert shell.states() == {"n1": "dead", "n2": "running", "n3": "running"}
    assert "n1 is not running" in shell.fails(2, "cluster", "kill", "n1")
    assert "n1 is not running" in shell.fails(2, "cluster", "pause", "n1")
    shell.ok("put", "after", "the kill")
    shell.ok("cluster", "restart", "n1")
    shell.ok("cluster", "pause", "n2")
    assert shell.states() == {"n1": "running", "n2": "paused", "n3": "running"}
    assert shell.ok("get", "after") == b"the kill\n"
    states = {node["id"]: node["state"] for node in shell.json("status")["nodes"]}
    assert states == {"n1": "serving", "n2": "unreachable", "n3": "serving"}
    shell.ok("cluster", "resume", "n2")
    shell.ok("cluster", "restart", "n3")
    now = shell.pids()
    assert now["n1"] != pids["n1"]
    assert now["n2"] == pids["n2"]
    assert now["n3"] != pids["n3"]
    assert set(shell.states().values()) == {"running"}


def test_repair(whole: Shell) -> None:
    shell = whole
    for state, command in (("running", "resume"), ("paused", "pause")):
        shell.ok("cluster", command, "n2")
        line = shell.fails(2, "cluster", "repair", "n2", "--yes", "--force")
        assert line == f"kv: n2 is {state}; stop it first: kv cluster kill n2"
    shell.ok("cluster", "resume", "n2")
    shell.ok("put", "before", "the repair")
    shell.ok("cluster", "kill", "n2")
    shutil.rmtree(shell.directory / ".kv" / "n2" / "data" / "wal")
    line = shell.fails(2, "cluster", "restart", "n2")
    assert "the log is gone" in line
    assert f"kv repair --config {shell.directory}/.kv/n2/node.toml" in line
    declined = shell.run("cluster", "repair", "n2", stdin=b"n\n")
    assert (declined.returncode, declined.stdout) == (130, b"")
    assert b"a majority of each shard's replicas must be alive" in declined.stderr
    repaired = shell.run("cluster", "repair", "n2", stdin=b"y\n")
    assert repaired.returncode == 0, repaired.stderr
    assert b"n2 is repaired; start it with: kv cluster restart n2\n" in repaired.stdout
    shell.ok("cluster", "restart", "n2")
    assert all(shard["learners"] == [] for shard in shell.json("status")["shards"])
    shell.ok("cluster", "kill", "n1")
    assert shell.ok("get", "before", "--timeout", "20") == b"the repair\n"


def test_status_without_a_majority_and_without_anybody(whole: Shell) -> None:
    shell = whole
    shell.ok("cluster", "kill", "n1")
    shell.ok("cluster", "kill", "n3")
    status = shell.json("status")
    states = {node["id"]: node["state"] for node in status["nodes"]}
    assert states == {"n1": "unreachable", "n2": "serving", "n3": "unreachable"}
    assert [shard["id"] for shard in status["shards"]] == [0, 1, 2, 3]
    assert "write" in shell.fails(3, "put", "k", "v", "--timeout", "0.5")
    shell.ok("cluster", "kill", "n2")
    done = shell.run("status", "-o", "json")
    assert done.returncode == 3
    shown = json.loads(done.stdout)
    assert {shard["leader"] for shard in shown["shards"]} == {None}
    assert "the write did not happen" in shell.fails(3, "put", "k", "v", "--timeout", "0.5")


@contextmanager
def begun(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``kv``, to be read from while it runs; it is killed if it takes too long, and at the end."""
    command = [sys.executable, "-m", "kvstore.cli", *arguments]
    with subprocess.Popen(
        command, cwd=shell.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        try:
            with ended_after(running, 2 * WAIT_S):
                yield running
        finally:
            running.kill()


def test_logs(shell: Shell) -> None:
    log = shell.ok("cluster", "logs", "n1")
    assert log
    assert log.endswith(shell.ok("cluster", "logs", "n1", "-n", "1"))
    with begun(shell, "cluster", "logs", "n1", "-f") as following:
        assert following.stdout is not None
        line = following.stdout.readline()
        assert line.endswith(b"\n")
        assert line in log
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=WAIT_S)
    assert following.returncode == 130
    assert errors == b"kv: interrupted\n"


def test_a_log_that_nobody_reads_any_more_is_not_followed(shell: Shell) -> None:
    with begun(shell, "cluster", "logs", "n1", "-f", "-n", "1") as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.stdout.close()
        assert following.stderr is not None
        assert following.stderr.read() == b""
        assert following.wait(WAIT_S) == 0


def test_an_unknown_node_is_answered_with_the_known(shell: Shell) -> None:
    for command in ("kill", "pause", "resume", "restart", "repair", "logs"):
        assert "known: n1, n2, n3" in shell.fails(2, "cluster", command, "n9")


def test_other_options_than_it_was_made_with(shell: Shell) -> None:
    assert "--nodes 3" in shell.fails(2, "cluster", "up", "--nodes", "5")


def test_clean_refuses_while_nodes_run(shell: Shell) -> None:
    assert "running" in shell.fails(2, "cluster", "clean")


def test_a_reader_that_leaves_is_no_failure(shell: Shell) -> None:
    for i in range(20):
        shell.ok("put", f"pipe:{i}", "x" * 100_000)
    with begun(shell, "scan", "pipe:") as scanning:
        assert scanning.stdout is not None
        assert scanning.stdout.read(10) == b"pipe:0\txxx"
        scanning.stdout.close()
        assert scanning.stderr is not None
        assert scanning.stderr.read() == b""
        assert scanning.wait(WAIT_S) == 0


def test_the_script_is_the_same_launcher(shell: Shell) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "cluster.sh"
    done = subprocess.run(
        [str(script), "status", "-o", "json"],
        cwd=shell.directory,
        capture_output=True,
        check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert json.loads(done.stdout) == shell.json("cluster", "status")


def test_another_cluster_at_the_same_ports_is_not_taken_for_ours(
    shell: Shell, tmp_path: Path
) -> None:
    addresses = [node["address"] for node in shell.json("cluster", "status")["nodes"]]
    base_port = int(addresses[0].rpartition(":")[2]) - 1
    other = str(tmp_path / "other")
    line = shell.fails(2, "cluster", "up", "--dir", other, "--base-port", str(base_port))
    assert "port is in use" in line
    assert not Path(other).exists()
    save(Layout(Path(other), ClusterSpec(id="other", shards=4, base_port=base_port)))
    assert "'other'" in shell.fails(5, "put", "greeting", "lost", "--dir", other)
    assert "'other'" in shell.fails(5, "locate", "greeting", "--dir", other)


def test_down_keeps_the_data_and_clean_removes_it(shell: Shell) -> None:
    shell.ok("put", "kept", "yes")
    assert shell.ok("cluster", "down").decode().count("stopped") == 3
    assert set(shell.states().values()) == {"dead"}
    assert shell.ok("cluster", "down") == b"no node was running\n"
    shell.ok("cluster", "up")
    assert shell.ok("get", "kept") == b"yes\n"
    shell.ok("cluster", "down")
    shell.ok("cluster", "clean")
    assert not (shell.directory / ".kv").exists()
    assert "no cluster" in shell.fails(2, "cluster", "status")


def test_up_with_a_port_in_use_starts_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    base_port = free_base_port(3, random.Random())
    with socket.create_server(("127.0.0.1", base_port + 2)):
        line = Shell(tmp_path).fails(2, "cluster", "up", "--base-port", str(base_port))
    assert line.startswith("kv: n2 could not start: ")
    assert str(base_port + 2) in line
    assert list(tmp_path.iterdir()) == []


def test_foreground_stays_until_ctrl_c(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    command = ["cluster", "up", "--nodes", "1", "--base-port", "0", "--foreground"]
    running = subprocess.Popen(
        [sys.executable, "-m", "kvstore.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert running.stderr is not None
        assert running.stderr.readline() == b"Ctrl-C stops the cluster.\n"
        shell.ok("put", "k", "v")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=WAIT_S)
    finally:
        left = clusters.load(tmp_path / ".kv").alive()
        end(clusters.load(tmp_path / ".kv"))
        running.kill()
    assert running.returncode == 130
    assert left == []
