from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

import pytest
from cli_result import Result

from kvstore.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def kv(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Callable[..., Result]:
    """Run a command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KV_ENDPOINTS", raising=False)

    def run_kv(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(arguments)
        captured = capsysbinary.readouterr()
        return Result(int(code), captured.out, captured.err.decode())

    return run_kv


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition, at most 10 s."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.01)

    return wait
