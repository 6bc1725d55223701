"""``python -m mutants``: plant each bug in a copy of the code and see which seed finds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from mutants.catalogue import MUTANTS, Mutant
from plain_cli import run

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FIRST_SEED = 1


class DoesNotApply(Exception):
    """The text that a mutant replaces does not stand in its file exactly once."""


@dataclass(frozen=True)
class Found:
    """What the simulator said of one mutant."""

    seeds: int
    seconds: float
    violation: str
    """Empty if it survived."""


def plant(mutant: Mutant, directory: Path) -> None:
    """Copy the code into ``directory`` with one rule broken.

    Raises:
        DoesNotApply: the code has changed since the mutant was written.
    """
    shutil.copytree(
        ROOT / "kvstore", directory / "kvstore", ignore=shutil.ignore_patterns("__pycache__")
    )
    for edit in mutant.edits:
        path = directory / "kvstore" / edit.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(edit.before) != 1:
            raise DoesNotApply(
                f"mutant {mutant.name} does not apply: kvstore/{edit.file} holds its text "
                f"{text.count(edit.before)} times, not once"
            )
        path.write_text(text.replace(edit.before, edit.after), encoding="utf-8")


def hunt(mutant: Mutant, seeds: int) -> Found:
    """Run the simulator on the mutant until a seed fails or all have passed.

    Raises:
        DoesNotApply: see :func:`plant`.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plant(mutant, directory)
        report = directory / "report.json"
        command = [sys.executable, "-m", "sim", "--first", str(FIRST_SEED), "--seeds", str(seeds)]
        environment = os.environ | {"PYTHONPATH": f"{directory}{os.pathsep}{TESTS}"}
        done = subprocess.run(
            [*command, "--json", str(report)],
            cwd=directory,
            env=environment,
            capture_output=True,
            check=False,
        )
        if not report.exists():
            raise DoesNotApply(f"mutant {mutant.name} cannot run: {done.stderr.decode()[-300:]}")
        facts = json.loads(report.read_text(encoding="utf-8"))
    violation = facts["first_violation"]
    return Found(facts["seeds"], time.monotonic() - began, violation)


def _row(mutant: Mutant, found: Found) -> tuple[str, ...]:
    if not found.violation:
        return mutant.name, mutant.rule, f"SURVIVED {found.seeds}", ""
    return mutant.name, mutant.rule, str(found.seeds), found.violation[:90]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--seeds", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--list", "only_list", is_flag=True, help="Name them and stop.")
def main(names: tuple[str, ...], seeds: int, only_list: bool) -> None:
    """Plant each of the known bugs, or those of NAMES, and see whether the simulator notices."""
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no mutant is called {unknown[0]}; --list names them")
    chosen = [known[name] for name in names] or list(MUTANTS)
    if only_list:
        for mutant in chosen:
            click.echo(f"{mutant.name:<40} {mutant.rule}")
        return
    table = Table("mutant", "the rule that it breaks", "seeds", "what was noticed")
    survivors = 0
    for number, mutant in enumerate(chosen, start=1):
        try:
            found = hunt(mutant, seeds)
        except DoesNotApply as error:
            click.echo(str(error), err=True)
            sys.exit(2)
        survivors += not found.violation
        table.add_row(*_row(mutant, found))
        state = f"caught after {found.seeds}" if found.violation else f"SURVIVED {found.seeds}"
        click.echo(
            f"{number:>2}/{len(chosen)} {mutant.name:<40} {state} seeds, {found.seconds:.0f} s",
            err=True,
        )
    Console(width=180 if not sys.stdout.isatty() else None).print(table)
    click.echo(f"{len(chosen) - survivors} of {len(chosen)} caught")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    run(main)
