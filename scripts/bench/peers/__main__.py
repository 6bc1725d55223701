"""Compares the store with others: ``make bench-peers``, or ``python -m bench.peers``.

The same loads, store after store, in rounds. It ends with code 1 if a load has failed, of which
then no figure is shown; if a bar is not held; or if there is nothing to compare with.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from elasticity.table import markdown, plain

from bench import machine
from bench.peers.bars import BARS, CELLS, Verdict
from bench.peers.options import OTHERS, chosen, options
from bench.peers.rounds import measure_all, tell
from bench.peers.table import report
from bench.program import exit_code_of

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from bench.peers.results import Results
    from bench.peers.store import Peer


async def run(asked: Namespace, others: Sequence[Peer] = OTHERS) -> int:
    """Measure, print, keep; the program's exit code."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    peers = chosen(asked.only, others, tell)
    results = await measure_all(peers, CELLS, asked.rounds, asked.seconds, asked.warm_up)
    verdicts = [bar.verdict(results) for bar in BARS]
    layout = markdown if asked.markdown else plain
    print(f"{asked.rounds} rounds of {asked.seconds:g} s a load; keys of 16 B, values of 256 B")
    print(machine.sentence(results.machine[-1]), end="\n\n")
    print("\n".join(report(results, CELLS, peers, verdicts, layout)), flush=True)
    keep(asked, peers, results, verdicts)
    return exit_code(results, verdicts)


def exit_code(results: Results, verdicts: Sequence[Verdict]) -> int:
    """1 if anything is not as it should be; says what."""
    wrong = [f"{name}, {cell.name}: {why}" for (name, cell), why in results.failures.items()]
    wrong += [f"not held: {v.bar.text}" for v in verdicts if v.is_held is False]
    for sentence in wrong:
        tell(f"failed: {sentence}")
    return 1 if wrong else 0


def keep(
    asked: Namespace, peers: Sequence[Peer], results: Results, verdicts: Sequence[Verdict]
) -> None:
    """Write all that was measured to a file."""
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "peers.json"
    path.write_text(json.dumps(everything(asked, peers, results, verdicts), indent=1) + "\n")
    tell(f"written: {path}")


def everything(
    asked: Namespace, peers: Sequence[Peer], results: Results, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """For programs."""
    return {
        "machine": results.machine,
        "rounds": asked.rounds,
        "seconds": asked.seconds,
        "stores": {peer.name: peer.note for peer in peers},
        "cells": [
            {
                "cell": asdict(cell),
                "runs": {
                    peer.name: [one.to_json() for one in results.runs(peer.name, cell)]
                    for peer in peers
                },
            }
            for cell in CELLS
        ],
        "bars": [verdict.to_json() for verdict in verdicts],
        "failures": [f"{n}, {cell.name}: {why}" for (n, cell), why in results.failures.items()],
    }


def main() -> int:
    """Compare what is asked for."""
    return exit_code_of(run(options()))


if __name__ == "__main__":
    sys.exit(main())
