"""``python -m walk``: hurt moves of replicas at each of their stages, and see how each ends."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import time
from pathlib import Path

import click
import uvloop

from chaos.shim import NoCompiler
from plain_cli import WholeNumber, run, until_terminated
from walk import table
from walk.walk import Unusable, walk


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAME", default="", help="Only cells whose name begins so.")
@click.option("--seed", type=WholeNumber(0), help="For how long who stays dead; else a fresh one.")
@click.option(
    "--report",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/walk"),
    show_default=True,
    help="Where logs and data of the nodes go; those of an earlier walk are replaced.",
)
def main(only: str, seed: int | None, directory: Path) -> None:
    """Move replicas, and kill, cut off or starve whoever has a part in it, stage by stage.

    The controller runs on the meta group's leader: both are called "steering" here.
    """
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    click.echo(f"seed {seed}, logs in {directory}")
    began = time.monotonic()
    try:
        results = uvloop.run(
            until_terminated(walk(directory.absolute(), seed, only=only, say=click.echo))
        )
    except (Unusable, NoCompiler) as refused:
        raise click.ClickException(str(refused)) from None
    except asyncio.CancelledError:
        raise click.Abort from None
    click.echo()
    click.echo(table.summary(results))
    failed = [result for result in results if not result.holds]
    click.echo(f"{len(results)} cells, {len(failed)} failed, {time.monotonic() - began:.0f} s")
    for result in failed:
        click.echo(f"again: python -m walk --only {result.name} --seed {seed}")
    if not failed:
        shutil.rmtree(directory)
    sys.exit(1 if failed or not results else 0)


if __name__ == "__main__":
    run(main)
