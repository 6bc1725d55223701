"""Measures how fast the store is and what that costs: ``make bench``, or ``python -m bench``.

A fresh cluster with default settings is started for every run and value size, filled, and loaded
by one process. A load of which any operation fails ends it all, with code 1 and no table.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from elasticity.table import markdown, plain

from bench import machine
from bench.measure import measure_all
from bench.options import options, plan_of
from bench.program import exit_code_of
from bench.report import write
from bench.table import HEADER, line, notes, title

if TYPE_CHECKING:
    from argparse import Namespace


async def _run(asked: Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    asked.out.mkdir(parents=True, exist_ok=True)  # what cannot be shall be known before, not after
    plan = plan_of(asked)
    facts = await machine.facts()
    measured = await measure_all(plan)
    table = (markdown if asked.markdown else plain)(HEADER, [line(each) for each in measured])
    said = [title(plan), machine.sentence(facts), "", *table, "", *notes(measured)]
    print("\n".join(said), flush=True)
    files = write(asked.out, facts, plan, measured)
    print(f"\nwritten: {', '.join(map(str, files))}", file=sys.stderr)
    return 0


def main() -> int:
    """Measure what is asked for."""
    return exit_code_of(_run(options()))


if __name__ == "__main__":
    sys.exit(main())
