"""Every planted bug still fits the code, and what counts as noticed is told from what does not."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mutants import __main__ as program
from mutants import hunting
from mutants.catalogue import CONTROL, MUTANTS, Edit, Mutant
from mutants.hunting import Broken, control_fails, hunt, proves_nothing
from mutants.planting import ROOT, DoesNotApply, mutated, plant
from plain_cli import run

if TYPE_CHECKING:
    from pathlib import Path

SOON_FOUND = "applies-before-its-own-disk"
ENOUGH_S = 600.0

TICK = "    def tick(self, now: float) -> None:\n"
"""Stands once in ``raft/core.py``; what follows it in a mutant is run at once."""


def broken(before: str, after: str, file: str = "raft/core.py") -> Mutant:
    return Mutant("broken", "", (Edit(file, before, after),))


# -- the catalogue --------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies(mutant: Mutant) -> None:
    changed = mutated(mutant)
    assert changed
    for file, text in changed.items():
        assert text != (ROOT / "kvstore" / file).read_text(encoding="utf-8")


def test_names_and_rules_are_told_apart() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60
    assert len({mutant.rule for mutant in MUTANTS}) == len(MUTANTS)
    assert CONTROL not in MUTANTS


def test_no_mutant_uses_a_name_that_is_not_there(tmp_path: Path) -> None:
    for mutant in MUTANTS:
        for file, text in mutated(mutant).items():
            path = tmp_path / mutant.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- what cannot be planted -------------------------------------------------------------------


@pytest.mark.parametrize("edit", [Edit("raft/log.py", "no such line", ""), Edit("no.py", "a", "b")])
def test_one_that_does_not_apply_says_so(edit: Edit, tmp_path: Path) -> None:
    with pytest.raises(DoesNotApply, match=f"broken does not apply: kvstore/{edit.file}"):
        plant(Mutant("broken", "", (edit,)), tmp_path)


def test_one_that_is_no_python_says_so() -> None:
    with pytest.raises(DoesNotApply, match=r"makes kvstore/raft/core\.py no Python, line \d+"):
        mutated(broken(TICK, "    def tick(self, now:\n"))


# -- what counts ------------------------------------------------------------------------------


def named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def test_the_simulator_notices() -> None:
    found = hunt(named(SOON_FOUND), 20, ENOUGH_S)
    assert found.violation
    assert not control_fails(1, ENOUGH_S, first=found.seed), "the seed holds without the mutant"


def test_the_code_as_it_is_holds() -> None:
    assert not control_fails(2, ENOUGH_S)


@pytest.mark.parametrize(
    ("violation", "is_nothing"),
    [
        ("NameError: name 'x' is not defined", True),
        ("n1 fails: AttributeError: 'RaftState' object has no attribute 'x'", True),
        ("n12 stops by itself: TypeError: '<' not supported", True),
        ("n3 fails to start: ImportError: no module", True),
        ("KeyError: <ShardHost>", True),
        ("does not repeat itself: another history", True),
        ("n1 fails: KeyError: 3", False),
        ("n1 fails: AssertionError: ", False),
        ("n1 stops by itself: Internal: a sync failed", False),
        ("group 1: two leaders in term 2", False),
        ("n1 refuses to start: a record with a TypeError: in it", False),
    ],
)
def test_a_senseless_edit_is_told_from_a_broken_rule(violation: str, is_nothing: bool) -> None:
    assert proves_nothing(violation) is is_nothing


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (TICK + "        no_such_name\n", "broken itself, not its rule: .*NameError"),
        ("    no_such_name\n" + TICK, "cannot run with mutant broken: NameError"),
    ],
)
def test_a_senseless_edit_is_not_caught(after: str, told: str) -> None:
    with pytest.raises(Broken, match=told):
        hunt(broken(TICK, after), 2, ENOUGH_S)


def living_members(group: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = (line.split(maxsplit=2) for line in listed.stdout.splitlines())
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


def test_one_that_hangs_survives_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(popen(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr("mutants.hunting.subprocess.Popen", noted)
    monkeypatch.setattr("mutants.hunting.GRACE_S", 0.0)
    found = hunt(broken(TICK, TICK + "        while True:\n            pass\n"), 2, 3.0)
    assert found.verdict == "SURVIVED 0 seeds, out of time"
    deadline = time.monotonic() + 10.0
    while living_members(started[0].pid):
        assert time.monotonic() < deadline, living_members(started[0].pid)
        time.sleep(0.01)


# -- the program ------------------------------------------------------------------------------


def exit_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mutants", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(program.main)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-mutant"], "no mutant is called no-such-mutant; --list names them"),
        (["--seeds", "0"], "--seeds"),
        (["--seeds", "many"], "--seeds"),
        (["--minutes", "0"], "--minutes"),
        (["--what"], "--what"),
    ],
)
def test_bad_input_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    assert exit_of(monkeypatch, *arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_one_that_does_not_apply_is_told_before_any_hunt(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "MUTANTS", (*MUTANTS, broken("no such line", "")))
    monkeypatch.setattr(program, "hunt", None)
    monkeypatch.setattr(program, "control_fails", None)
    assert exit_of(monkeypatch) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: mutant broken does not apply: kvstore/raft/core.py")


def test_a_simulator_that_fails_without_a_mutant_says_nothing_of_any(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hunting, "CONTROL", named(SOON_FOUND))
    assert exit_of(monkeypatch, "votes-twice") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: nothing can be said of any mutant: seed ")
    assert "fails without any mutant" in line


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        (hunting.Found(7, 1.0, "two leaders", seed=7), 0, "1 of 1 caught"),
        (hunting.Found(9, 1.0), 1, "0 of 1 caught"),
        (Broken("mutant votes-twice is broken itself"), 2, "0 of 1 caught"),
    ],
)
def test_the_exit_code_tells_what_came_of_it(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    found: hunting.Found | Broken,
    code: int,
    told: str,
) -> None:
    def hunted(*_: object) -> hunting.Found:
        if isinstance(found, Broken):
            raise found
        return found

    monkeypatch.setattr(program, "hunt", hunted)
    monkeypatch.setattr(program, "control_fails", lambda *_, **__: "")
    assert exit_of(monkeypatch, "votes-twice") == code
    output = capfd.readouterr()
    assert told in output.out
    assert ("error: mutant votes-twice is broken itself" in output.err) is (code == 2)
