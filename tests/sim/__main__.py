"""``python -m sim``: run seeds, on all cores, until one fails.

A seed that fails is run again with its trace on, and the trace's end is printed: who did
what, when. The same seed always gives the same run, so ``make sim SEED=n`` shows it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from plain_cli import MINUTES, WholeNumber, run
from sim.run import Result, run_seed, run_seed_twice_at_times

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT_SEEDS = Path(__file__).with_name("kept_seeds.txt")
TRACE_LINES = 60
FAILURES_SHOWN = 3
"""Of those the end of the trace is printed; of the rest one line."""
FRESH_SEEDS_FROM = 1 << 32


@dataclass
class Totals:
    """All seeds so far."""

    seeds: int = 0
    fresh: int = 0
    """Those that are no kept ones."""
    seconds: float = 0.0
    unscaled_s: float = 0.0
    """``seconds`` as they would be at the default timeouts; see :class:`sim.swarm.Swarm`."""
    five_node_s: float = 0.0
    """Of five nodes at the default timeouts, and what they took of one core."""
    five_node_cpu_s: float = 0.0
    events: int = 0
    calls: int = 0
    retries: int = 0
    elections: int = 0
    installs: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    failed: list[Result] = field(default_factory=list)
    elapsed_s: float = 0.0
    """Of real time."""

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.seconds += result.seconds
        swarm = result.swarm
        assert swarm is not None
        self.unscaled_s += result.seconds / swarm.time_scale
        if (swarm.nodes, swarm.time_scale) == (5, 1.0):
            self.five_node_s += result.seconds
            self.five_node_cpu_s += result.cpu_s
        self.events += result.events
        self.calls += result.calls
        self.retries += result.retries
        self.elections += result.elections
        self.installs += result.installs
        for name, number in result.faults.items():
            self.faults[name] = self.faults.get(name, 0) + number
        if result.failure:
            self.failed.append(result)


def _quiet() -> None:
    """What nodes log is noise here; the trace tells more."""
    logging.disable(logging.CRITICAL)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The same for this process, until the end."""
    before = logging.root.manager.disable
    _quiet()
    try:
        yield
    finally:
        logging.disable(before)


def run_seeds(seeds: Iterator[int], *, until: float, keep_going: bool) -> Iterator[Result]:
    """Results as they come, from one process a core; ends early at a failure or ``until``."""
    cores = os.cpu_count() or 1
    pool = ProcessPoolExecutor(cores, initializer=_quiet)
    running: set[Future[Result]] = set()
    try:
        while True:
            while len(running) < 2 * cores and time.monotonic() < until:
                seed = next(seeds, None)
                if seed is None:
                    break
                running.add(pool.submit(run_seed_twice_at_times, seed))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for result in sorted((future.result() for future in done), key=lambda r: r.seed):
                yield result
                if result.failure and not keep_going:
                    return
    except BrokenProcessPool as error:
        raise click.ClickException(
            "a process died while it ran one of the last seeds: no memory left, or killed?"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def show_failure(console: Console, result: Result, *, whole: bool = False) -> None:
    """Run the seed again with its trace, and print the end of it."""
    again = run_seed(result.seed, tracing=True)
    lines = again.trace if whole else again.trace[-TRACE_LINES:]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if again.failure != result.failure:
        text = f"seed {result.seed} does not repeat itself: {again.failure!r}"
        console.print(text, markup=False, style="bold red")
    console.print(f"\nseed {result.seed}: {result.failure}", markup=False, style="bold red")
    console.print(f"run it again, with its whole trace: make sim SEED={result.seed}", markup=False)


def summary(totals: Totals) -> str:
    """A few lines for people."""
    hours, unscaled = totals.seconds / 3600, totals.unscaled_s / 3600
    five = totals.five_node_s / totals.five_node_cpu_s if totals.five_node_cpu_s else 0.0
    faults = ", ".join(f"{number} {name}" for name, number in sorted(totals.faults.items()))
    return (
        f"{totals.seeds} seeds, {hours:.1f} simulated hours in {totals.elapsed_s:.0f} s "
        f"({totals.seeds / totals.elapsed_s:.1f} seeds/s): {totals.calls} calls, {totals.retries} "
        f"retries, {totals.elections} elections, {totals.installs} snapshots\n"
        f"some clusters are slow, timeouts and all; at the default ones that is {unscaled:.1f} "
        f"hours; {five:.0f} simulated seconds of five nodes a second of one core\n"
        f"{faults}"
    )


def kept_seeds() -> list[int]:
    """Seeds that once failed."""
    kept = []
    for number, line in enumerate(KEPT_SEEDS.read_text(encoding="utf-8").splitlines(), start=1):
        seed = line.partition("#")[0].strip()
        if seed and not seed.isdecimal():
            raise click.ClickException(f"{KEPT_SEEDS.name}:{number}: {seed!r} is no seed")
        kept += [int(seed)] if seed else []
    return kept


def _show_one(seed: int) -> NoReturn:
    """Its whole trace."""
    result = run_seed(seed, tracing=True)
    for line in result.trace:
        click.echo(line)
    click.echo(f"seed {seed}: {result.failure or 'holds'}")
    sys.exit(1 if result.failure else 0)


def _run_all(
    fresh: Iterator[int],
    kept: list[int],
    *,
    seeds: int | None,
    minutes: float | None,
    keep_going: bool,
) -> Totals:
    """The kept seeds, whatever time that takes, then the fresh ones, behind a bar of progress."""
    totals, began = Totals(), time.monotonic()
    total = None if seeds is None else seeds + len(kept)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    ) as progress:  # fmt: skip
        task = progress.add_task("seeds", total=total, figures="")
        for row in (iter(kept), fresh):
            bound_s = float("inf") if minutes is None or row is not fresh else 60 * minutes
            until = time.monotonic() + bound_s
            for result in run_seeds(row, until=until, keep_going=keep_going):
                totals.add(result)
                totals.fresh += row is fresh
                elapsed_s = time.monotonic() - began
                figures = f"{totals.seeds / elapsed_s:.1f}/s, {totals.seconds / 3600:.1f} sim. h"
                progress.update(task, advance=1, figures=figures)
            if totals.failed and not keep_going:
                break
    totals.elapsed_s = time.monotonic() - began
    return totals


def _write(file: TextIO, totals: Totals) -> None:
    facts = {name: value for name, value in vars(totals).items() if name != "failed"}
    facts |= {
        "violations": [failed.seed for failed in totals.failed],
        "first_violation": totals.failed[0].failure if totals.failed else "",
    }
    file.write(json.dumps(facts, indent=2) + "\n")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=WholeNumber(min=0), help="Run this one and print its whole trace.")
@click.option("--seeds", type=WholeNumber(min=1), help="How many to run.")
@click.option("--first", type=WholeNumber(min=0), help="The first seed; else fresh ones.")
@click.option("--minutes", type=MINUTES, help="Stop after so long.")
@click.option("--kept", is_flag=True, help="First the seeds that once failed.")
@click.option("--keep-going", is_flag=True, help="Do not stop at the first failure.")
@click.option("--json", "json_file", type=click.File("w", lazy=False), help="Write totals here.")
def main(
    seed: int | None,
    seeds: int | None,
    first: int | None,
    minutes: float | None,
    kept: bool,
    keep_going: bool,
    json_file: TextIO | None,
) -> None:
    """Run simulated clusters and check that they keep their promises."""
    with _silence():
        if seed is not None:
            _show_one(seed)
        if first is None:
            first = FRESH_SEEDS_FROM + int.from_bytes(os.urandom(4), "big")
        if seeds is None and minutes is None:
            seeds = 100
        fresh = count(first) if seeds is None else iter(range(first, first + seeds))
        totals = _run_all(
            fresh,
            kept_seeds() if kept else [],
            seeds=seeds,
            minutes=minutes,
            keep_going=keep_going,
        )
        for failed in totals.failed[:FAILURES_SHOWN]:
            show_failure(Console(), failed)
        for failed in totals.failed[FAILURES_SHOWN:]:
            click.echo(f"seed {failed.seed}: {failed.failure}")
    click.echo(f"seeds {first} on: {summary(totals)}")
    click.echo(f"{len(totals.failed)} violations")
    if json_file is not None:
        _write(json_file, totals)
    if totals.fresh == 0 and not totals.failed:
        raise click.ClickException("no fresh seed was run: more time is needed")
    sys.exit(1 if totals.failed else 0)


if __name__ == "__main__":
    run(main)
