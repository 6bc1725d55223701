"""The command that measures the table cleans up, also when somebody has seen enough."""

from __future__ import annotations

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

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "elastic.py"
WAIT_S = 60.0


@pytest.fixture
def measuring(tmp_path: Path, drive: Drive) -> subprocess.Popen[str]:
    """Begun with few keys, and a temporary directory of its own to look into."""
    return drive(
        [sys.executable, str(SCRIPT), "--keys", "500", "--seconds", "0.5", "--rate", "100"],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), "KV_ENDPOINTS": "127.0.0.1:1"},
    )


def processes(*options: str) -> list[str]:
    """Ids and command lines."""
    command = ["ps", "-ww", "-o", "pid=,args=", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def nodes_in(directory: Path) -> list[str]:
    return [line for line in processes("-e") if str(directory) in line]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    measuring: subprocess.Popen[str], tmp_path: Path, signal_: signal.Signals
) -> None:
    lines_until(measuring, measuring.stderr, "^3 → 4")
    assert len(nodes_in(tmp_path)) >= 3
    (load,) = (
        line for line in processes("--ppid", str(measuring.pid)) if "elasticity.load" in line
    )
    measuring.send_signal(signal_)
    out, said = measuring.communicate(timeout=WAIT_S)
    assert (measuring.returncode, out, said) == (1, "", "stopped\n")
    assert nodes_in(tmp_path) == []
    assert load not in processes("-e")
    assert list(tmp_path.iterdir()) == []
