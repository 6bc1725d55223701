"""``python -m histories``: verdicts on stdout, complaints in one line on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from histories.__main__ import main
from histories.files import save
from histories.model import Get, Operation, Put

GOOD = [Operation("a", b"k", Put(b"x"), 0, 1), Operation("a", b"k", Get(), 2, 3, b"x")]
BAD = [Operation("a", b"k", Put(b"x"), 0, 1), Operation("b", b"k", Get(), 2, 3, None)]


def test_a_good_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "h", GOOD)
    assert main([str(tmp_path / "h")]) == 0
    assert capsys.readouterr().out.startswith("linearizable: 2 operations")


def test_a_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "h", BAD)
    assert main([str(tmp_path / "h")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("violation: key 'k'")
    assert "b: get -> absent" in out


def test_undecided_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "h", GOOD)
    assert main([str(tmp_path / "h"), "--steps-max", "1"]) == 1
    assert capsys.readouterr().out.startswith("undecided: key 'k'")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing"],
        ["h", "--steps-max", "0"],
        ["h", "--steps-max", "-1"],
        ["h", "--steps-max", "many"],
        ["h", "--steps-max", "9" * 5000],
        ["h", "--no-such-option"],
        ["h", "another"],
    ],
)
def test_bad_usage_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    save(tmp_path / "h", GOOD)
    ran = subprocess.run(
        [sys.executable, "-m", "histories", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
