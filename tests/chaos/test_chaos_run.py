"""Every fault once, on a real cluster of five: the short form of ``make chaos``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from chaos import report
from chaos.__main__ import main
from chaos.run import run_chaos

if TYPE_CHECKING:
    from pathlib import Path


async def test_promises_hold_through_every_fault(tmp_path: Path) -> None:
    lines: list[str] = []
    run = await run_chaos(tmp_path / "chaos", seed=1, seconds=None, say=lines.append)
    told = report.write(tmp_path, run)
    assert told["problems"] == [], "\n".join(told["problems"])
    assert all(row["counted"] for row in told["faults"].values())
    assert told["kills"] >= 15
    assert told["ledger_keys_read_back"] > 100
    assert "HOLDS" in report.in_words(told)
    for note in run.notes:  # what this machine cannot do is said, never passed over
        assert note in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [["--minutes", "soon"], ["--minutes", "0"], ["--seed", "x"], ["--kills", "-1"], ["--what"]],
)
def test_bad_input_is_one_clear_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
    assert "Traceback" not in result.output
