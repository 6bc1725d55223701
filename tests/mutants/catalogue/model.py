"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces ``before`` in ``file`` (under ``kvstore/``) by ``after``."""

    file: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """``rule`` is the one that is broken, with where it comes from."""

    name: str
    rule: str
    edits: tuple[Edit, ...]


def mutant(name: str, rule: str, *edits: tuple[str, str, str]) -> Mutant:
    """Each edit is a file, what stands in it exactly once, and what shall stand there."""
    return Mutant(name, rule, tuple(Edit(*edit) for edit in edits))
