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

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo, started with a temporary directory of its own to look into."""
    running = subprocess.Popen(
        [sys.executable, str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "KV_ENDPOINTS": "127.0.0.1:1"},
    )
    yield running
    running.kill()
    running.communicate()


def read_until(running: subprocess.Popen[str], pattern: str) -> list[str]:
    assert running.stdout is not None
    lines = []
    for line in running.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return lines
    pytest.fail(f"the demo ended without {pattern!r}: {lines}")


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
    lines = read_until(demo, "no acknowledged write was lost")
    assert demo.wait(WAIT_S) == 0
    assert any(re.search(r"came after \d+ ms", line) for line in lines)
    assert len([line for line in lines if "acknowledged keys are there" in line]) == 2
    assert any(re.search(r"a replica of shard \d has moved from n\d to n4", line) for line in lines)
    assert any("writes acknowledged meanwhile, none failed" in line for line in lines)
    assert [len(keys_held(line)) for line in lines if line.startswith("keys: ")] == [3, 4]
    assert any("24 replicas: all equal" in line for line in lines)
    assert len(pids(lines)) >= 4
    assert not any(map(is_a_node, pids(lines)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_interrupted_it_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path, signal_: signal.Signals, code: int
) -> None:
    lines = read_until(demo, r"\$ kill -9")
    assert len(pids(lines)) >= 3
    demo.send_signal(signal_)
    rest, _ = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == code
    assert "Traceback" not in rest
    assert not any(map(is_a_node, pids(lines)))
    assert list(tmp_path.iterdir()) == []
