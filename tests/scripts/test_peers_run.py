"""The whole comparison, with stores that take no time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.measured import Cell, Run
from bench.peers import __main__ as program
from bench.peers.bars import CELLS, PUT_MANY, PUT_ONE
from bench.peers.options import chosen, options
from bench.peers.rounds import measure_all
from peers_scene import Scripted, run_of

from kvstore.errors import KVError, StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
FACTS = {
    "cores": 2,
    "cpu": "x",
    "kernel": "L 6",
    "python": "3.11",
    "kvstore": "0",
    "fdatasync_ms": 0.4,
    "round_trip_ms": 0.1,
}


def fast(_: Cell) -> Run:
    return run_of(1_000_000, p50_s=0.0005, p99_s=0.0008, server_s=1.0)


def slow(_: Cell) -> Run:
    return run_of(1000, p50_s=0.01, p99_s=0.02)


def failing(bad: Cell) -> Callable[[Cell], Run]:
    def runs(cell: Cell) -> Run:
        if cell == bad:
            raise KVError("1 of 1,000 requests have failed")
        return run_of(777_777)

    return runs


@pytest.fixture(autouse=True)
def still_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def facts() -> dict[str, Any]:
        return FACTS

    monkeypatch.setattr("bench.machine.facts", facts)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    peer = Scripted("kvstore", fast)
    monkeypatch.setattr("bench.peers.options.Ours", lambda: peer)
    return peer


async def compare(tmp_path: Path, others: list[Scripted], *arguments: str) -> int:
    asked = options(["--rounds", "2", "--out", str(tmp_path), *arguments])
    return await program.run(asked, others)


@pytest.mark.usefixtures("ours")
async def test_all_bars_held_is_a_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await compare(tmp_path, [Scripted("etcd", slow)]) == 0
    out, _ = capsys.readouterr()
    assert "1,000x (1,000..1,000)" in out
    assert "NO" not in out
    assert out.count("  yes") == 9
    kept = json.loads((tmp_path / "peers.json").read_text())
    assert [len(cell["runs"]["etcd"]) for cell in kept["cells"]] == [2] * len(CELLS)
    assert all(bar["is_held"] for bar in kept["bars"])


@pytest.mark.usefixtures("ours")
async def test_a_bar_that_is_not_held_is_named_after_everything_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await compare(tmp_path, [Scripted("etcd", fast)], "--markdown") == 1
    out, err = capsys.readouterr()
    assert "| put, 1 in flight | 1.00x etcd | 1.00..1.00 | >= 1.2 | 2 | NO |" in out
    assert "failed: not held: put, 1 in flight\n" in err
    assert "not held: server CPU" not in err


@pytest.mark.usefixtures("ours")
async def test_a_failed_load_shows_no_figure_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    etcd = Scripted("etcd", failing(PUT_ONE))
    assert await compare(tmp_path, [etcd], "--markdown") == 1
    out, err = capsys.readouterr()
    rates = [line for line in out.splitlines() if line.startswith("| put | 1 | 1 |")]
    assert rates[0] == "| put | 1 | 1 | 1,000,000 | failed | - |"
    assert rates[1].endswith("| failed |")
    assert "| put, 1 in flight | - | - | >= 1.2 | 2 | not measured |" in out
    assert "777,777" in out  # of its other loads
    assert "failed: etcd, put 1/1: 1 of 1,000 requests have failed" in err
    kept = json.loads((tmp_path / "peers.json").read_text())
    assert kept["cells"][0]["runs"]["etcd"] == []
    assert etcd.log.count("etcd put 1/1") == 1  # there is nothing to be had from another try


@pytest.mark.usefixtures("ours")
async def test_a_store_that_does_not_come_up_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [Scripted("etcd", slow, is_up=False), Scripted("redis", slow)]
    assert await compare(tmp_path, others) == 1
    out, err = capsys.readouterr()
    assert err.count("etcd has failed: it does not come up") == 1
    assert "1,000x" in out


async def test_a_run_without_an_operation_is_a_failure() -> None:
    results = await measure_all([Scripted("one", lambda _: run_of(0))], [PUT_ONE], 1, 1.0, 0.1)
    assert results.failures == {("one", PUT_ONE): "no operation ended in 1 s"}


async def test_one_store_runs_at_a_time_and_the_order_turns() -> None:
    log: list[str] = []
    peers = [Scripted(name, fast, log=log) for name in ("a", "b")]
    cells = [PUT_ONE, Cell("scan", 1, 1), PUT_MANY]
    await measure_all(peers, cells, 2, 1.0, 0.1)
    turn = ("up", "put 1/1", "put 256/4", "down")
    assert log == [f"{name} {what}" for name in "abba" for what in turn]


async def test_a_store_is_ended_when_something_unforeseen_happens() -> None:
    def broken(_: Cell) -> Run:
        raise ZeroDivisionError

    peer = Scripted("a", broken)
    with pytest.raises(ZeroDivisionError):
        await measure_all([peer], [PUT_ONE], 1, 1.0, 0.1)
    assert peer.log[-1] == "a down"


def test_what_is_missing_is_left_out_with_the_line_that_installs_it() -> None:
    told: list[str] = []
    others = [Scripted("etcd", slow, install="apt-get install etcd"), Scripted("redis", slow)]
    assert [peer.name for peer in chosen(None, others, told.append)] == ["kvstore", "redis"]
    assert told == ["etcd is left out; to install it: apt-get install etcd"]


def test_what_is_asked_for_by_name_must_be_there() -> None:
    others = [Scripted("etcd", slow, install="apt-get install etcd"), Scripted("redis", slow)]
    with pytest.raises(StartupError, match="etcd is missing, install it: apt-get install etcd"):
        chosen(["etcd", "redis"], others, pytest.fail)
    assert [peer.name for peer in chosen(["redis"], others, pytest.fail)] == ["kvstore", "redis"]


def test_with_nothing_to_compare_with_there_is_no_comparison() -> None:
    told: list[str] = []
    with pytest.raises(StartupError, match="no store to compare with"):
        chosen(None, [Scripted("etcd", slow, install="line")], told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    "arguments",
    [["--only", "mysql"], ["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["x"]],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        options(arguments)
    assert refused.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_command_fails_without_the_programs_it_is_asked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers", "--only", "etcd", "--only", "redis"],
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("failed: ")
    assert "etcd is missing, install it: sudo apt-get install etcd-server" in done.stderr
    assert "redis is missing, install it: sudo apt-get install redis-server" in done.stderr
