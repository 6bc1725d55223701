"""Runs the simulator on a mutant, and tells a caught one from one that proves nothing.

A violation counts only if the mutant broke its rule by what it did:

* An edit that makes no sense (a name that is not there, an attribute of the wrong thing) fails
  everywhere at once and would be "caught" by any program. So would one that upsets the
  simulator itself. Both are :class:`Broken`.
* The same seed must hold without the mutant, or it says nothing about it (:func:`control_fails`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mutants.catalogue import CONTROL
from mutants.planting import ROOT, plant

if TYPE_CHECKING:
    from mutants.catalogue import Mutant

TESTS = ROOT / "tests"
FIRST_SEED = 1
GRACE_S = 60.0
"""How much longer than its limit a run may take: the simulator ends by itself between seeds."""

_NONSENSE: Final = re.compile(
    r"^(n\d+ (fails|fails to start|stops by itself): )?"
    r"(NameError|UnboundLocalError|AttributeError|TypeError|ImportError|ModuleNotFoundError"
    r"|SyntaxError|IndentationError): "
)
"""No broken rule looks like that: Python cannot make sense of the edit."""

_OF_THE_SIMULATOR: Final = re.compile(
    r"^(KeyError|IndexError|StopIteration|RuntimeError|does not repeat itself)\b"
)
"""Without the name of a node in front it comes from the simulator's own bookkeeping."""


class Broken(Exception):
    """A mutant, or the simulator, is not what it should be. Says so in one line."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the simulator said of one mutant."""

    seeds: int
    seconds: float
    violation: str = ""
    """Empty if it survived."""
    seed: int = 0
    """The one that failed."""
    is_overdue: bool = False
    """It survived because the time was up."""

    @property
    def verdict(self) -> str:
        """For people."""
        if self.violation:
            return f"caught after {self.seeds} seeds"
        return f"SURVIVED {self.seeds} seeds" + (", out of time" if self.is_overdue else "")


def hunt(mutant: Mutant, seeds: int, limit_s: float, *, first: int = FIRST_SEED) -> Found:
    """Run the simulator on the mutant until a seed fails, all have passed or time is up.

    Raises:
        DoesNotApply: see :func:`mutants.planting.plant`.
        Broken: what failed says nothing about the rule.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plant(mutant, directory)
        facts = _simulate(mutant, directory, first, seeds, limit_s)
    seconds = time.monotonic() - began
    if facts is None:
        return Found(0, seconds, is_overdue=True)
    violation = facts["first_violation"]
    if not violation:
        return Found(facts["seeds"], seconds, is_overdue=facts["seeds"] < seeds)
    if mutant is not CONTROL and proves_nothing(violation):
        raise Broken(f"mutant {mutant.name} is broken itself, not its rule: {violation}")
    return Found(facts["seeds"], seconds, violation, seed=facts["violations"][0])


def control_fails(seeds: int, limit_s: float, *, first: int = FIRST_SEED) -> str:
    """Why these seeds say nothing about any mutant; empty if all hold without one."""
    found = hunt(CONTROL, seeds, limit_s, first=first)
    if found.violation:
        return f"seed {found.seed} fails without any mutant: {found.violation}"
    if not found.seeds:
        return f"no seed ends within {limit_s:g} s, without any mutant either"
    return ""


def proves_nothing(violation: str) -> bool:
    """Whether the text of a failure tells of a senseless edit rather than of a broken rule."""
    return bool(_NONSENSE.match(violation) or _OF_THE_SIMULATOR.match(violation))


def _simulate(
    mutant: Mutant, directory: Path, first: int, seeds: int, limit_s: float
) -> dict[str, Any] | None:
    """The simulator's report, None if a seed hangs beyond all limits."""
    report, errors = directory / "report.json", directory / "stderr"
    command = [sys.executable, "-m", "sim", "--first", str(first), "--seeds", str(seeds)]
    command += ["--minutes", str(limit_s / 60), "--json", str(report)]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": f"{directory}{os.pathsep}{TESTS}"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            process.wait(limit_s + GRACE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)
    if not report.exists():
        lines = errors.read_text(encoding="utf-8", errors="replace").splitlines() or ["no word"]
        raise Broken(f"the simulator cannot run with mutant {mutant.name}: {lines[-1]}")
    facts: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return facts


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the simulator with its workers, whatever they are at; its group is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
