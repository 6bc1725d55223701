"""Scale is measured on real clusters; of those nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drivers import lines_until

if TYPE_CHECKING:
    from drivers import Drive

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WAIT_S = 120.0


def begun(drive: Drive, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """With a temporary directory of its own to look into."""
    (tmp_path / "tmp").mkdir()
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return drive(
        [sys.executable, "-m", "bench.scaling", *arguments, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path / "tmp")},
    )


def assert_nothing_is_left(directory: Path) -> None:
    command = ["ps", "-ww", "-e", "-o", "args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in lines if f"{directory}/tmp" in line] == []
    assert list((directory / "tmp").iterdir()) == []


def test_a_small_sweep_prints_and_writes_what_it_measured(tmp_path: Path, drive: Drive) -> None:
    small = "--points 1,2 --runs 1 --seconds 0.3 --warm-up 0.1 --keys 300 --in-flight 4"
    running = begun(drive, tmp_path, "shards", *small.split())
    out, said = running.communicate(timeout=WAIT_S)
    assert running.returncode == 0, said
    report = json.loads((tmp_path / "out" / "scaling-shards.json").read_text())
    assert [(row["point"], row["load"]) for row in report["rows"]] == [
        *(("1", "put"), ("2", "put"), ("1", "get"), ("2", "get")),
    ]
    assert all(row["rate"]["min"] > 0 for row in report["rows"])
    assert report["asked"]["in_flight"] == [4]
    assert [line.split()[:2] for line in out.splitlines()[3:6]] == [
        *(["shards", "load"], ["1", "put"], ["2", "put"]),
    ]
    assert_nothing_is_left(tmp_path)


def test_a_small_restart_is_timed(tmp_path: Path, drive: Drive) -> None:
    running = begun(
        drive, tmp_path, "restart", *["--points", "2", "--runs", "1", "--value-bytes", "4096"]
    )
    _, said = running.communicate(timeout=WAIT_S)
    assert running.returncode == 0, said
    (row,) = json.loads((tmp_path / "out" / "scaling-restart.json").read_text())["rows"]
    assert 0 < row["answers_s"] <= row["serves_s"]
    assert row["log_bytes"] >= row["keys"] * 4096
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    tmp_path: Path, drive: Drive, signal_: signal.Signals
) -> None:
    running = begun(drive, tmp_path, "restart", *["--points", "2", "--runs", "50"])
    lines_until(running, running.stderr, "serves in")
    running.send_signal(signal_)
    out, said = running.communicate(timeout=WAIT_S)
    assert (running.returncode, out) == (1, "")
    assert said.endswith("stopped\n")
    assert_nothing_is_left(tmp_path)


def test_what_fails_is_said_and_gives_no_table(tmp_path: Path, drive: Drive) -> None:
    running = begun(drive, tmp_path, "model", "--bench", str(tmp_path / "nothing.json"))
    out, said = running.communicate(timeout=WAIT_S)
    assert (running.returncode, out) == (1, "")
    assert said.startswith(f"failed: {tmp_path}/nothing.json")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_room_it_does_not_begin(tmp_path: Path, drive: Drive) -> None:
    running = begun(drive, tmp_path, "keys", "--points", str(10**15))
    out, said = running.communicate(timeout=WAIT_S)
    assert (running.returncode, out) == (1, "")
    assert "failed: this takes up to" in said
    assert_nothing_is_left(tmp_path)
