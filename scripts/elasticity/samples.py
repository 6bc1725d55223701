"""How long operations took, and what that comes to. Pure.

The load is open: operations are due at a steady pace whatever becomes of earlier ones, and each
one's time runs from when it was due (so nothing is hidden by waiting: Tene's "coordinated
omission"). That counts the moments in which the client itself was late, too: they are told apart.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Sample(NamedTuple):
    """One operation that has ended. Seconds; ``due`` by the clock that all processes share."""

    due: float
    late_s: float
    """From when it was due until the client began with it."""
    took_s: float
    """From when it was due until it had ended."""
    shard: int
    is_write: bool
    error: str = ""
    """The name of what the caller got instead of an answer."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the operations that were due within some time. Milliseconds."""

    operations: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    pause_ms: float
    """The longest time that any write, and so its shard, had to wait."""
    pauses_ms: dict[int, float]
    """The same by shard."""
    late_p99_ms: float
    late_max_ms: float
    """How late the client itself was: so much of the above may be its own."""
    errors: dict[str, int]

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Summary:
        """The inverse of :meth:`to_json`."""
        pauses = {int(shard): pause for shard, pause in said["pauses_ms"].items()}
        return cls(**{**said, "pauses_ms": pauses})

    def to_json(self) -> dict[str, Any]:
        """For the file and for the pipe."""
        return asdict(self)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest that at least ``percent`` of all do not exceed; 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summarise(samples: Iterable[Sample]) -> Summary:
    """What they come to. A failed one has its time, too: so long did its caller wait."""
    kept = list(samples)
    took = sorted(1000 * sample.took_s for sample in kept)
    late = sorted(1000 * sample.late_s for sample in kept)
    pauses: dict[int, float] = {}
    for sample in kept:
        if sample.is_write:
            took_ms = round(1000 * sample.took_s, 3)
            pauses[sample.shard] = max(pauses.get(sample.shard, 0.0), took_ms)
    return Summary(
        operations=len(kept),
        p50_ms=round(percentile(took, 50), 3),
        p99_ms=round(percentile(took, 99), 3),
        max_ms=round(percentile(took, 100), 3),
        pause_ms=max(pauses.values(), default=0.0),
        pauses_ms=pauses,
        late_p99_ms=round(percentile(late, 99), 3),
        late_max_ms=round(percentile(late, 100), 3),
        errors=dict(Counter(sample.error for sample in kept if sample.error)),
    )
