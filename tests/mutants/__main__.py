"""``python -m mutants``: plant each bug in a copy of the code and see which seed finds it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click
from rich.console import Console
from rich.table import Table

from mutants.catalogue import MUTANTS, Mutant
from mutants.hunting import Broken, Found, control_fails, hunt
from mutants.planting import DoesNotApply, mutated
from plain_cli import MINUTES, WholeNumber, run

if TYPE_CHECKING:
    from types import FrameType

CONTROL_SEEDS = 50
VIOLATION_CHARS = 90


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--seeds", type=WholeNumber(1), default=2000, show_default=True)
@click.option(
    "--minutes",
    type=MINUTES,
    default=30.0,
    show_default=True,
    help="Give up on a mutant after so long.",
)
@click.option("--list", "only_list", is_flag=True, help="Name them and stop.")
def main(names: tuple[str, ...], seeds: int, minutes: float, only_list: bool) -> None:
    """Plant each of the known bugs, or those of NAMES, and see whether the simulator notices.

    First it must have nothing to say about the code as it is.
    """
    chosen = _chosen(names)
    if only_list:
        for mutant in chosen:
            click.echo(f"{mutant.name:<40} {mutant.rule}")
        return
    try:
        for mutant in chosen:
            mutated(mutant)
        _check_control(min(seeds, CONTROL_SEEDS), 60 * minutes)
    except (DoesNotApply, Broken) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(_hunt_all(chosen, seeds, 60 * minutes))


def _chosen(names: tuple[str, ...]) -> list[Mutant]:
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no mutant is called {unknown[0]}; --list names them")
    return [known[name] for name in dict.fromkeys(names)] or list(MUTANTS)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """So that the simulator, in a session of its own, is ended too."""
    sys.exit(128 + number)


def _check_control(seeds: int, limit_s: float) -> None:
    wrong = control_fails(seeds, limit_s)
    if wrong:
        raise Broken(f"nothing can be said of any mutant: {wrong}")
    click.echo("the code as it is holds: a seed that fails tells of a mutant", err=True)


def _hunt_all(chosen: list[Mutant], seeds: int, limit_s: float) -> int:
    """Hunt and print; the result is the exit code."""
    table = Table("mutant", "the rule that it breaks", "seeds", "what was noticed")
    caught = survived = 0
    broken: list[str] = []
    for number, mutant in enumerate(chosen, start=1):
        try:
            found = _hunt_fairly(mutant, seeds, limit_s)
        except Broken as error:
            broken.append(str(error))
            row, verdict = ("BROKEN", str(error)), "BROKEN"
        else:
            caught += bool(found.violation)
            survived += not found.violation
            row = (str(found.seeds) if found.violation else found.verdict, found.violation)
            verdict = f"{found.verdict}, {found.seconds:.0f} s"
        table.add_row(mutant.name, mutant.rule, row[0], row[1][:VIOLATION_CHARS])
        click.echo(f"{number:>2}/{len(chosen)} {mutant.name:<40} {verdict}", err=True)
    Console(width=180 if not sys.stdout.isatty() else None).print(table)
    click.echo(f"{caught} of {len(chosen)} caught")
    for line in broken:
        click.echo(f"error: {line}", err=True)
    return 2 if broken else 1 if survived else 0


def _hunt_fairly(mutant: Mutant, seeds: int, limit_s: float) -> Found:
    """Like :func:`hunt`; the seed that fails must hold without the mutant."""
    found = hunt(mutant, seeds, limit_s)
    wrong = found.violation and control_fails(1, limit_s, first=found.seed)
    if wrong:
        raise Broken(f"mutant {mutant.name} cannot be judged: {wrong}")
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    run(main)
