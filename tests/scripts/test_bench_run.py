"""The bench measures a real cluster, says why if it cannot, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from drivers import lines_until

if TYPE_CHECKING:
    from drivers import Drive

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = [
    "--keys",
    "300",
    "--runs",
    "1",
    "--warm-up",
    "0.1",
    "--connections",
    "2",
    "--in-flight",
    "4",
]
WAIT_S = 60.0


def begun(drive: Drive, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """With a temporary directory of its own to look into."""
    (tmp_path / "tmp").mkdir()
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return drive(
        [sys.executable, "-m", "bench", "--out", str(tmp_path / "out"), *arguments],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path / "tmp")},
    )


@pytest.fixture
def measuring(tmp_path: Path, drive: Drive) -> subprocess.Popen[str]:
    """Something that takes long, with its cluster filled and its load under way."""
    long = ["--only", "get,put", "--seconds", "1", "--runs", "40"]
    running = begun(drive, tmp_path, *SMALL, *long)
    lines_until(running, running.stderr, "^  get")
    return running


def processes_in(directory: Path) -> list[tuple[int, str]]:
    """Ids and command lines of all that name the directory."""
    command = ["ps", "-ww", "-e", "-o", "pid=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(line.split()[0]), line) for line in lines if f"{directory}/tmp" in line]


def workers_of(parent: int) -> list[str]:
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in lines if "bench.worker" in line]


def test_a_small_bench_prints_and_writes_what_it_measured(tmp_path: Path, drive: Drive) -> None:
    loads = ["--only", "put,get,cas", "--seconds", "0.3"]
    running = begun(drive, tmp_path, *SMALL, *loads)
    out, said = running.communicate(timeout=WAIT_S)
    assert running.returncode == 0, said
    assert [line.split()[0] for line in out.splitlines()[3:7]] == ["load", "put", "get", "cas"]
    report = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert report["machine"]["fdatasync_ms"] > 0
    assert report["machine"]["round_trip_ms"] > 0
    for cell in report["cells"]:
        assert cell["rate"]["min"] > 0
        (run,) = cell["runs"]
        assert run["operations"] == sum(run["latency"].values())
        assert set(run["memory_bytes"]) == {"n1", "n2", "n3"}
        assert set(run["stall_ms"]) == set(run["late_ms"]) == {"n1", "n2", "n3"}
        assert all(run["late_ms"][node] >= stall for node, stall in run["stall_ms"].items())
        assert all(used > 0 for used in run["cpu_s"].values())
    for picture in ("throughput.svg", "latency.svg"):
        ElementTree.parse(tmp_path / "out" / picture)
    assert processes_in(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_a_cluster_there_is_no_figure(tmp_path: Path, drive: Drive) -> None:
    running = begun(drive, tmp_path, *SMALL, "--endpoints", "127.0.0.1:1")
    out, said = running.communicate(timeout=WAIT_S)
    assert (running.returncode, out) == (1, "")
    assert "127.0.0.1:1" in said.splitlines()[-1]


def test_a_server_that_ends_takes_the_figures_with_it(
    measuring: subprocess.Popen[str], tmp_path: Path
) -> None:
    victim = next(pid for pid, line in processes_in(tmp_path) if "/n2/" in line)
    os.kill(victim, signal.SIGKILL)
    out, said = measuring.communicate(timeout=WAIT_S)
    assert (measuring.returncode, out) == (1, "")
    assert re.search(rf"^failed: .*n2 \(process {victim}\) has ended$", said, re.MULTILINE)
    assert processes_in(tmp_path) == []
    assert not (tmp_path / "out" / "bench.json").exists()


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    measuring: subprocess.Popen[str], tmp_path: Path, signal_: signal.Signals
) -> None:
    assert len(processes_in(tmp_path)) >= 3
    assert len(workers_of(measuring.pid)) == 1
    measuring.send_signal(signal_)
    out, said = measuring.communicate(timeout=WAIT_S)
    assert (measuring.returncode, out) == (1, "")
    assert said.endswith("stopped\n")
    assert processes_in(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
