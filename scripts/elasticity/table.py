"""What is printed, and what must hold. Pure."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from elasticity.balance import Balance
from elasticity.phases import REPLACE_AFTER_S
from elasticity.rows import Row
from kvstore.cli.movement import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from elasticity.samples import Summary


HEADER = (
    *(
        "phase",
        "s",
        "leaders s",
        "moved",
        "ideal",
        "pause ms",
        "p99 before",
        "start",
        "during",
        "times",
        "after",
    ),
    *("errors", "lost", "twice", "replicas"),
)
RATIO_MAX = 1.1
SLOWDOWN_MAX = 2.0
MOVED_MAX = 1.5
PLACEMENT_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was measured."""

    rows: tuple[Row, ...]
    own: Balance
    """Of the cluster of the rows, at its end."""
    founded: Balance
    """Of five nodes with 64 shards."""
    placement_s: float

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "phases": [row.to_json() for row in self.rows],
            "balance": [self.own.to_json(), self.founded.to_json()],
            "placement_s": round(self.placement_s, 3),
            "broken": [
                *broken_rows(self.rows),
                *broken_bounds(self.rows),
                *broken_figures(self),
            ],
        }


def cells(row: Row) -> tuple[str, ...]:
    """One phase, as :data:`HEADER` names them."""
    errors = sum(row.errors.values())
    return (
        row.name,
        f"{row.seconds:.1f}",
        f"{row.leaders_s:.1f}",
        size(row.bytes_moved),
        size(row.bytes_ideal),
        f"{row.pause_ms:.0f}",
        *map(_p99, (row.before, row.starting, row.during)),
        f"{row.slowdown:.1f}",
        _p99(row.after),
        f"{errors}" if row.is_planned else f"{errors} (not planned)",
        str(row.findings.lost),
        str(row.findings.duplicated),
        "equal" if row.is_equal else "not compared" if row.is_equal is None else "differ",
    )


def _p99(summary: Summary) -> str:
    return f"{summary.p99_ms:.1f}" if summary.operations else "-"


def plain(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Aligned by spaces: the first column to the left, all others to the right."""
    table = [header, *lines]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [
                _pad(line[0], widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in table
    ]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """As GitHub shows tables."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]


def _width(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def notes(rows: Iterable[Row]) -> list[str]:
    """What the table needs to be understood."""
    kept = list(rows)
    late_ms = max(s.late_p99_ms for row in kept for s in (row.before, row.during, row.after))
    worst_ms = max(s.late_max_ms for row in kept for s in (row.before, row.during, row.after))
    others = [row.others_cores for row in kept]
    keys = {row.findings.keys for row in kept}
    return [
        "s: from the command (or the kill) until the replicas are at rest; leaders s: until each "
        "shard is led by whom it should be.",
        "pause: the longest that any write to any shard waited, until the leaders are at rest.",
        "p99 in ms, of puts and gets, from when each was due; start: while the command starts "
        "processes on the same cores; during: from then until the replicas are at rest; times: by "
        "how much that is more than the higher of before and after.",
        f"The load itself was late by {late_ms:.1f} ms (p99 of its worst stretch), at most "
        f"{worst_ms:.1f} ms; the times above contain that.",
        f"Other programs used {min(others):.1f} to {max(others):.1f} cores of {os.cpu_count()} "
        "meanwhile.",
        f"Default settings, but for replace_after_s = {REPLACE_AFTER_S:g} in the last phases "
        "(default 60), which the restart brings in force.",
        f"Read back after each phase: {' and '.join(f'{n:,}' for n in sorted(keys))} keys; "
        f"gets with a wrong answer meanwhile: {sum(row.wrong_reads for row in kept)}.",
    ]


def figures(outcome: Outcome) -> list[str]:
    """The lines below the table."""
    lines = []
    for balance in (outcome.own, outcome.founded):
        held = "; ".join(
            f"{node} {keys:,} keys, {size(balance.bytes[node])}"
            for node, keys in balance.keys.items()
        )
        lines.append(
            f"balance, {balance.shards} shards on {len(balance.keys)} nodes: max/mean "
            f"{balance.keys_ratio:.3f} of keys, {balance.bytes_ratio:.3f} of bytes ({held})"
        )
    lines.append(
        f"placement of 10,000 shards on 1,000 nodes: {outcome.placement_s:.2f} s of one core"
    )
    return lines


def broken_rows(rows: Iterable[Row]) -> list[str]:
    """A sentence for each promise that a phase has broken."""
    said = []
    for row in rows:
        findings = row.findings
        if row.is_planned and row.errors:
            named = ", ".join(f"{count} {name}" for name, count in row.errors.items())
            said.append(f"{row.name}: callers got errors: {named}")
        for count, what in (
            (findings.lost, "keys lost"),
            (findings.duplicated, "keys twice in a scan"),
            (findings.foreign, "keys or values that nobody wrote"),
            (row.wrong_reads, "gets with a wrong answer"),
        ):
            if count:
                said.append(f"{row.name}: {count} {what}")
        if row.is_equal is None:
            said.append(f"{row.name}: not all replicas could be compared")
        elif not row.is_equal:
            said.append(f"{row.name}: replicas differ")
    return said


def broken_bounds(rows: Iterable[Row]) -> list[str]:
    """A sentence for each bound that a phase has not kept, though nothing is wrong by that.

    Processes that start take what they need; what moves has to leave room.
    """
    said = []
    for row in rows:
        if row.is_planned and row.bytes_moved and row.slowdown > SLOWDOWN_MAX:
            said.append(
                f"{row.name}: p99 was {row.slowdown:.1f} times its usual value, over "
                f"{SLOWDOWN_MAX:g}"
            )
        if row.bytes_moved > MOVED_MAX * row.bytes_ideal:
            said.append(
                f"{row.name}: {size(row.bytes_moved)} moved, over {MOVED_MAX:g} times the ideal"
            )
    return said


def broken_figures(outcome: Outcome) -> list[str]:
    """Likewise for the figures beside the table."""
    founded, said = outcome.founded, []
    for what, ratio in (("keys", founded.keys_ratio), ("bytes", founded.bytes_ratio)):
        if ratio > RATIO_MAX:
            said.append(f"{founded.shards} shards: max/mean of {what} {ratio:.3f} > {RATIO_MAX}")
    if outcome.placement_s >= PLACEMENT_S_MAX:
        said.append(f"placement took {outcome.placement_s:.2f} s, not under {PLACEMENT_S_MAX:g} s")
    return said
