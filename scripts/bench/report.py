"""What is kept of a bench: one JSON file with everything, and pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench.plots import pictures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.measure import Plan
    from bench.summary import Measured

FORMAT = 1


def report(
    machine: dict[str, Any], plan: Plan, measured: Sequence[Measured], at: datetime
) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    how = asdict(plan)
    del how["cells"]
    return {
        "format": FORMAT,
        "at": at.isoformat(timespec="seconds"),
        "machine": machine,
        "plan": how,
        "cells": [
            {
                "cell": asdict(each.cell),
                "keys": plan.keys_of(each.cell.value_bytes),
                **each.to_json(),
                "runs": [run.to_json() for run in each.runs],
            }
            for each in measured
        ],
    }


def write(
    directory: Path, machine: dict[str, Any], plan: Plan, measured: Sequence[Measured]
) -> list[Path]:
    """Put it into a directory that is there; the files."""
    everything = report(machine, plan, measured, datetime.now(UTC))
    texts = {"bench.json": json.dumps(everything, indent=1) + "\n", **pictures(measured)}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]
