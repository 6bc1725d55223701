"""``kv`` as a shell runs it, where no node listens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KV = [sys.executable, "-m", "kvstore.cli"]
NOBODY = ["--endpoints", "127.0.0.1:1", "--timeout", "0.2"]


def sh(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``script`` in which ``$KV`` is the command."""
    command = " ".join(KV)
    return subprocess.run(
        ["sh", "-c", script],
        cwd=cwd,
        env={**os.environ, "KV": command, "KV_ENDPOINTS": "", **env},
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(tmp_path: Path, closed: str) -> None:
    done = sh(f"$KV get k {' '.join(NOBODY)} {closed}", tmp_path)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_stdin_that_is_closed_is_no_value(tmp_path: Path) -> None:
    done = sh(f"$KV put k - {' '.join(NOBODY)} <&-", tmp_path)
    assert done.returncode == 2
    assert done.stderr == b'kv: VALUE "-" reads stdin, which is closed\n'


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "en_US.ISO-8859-1"])
def test_any_bytes_are_an_argument_in_any_locale(tmp_path: Path, locale: str) -> None:
    key = b"\xff\xc3"
    done = subprocess.run(
        [*KV, "get", key, *NOBODY],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.count(b"\n") == 1


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    for command in ("get k", "put k v", "delete k", "scan", "locate k", "status"):
        done = sh(f"$KV {command} {' '.join(NOBODY)}", tmp_path)
        assert done.returncode == 3, command
        lines = [line for line in done.stderr.splitlines() if not line.startswith(b"kv: note")]
        assert len(lines) == 1, lines
        assert (b"the write did not happen" in lines[0]) == (command[:3] in ("put", "del"))


def test_debug_shows_where(tmp_path: Path) -> None:
    done = sh(f"$KV get k {' '.join(NOBODY)}", tmp_path, KV_DEBUG="1")
    assert b"Traceback" in done.stderr


def test_get_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    heavy = ("rich", "aiofiles", "rocksdict", "kvstore.raft", "kvstore.server")
    script = (
        "import sys\n"
        "from kvstore.cli.app import run\n"
        f"run({['get', 'k', *NOBODY]!r})\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"[]\n"


def test_a_node_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    Path(tmp_path, "node.toml").write_text("[node]\nid = 7\n")
    done = sh("$KV node start --config node.toml", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"kv: node.toml: ")
    assert done.stderr.count(b"\n") == 1
