"""``make demo`` tells the truth and cleans up, also when somebody has seen enough."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cluster_harness import WAIT_S

from drivers import lines_until

if TYPE_CHECKING:
    from drivers import Drive

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


@pytest.fixture
def demo(tmp_path: Path, drive: Drive) -> subprocess.Popen[str]:
    """The demo, started with a temporary directory of its own to look into."""
    return drive(
        [sys.executable, str(DEMO)],
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(tmp_path), "KV_ENDPOINTS": "127.0.0.1:1"},
    )


def pids(lines: list[str]) -> list[int]:
    rows = (re.match(r"n\d +(\d+) ", line) for line in lines)
    return [int(row[1]) for row in rows if row]


def keys_held(line: str) -> dict[str, int]:
    return {node: int(keys) for node, keys in re.findall(r"(n\d) has (\d+)", line)}


def is_a_node(pid: int) -> bool:
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False
    )
    return b"node start --config" in shown.stdout


def test_the_whole_story(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    lines = lines_until(demo, demo.stdout, "no acknowledged write was lost")
    assert demo.wait(WAIT_S) == 0
    assert any(re.search(r"came after \d+ ms", line) for line in lines)
    assert len([line for line in lines if "acknowledged keys are there" in line]) == 2
    assert any(re.search(r"a replica of shard \d has moved from n\d to n4", line) for line in lines)
    assert any("writes acknowledged meanwhile, none failed" in line for line in lines)
    assert [len(keys_held(line)) for line in lines if line.startswith("keys: ")] == [3, 4]
    assert any("12 replicas: all equal" in line for line in lines)
    assert len(pids(lines)) >= 4
    assert not any(map(is_a_node, pids(lines)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_interrupted_it_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path, signal_: signal.Signals, code: int
) -> None:
    lines = lines_until(demo, demo.stdout, r"\$ kill -9")
    assert len(pids(lines)) >= 3
    demo.send_signal(signal_)
    rest, _ = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == code
    assert "Traceback" not in rest
    assert not any(map(is_a_node, pids(lines)))
    assert list(tmp_path.iterdir()) == []
