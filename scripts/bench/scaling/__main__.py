"""Measures how the store scales: ``python -m bench.scaling SUBJECT``.

Each subject starts what it needs and ends it. An operation that fails ends it all, with code 1 and
no table; so does a promise that is not kept, below its table.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

from bench import machine
from bench.program import exit_code_of
from bench.scaling.options import how, options
from bench.worker import open_more_files

if TYPE_CHECKING:
    from argparse import Namespace


async def _run(asked: Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    asked.out.mkdir(parents=True, exist_ok=True)  # what cannot be shall be known before, not after
    facts = {} if asked.subject == "model" else await machine.facts()
    outcome = await asked.measure(asked)
    said = machine.sentence(facts) if facts else ""
    print(outcome.text(said, is_markdown=asked.markdown), flush=True)
    file = asked.out / f"scaling-{asked.subject}.json"
    file.write_text(json.dumps(outcome.to_json(facts, how(asked)), indent=1) + "\n", "utf-8")
    print(f"\nwritten: {file}", file=sys.stderr)
    for sentence in outcome.broken:
        sys.stderr.write(f"not kept: {sentence}\n")
    return 1 if outcome.broken else 0


def main() -> int:
    """Measure what is asked for."""
    open_more_files()  # what is started inherits it
    return exit_code_of(_run(options()))


if __name__ == "__main__":
    sys.exit(main())
