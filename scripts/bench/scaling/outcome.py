"""What a measurement comes to: a table for people, rows for programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from elasticity.table import markdown, plain

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement, done."""

    title: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]
    rows: list[dict[str, Any]]
    """For programs, one a line or with more in it."""
    notes: list[str] = field(default_factory=list)
    """What the table needs to be understood."""
    broken: list[str] = field(default_factory=list)
    """A sentence for each promise that was not kept."""

    def text(self, machine: str, *, is_markdown: bool = False) -> str:
        """To be printed; ``machine`` is a sentence about it, or nothing."""
        table = (markdown if is_markdown else plain)(self.header, self.lines)
        above = [self.title, *([machine] if machine else [])]
        return "\n".join([*above, "", *table, *(["", *self.notes] if self.notes else [])])

    def to_json(self, machine: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """To be kept, with the machine and what was asked for."""
        return {
            "format": 1,
            "title": self.title,
            "machine": dict(machine),
            "asked": dict(asked),
            "rows": self.rows,
            "broken": self.broken,
        }
