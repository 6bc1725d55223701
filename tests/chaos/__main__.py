"""``python -m chaos``: hurt a real cluster under load, and see whether its promises hold."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

import click
import uvloop

from chaos import report
from chaos.cluster import DidNotStart
from chaos.run import Unusable, run_chaos
from plain_cli import MINUTES, WholeNumber, run, until_terminated


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=MINUTES, default=2.0, show_default=True)
@click.option("--kills", type=WholeNumber(1), help="Stop earlier, after so many kills.")
@click.option("--seed", type=WholeNumber(0), help="Which faults, on whom; else a fresh one.")
@click.option("--nodes", type=WholeNumber(3, 9), default=5, show_default=True)
@click.option("--clients", type=WholeNumber(1, 64), default=8, show_default=True)
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/chaos"),
    show_default=True,
    help="Where the report goes; one of an earlier run is replaced.",
)
def main(
    minutes: float, kills: int | None, seed: int | None, nodes: int, clients: int, directory: Path
) -> None:
    """Start a cluster of processes, load it, hurt it, and check what it has promised."""
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    click.echo(f"seed {seed}, {minutes:g} minutes, report in {directory}")
    began = time.monotonic()
    try:
        made = uvloop.run(
            until_terminated(
                run_chaos(
                    directory.absolute(),
                    seed=seed,
                    seconds=60 * minutes,
                    kills=kills,
                    nodes=nodes,
                    clients=clients,
                    say=click.echo,
                )
            )
        )
    except Unusable as refused:
        raise click.BadParameter(str(refused), param_hint="--report") from None
    except DidNotStart as failure:
        click.echo(f"error: the cluster did not start: {failure}", err=True)
        sys.exit(1)
    except asyncio.CancelledError:
        raise click.Abort from None
    told = report.facts(made)
    click.echo()
    click.echo(report.in_words(told))
    try:
        report.write(directory, made, told)
    except OSError as error:
        click.echo(f"error: the report could not be written: {error}", err=True)
        sys.exit(1)
    click.echo(f"{time.monotonic() - began:.0f} s in all; in {directory}: report.md, report.json,")
    click.echo("latency.svg, history.jsonl, and of each node its log and data.")
    sys.exit(1 if told["problems"] else 0)


if __name__ == "__main__":
    run(main)
