"""Measures what moving replicas costs: `python scripts/elastic.py`.

A fresh cluster of real processes grows from three nodes to five and shrinks again, is restarted
node by node, loses one and replaces it, while a client puts and gets at a steady pace. After
each phase everything is read back and all replicas are compared. Besides: how even the load is,
and how fast placement is computed.

Run it on a quiet machine. It ends with code 1, and a line that says why, if a promise was broken,
and shows no figure of a phase that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from elasticity.balance import balance_of, founded_balance, placement_s
from elasticity.driver import running_load
from elasticity.phases import PHASES, measure
from elasticity.stage import staged
from elasticity.table import (
    HEADER,
    Outcome,
    broken_bounds,
    broken_figures,
    broken_rows,
    cells,
    figures,
    markdown,
    notes,
    plain,
)

from kvstore.errors import KVError

if TYPE_CHECKING:
    from elasticity.balance import Balance
    from elasticity.rows import Row

KEYS = 200_000
SHARDS = 8
"""Of a cluster that is meant to grow: each of five nodes leads at least one."""
RATE = 500.0
"""Operations a second: two cores that carry five nodes and the load have some room left with them.
At 1,000 there is none, and whatever else runs adds to every wait."""
STEADY_S = 8.0
AFTER_FILL_S = 5.0
"""The engines have put away by then what came all at once."""


async def measure_all(options: argparse.Namespace) -> Outcome:
    """Everything; tells on stderr how far it is.

    Raises:
        KVError: something could not be measured; or a phase has broken a promise, so that those
            after it would say nothing.
    """
    took_s = placement_s()
    rows, own = await _measure_phases(options)
    tell("five nodes with 64 shards")
    return Outcome(tuple(rows), own, await founded_balance(options.keys), took_s)


async def _measure_phases(options: argparse.Namespace) -> tuple[list[Row], Balance]:
    rows: list[Row] = []
    async with (
        staged(3, options.shards) as stage,
        running_load(stage.endpoints, options.keys, options.rate) as load,
    ):
        filled = await load.ask("fill")
        tell(f"{options.keys:,} keys written in {filled['seconds']:.1f} s")
        await asyncio.sleep(AFTER_FILL_S)
        for phase in PHASES:
            tell(phase.name)
            rows.append(await measure(stage, load, phase, options.seconds))
            if broken := broken_rows(rows[-1:]):
                raise KVError("; ".join(broken))
        return rows, await balance_of(stage)


def tell(text: str) -> None:
    """How far it is, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def show(outcome: Outcome, options: argparse.Namespace) -> None:
    """The table, and what belongs to it."""
    lines = [cells(row) for row in outcome.rows]
    layout = markdown if options.markdown else plain
    said = [
        f"{options.keys:,} keys of 256 B, {options.shards} shards, {options.rate:g} operations/s"
    ]
    said += ["", *layout(HEADER, lines), "", *notes(outcome.rows), "", *figures(outcome)]
    print("\n".join(said), flush=True)


async def _run(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    outcome = await measure_all(options)
    show(outcome, options)
    if options.json is not None:
        options.json.write_text(json.dumps(outcome.to_json(), indent=1) + "\n")
    broken = broken_bounds(outcome.rows) + broken_figures(outcome)
    for sentence in broken:
        sys.stderr.write(f"broken: {sentence}\n")
    return 1 if broken else 0


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--rate", type=float, default=RATE, help="operations a second")
    parser.add_argument(
        "--seconds", type=float, default=STEADY_S, help="steady load before and after each phase"
    )
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was measured")
    parser.add_argument("--markdown", action="store_true", help="the table for a README")
    try:
        return uvloop.run(_run(parser.parse_args()))
    except KVError as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("stopped\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
