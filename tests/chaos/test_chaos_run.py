"""Every fault once, on a real cluster of five: the short form of ``make chaos``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from chaos import report
from chaos.__main__ import main
from chaos.clients import Workload
from chaos.cluster import SHARDS, WAIT_S, Cluster, wait_for
from chaos.disk_faults import full_disk
from chaos.history import History
from chaos.run import run_chaos
from chaos.shim import NoCompiler, build
from chaos.target import Target
from chaos.verdict import LEDGER_KEYS_MIN, Verdict, heal, judge

if TYPE_CHECKING:
    from pathlib import Path


KILLS_MIN, KILLS_MIN_WITHOUT_SHIM = 15, 10
"""Each fault that kills comes once: some of them need the shim."""


def has_shim(directory: Path) -> bool:
    try:
        build(directory)
    except NoCompiler:
        return False
    return True


async def test_promises_hold_through_every_fault(tmp_path: Path) -> None:
    lines: list[str] = []
    run = await run_chaos(tmp_path / "chaos", seed=1, seconds=None, say=lines.append)
    told = report.facts(run)
    report.write(tmp_path, run, told)
    assert told["problems"] == [], "\n".join(told["problems"])
    assert all(row["counted"] for row in told["faults"].values())
    assert told["kills"] >= (KILLS_MIN if has_shim(tmp_path) else KILLS_MIN_WITHOUT_SHIM)
    assert told["ledger_keys_read_back"] > 100
    assert "HOLDS" in report.in_words(told)
    for note in run.notes:  # what this machine cannot do is said, never passed over
        assert note in (tmp_path / "report.md").read_text(encoding="utf-8")


async def test_a_disk_can_be_full_where_nothing_can_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, history = Cluster(tmp_path / "chaos", 3, random.Random(1)), History(SHARDS)
    if cluster.nodes[-1].shim is None:
        pytest.skip(cluster.notes[0])
    monkeypatch.setenv("PATH", str(tmp_path))  # no mount

    async def is_enough() -> bool:
        return len(history.ledger) >= LEDGER_KEYS_MIN

    try:
        await cluster.open()
        async with Workload(cluster.endpoints, 8, history, random.Random(2)):
            outcome = await full_disk(Target(cluster, history, random.Random(3)))
            await wait_for(is_enough, "there are keys to read back", WAIT_S)
        assert outcome.bit, outcome.what
        assert cluster.unexpected_ends() == []
        verdict = Verdict()
        await heal(cluster, verdict)
        await judge(cluster, history, verdict)
        assert verdict.problems == []
    finally:
        await cluster.close()
    assert [note.partition(":")[0] for note in cluster.notes] == ["only by the shim"]


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
