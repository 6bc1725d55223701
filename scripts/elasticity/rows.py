"""One row of the table: what was measured of one phase. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elasticity.ledger import Findings
from elasticity.samples import Summary


@dataclass(frozen=True, slots=True)
class Row:
    """One phase."""

    name: str
    is_planned: bool
    """Whether no caller may get an error."""
    seconds: float
    """Until the replicas rest."""
    leaders_s: float
    """Until each shard is led by whom the map prefers, too."""
    bytes_moved: int
    bytes_ideal: int
    others_cores: float
    """That other programs used before it: what they take, the cluster cannot have."""
    before: Summary
    starting: Summary
    """While a command starts processes, before anything moves; of no operations if it starts none.
    """
    during: Summary
    """Until the replicas rest."""
    settling: Summary
    """From then until the leaders do, too."""
    after: Summary
    findings: Findings
    wrong_reads: int
    """Gets that gave something else than they had to."""
    is_equal: bool | None
    """Whether the replicas are, as ``kv verify`` compares them; None if not all could be."""

    @property
    def pause_ms(self) -> float:
        """The longest that a write had to wait, and so the shard was without any."""
        return max(s.pause_ms for s in (self.starting, self.during, self.settling))

    @property
    def slowdown(self) -> float:
        """The 99th percentile while replicas moved, in that of the steady load around it.

        Of what was before and what is after the higher counts: more processes on the same cores
        are slower by themselves.
        """
        usual_ms = max(self.before.p99_ms, self.after.p99_ms)
        return self.during.p99_ms / usual_ms if usual_ms else 0.0

    @property
    def errors(self) -> dict[str, int]:
        """All that callers got, from its beginning to its end."""
        errors: dict[str, int] = {}
        for summary in (self.before, self.starting, self.during, self.settling, self.after):
            for name, count in summary.errors.items():
                errors[name] = errors.get(name, 0) + count
        return errors

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "phase": self.name,
            "is_planned": self.is_planned,
            "seconds": round(self.seconds, 3),
            "leaders_s": round(self.leaders_s, 3),
            "bytes_moved": self.bytes_moved,
            "bytes_ideal": self.bytes_ideal,
            "pause_ms": self.pause_ms,
            "slowdown": round(self.slowdown, 2),
            "others_cores": round(self.others_cores, 2),
            "before": self.before.to_json(),
            "starting": self.starting.to_json(),
            "during": self.during.to_json(),
            "settling": self.settling.to_json(),
            "after": self.after.to_json(),
            "findings": self.findings.to_json(),
            "wrong_reads": self.wrong_reads,
            "equal": self.is_equal,
        }
