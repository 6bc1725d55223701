"""Seeds hold, repeat themselves to the byte, and failures are told well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim import __main__ as program
from sim.run import REPEATED_EVERY, digest_elsewhere, run_seed, run_seed_twice_at_times
from sim.swarm import RATES, Swarm, draw
from sim.world import Violation, World

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("seed", [*program.kept_seeds(), *range(7_000, 7_008)])
def test_a_seed_holds(seed: int) -> None:
    result = run_seed(seed)
    assert not result.failure
    assert result.calls > 0
    assert result.entries > 0


def seeds_with_every_fault() -> list[int]:
    """A few seeds of at least three nodes, in which every fault is on at least once."""
    missing, chosen = set(RATES), []
    for seed in range(1_000):
        swarm = draw(World(seed).rng)
        news = missing & set(swarm.faults)
        if swarm.nodes >= 3 and len(news) >= min(5, len(missing)):
            chosen.append(seed)
            missing -= news
        if not missing:
            break
    assert not missing
    return chosen


def traced(seed: int, hash_seed: str) -> bytes:
    """The whole trace, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "sim", "--seed", str(seed)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


HELD_CUTS_HEAL = 90_000_961
"""Frames of several cut links arrive when all are mended at once, in whatever order."""


@pytest.mark.parametrize("seed", [HELD_CUTS_HEAL, *seeds_with_every_fault()])
def test_a_seed_repeats_itself_to_the_byte(seed: int) -> None:
    trace = traced(seed, hash_seed="1")
    assert len(trace.splitlines()) > 200
    assert traced(seed, hash_seed="2") == trace
    assert digest_elsewhere(seed, "3") == str(run_seed(seed).digest)


def test_a_seed_that_does_not_repeat_itself_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_seed_twice_at_times(REPEATED_EVERY).failure
    monkeypatch.setattr("sim.run.digest_elsewhere", lambda seed, hash_seed: "0")
    assert run_seed_twice_at_times(REPEATED_EVERY).failure.startswith("does not repeat itself: 0")


def test_a_kept_seed_that_is_no_number_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("# some\n12  # one\n\n1x\n")
    monkeypatch.setattr("sim.__main__.KEPT_SEEDS", kept)
    result = CliRunner().invoke(program.main, ["--kept", "--seeds", "1"])
    assert (result.exit_code, result.output) == (1, "Error: kept.txt:4: '1x' is no seed\n")


def test_every_fault_is_drawn_and_none_always() -> None:
    swarms = [draw(World(seed).rng) for seed in range(300)]
    for name in RATES:
        on = sum(getattr(swarm, name) > 0 for swarm in swarms)
        assert 30 < on < 200, name
    assert any(not swarm.faults for swarm in swarms), "some runs are undisturbed"


def a_run_that_fails(self: object) -> None:
    raise Violation("planted for this test")


def test_a_failure_prints_the_trace_and_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sim.run.Run.judge", a_run_that_fails)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    result = CliRunner().invoke(program.main, ["--first", "5", "--seeds", "3"])
    assert result.exit_code == 1
    assert "make sim SEED=5" in result.output
    assert "planted for this test" in result.output
    assert re.search(r"^ +[0-9.]+ n\d +<- n\d \w+\(sender=", result.output, re.MULTILINE)
    assert re.search(r"^seed 5: planted for this test$", result.output, re.MULTILINE)
    assert "1 violations" in result.output


def test_after_a_kept_seed_has_failed_no_fresh_one_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.run.Run.judge", a_run_that_fails)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("sim.__main__.kept_seeds", lambda: [21])
    result = CliRunner().invoke(program.main, ["--first", "5", "--seeds", "3", "--kept"])
    assert result.exit_code == 1
    assert "make sim SEED=21" in result.output
    assert "make sim SEED=5" not in result.output


def test_a_run_without_a_fresh_seed_is_no_success() -> None:
    result = CliRunner().invoke(program.main, ["--minutes", "1e-12"])
    assert result.exit_code == 1
    assert "no fresh seed was run" in result.output


def test_a_few_seeds_end_with_a_summary(tmp_path: Path) -> None:
    report = tmp_path / "totals.json"
    arguments = ["--first", "21", "--seeds", "3", "--json", str(report)]
    result = CliRunner().invoke(program.main, arguments)
    assert result.exit_code == 0, result.output
    assert "3 seeds" in result.output
    assert "0 violations" in result.output
    assert '"seeds": 3' in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "x"],
        ["--seeds", "0"],
        ["--minutes", "-1"],
        ["--minutes", "nan"],
        ["--first", "1.5"],
        ["--json", "/nonexistent/totals"],
        ["--what"],
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(program.main, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
    assert "Traceback" not in result.output


def test_a_quiet_world_elects_once() -> None:
    seeds = (seed for seed in range(2_000) if not draw(World(seed).rng).faults)
    result = run_seed(next(seeds))
    assert not result.failure
    assert isinstance(result.swarm, Swarm)
    assert result.swarm.shards <= result.elections <= 2 * result.swarm.shards
