"""How long operations took: counts by time, each bucket about 1 % wide.

The idea of HdrHistogram (Tene): relative precision at any size, mergeable, and no list of samples
that grows with the run.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROWTH: Final = 1.01
"""Upper over lower bound of a bucket."""
UNIT_S: Final = 1e-6
_LOG_GROWTH = math.log(GROWTH)


class Histogram:
    """Invariant: ``counts[b]`` samples took between ``UNIT_S * GROWTH**(b ± 1/2)``."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def add(self, seconds: float) -> None:
        """One operation."""
        self.counts[bucket_of(seconds)] += 1

    def add_all(self, seconds: Iterable[float]) -> None:
        """Many of them."""
        self.counts.update(map(bucket_of, seconds))

    def merge(self, other: Histogram) -> None:
        """Add what another has counted."""
        self.counts.update(other.counts)

    @property
    def count(self) -> int:
        """Samples in all."""
        return self.counts.total()

    def percentile_s(self, percent: float) -> float:
        """The time in seconds that so many percent did not exceed; 0 without samples."""
        wanted, seen = math.ceil(self.count * percent / 100), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return time_of(bucket)
        return 0.0

    def to_json(self) -> dict[str, int]:
        """Counts by bucket."""
        return {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)}

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Histogram:
        """Read what :meth:`to_json` gave."""
        return cls({int(bucket): count for bucket, count in counts.items()})


def bucket_of(seconds: float) -> int:
    """The bucket of a time; what is below a microsecond counts as one."""
    return round(math.log(max(seconds, UNIT_S) / UNIT_S) / _LOG_GROWTH)


def time_of(bucket: int) -> float:
    """The middle of a bucket, in seconds."""
    return UNIT_S * GROWTH**bucket
