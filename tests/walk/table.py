"""How the walk is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from walk.cell import Result

HEADER = f"{'cell':34} {'recovery':>8} {'pause':>7} {'checked':>8}  result"


def line(result: Result) -> str:
    """One cell, in one line."""
    found = result.found
    verdict = "ok" if result.holds else f"FAILED: {found.problems[0].splitlines()[0]}"
    return (
        f"{result.name:34} {found.recovery_s:7.1f}s {found.pause_s:6.2f}s {found.checked:8}  "
        f"{verdict}  [{result.told}]"
    )


def summary(results: Iterable[Result]) -> str:
    """A table of all, and all that went wrong."""
    rows = list(results)
    lines = [HEADER, *map(line, rows)]
    for result in rows:
        if not result.holds:
            lines += [f"{result.name}:", *(f"    {problem}" for problem in result.found.problems)]
    return "\n".join(lines)
