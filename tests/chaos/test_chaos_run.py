"""Every fault once, on a real cluster of five: the short form of ``make chaos``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from chaos import report
from chaos.__main__ import main
from chaos.history import History
from chaos.run import run_chaos
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path


async def test_promises_hold_through_every_fault(tmp_path: Path) -> None:
    lines: list[str] = []
    run = await run_chaos(tmp_path / "chaos", seed=1, seconds=None, say=lines.append)
    told = report.facts(run)
    report.write(tmp_path, run, told)
    assert told["problems"] == [], "\n".join(told["problems"])
    assert all(row["counted"] for row in told["faults"].values())
    assert told["kills"] >= 15
    assert told["ledger_keys_read_back"] > 100
    assert "HOLDS" in report.in_words(told)
    for note in run.notes:  # what this machine cannot do is said, never passed over
        assert note in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--minutes", text] for text in ("soon", "0", "-1", "nan", "inf", "1e999")),
        ["--seed", "x"],
        ["--nodes", "4.5"],
        ["--kills", "-1"],
        ["--report", "/dev/null/x"],
        ["--what"],
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
    assert "Traceback" not in result.output


def test_what_is_wrong_with_a_number_is_said_in_words() -> None:
    for option, text, words in (
        ("--seed", "x", "'x' is not a whole number"),
        ("--minutes", "nan", "'nan' is not a number of minutes above 0"),
        ("--nodes", "2", "2 is not in the range 3<=x<=9"),
    ):
        assert words in CliRunner().invoke(main, [option, text]).output


def test_a_report_that_cannot_be_written_is_one_line_and_the_verdict_is_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_and_lose_the_directory(directory: Path, **rest: object) -> report.Run:
        history = History(1)
        return report.Run(1, 0.0, 1.0, 0, 0, history, [], Verdict(), [])

    monkeypatch.setattr("chaos.__main__.run_chaos", run_and_lose_the_directory)
    result = CliRunner().invoke(main, ["--report", str(tmp_path / "gone")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "HOLDS" in result.stdout
    assert result.stderr.startswith("error: the report could not be written: ")
    assert result.stderr.count("\n") == 1
