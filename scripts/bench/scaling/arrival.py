"""When a replica came to a new node, out of looks at how far it was. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvstore.errors import KVError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SNAPSHOT: Final = "snapshot"
BEST_OF_S: Final = 2.0


class Sample(NamedTuple):
    """One look, so many seconds after the order."""

    at_s: float
    stage: str
    """Of :class:`kvstore.cli.movement.Movement`; empty if nothing moves."""
    bytes_sent: int
    """As acknowledged."""
    bytes_total: int
    is_member: bool = False
    """Whether the newcomer has its place."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One snapshot's way."""

    size_bytes: int
    sent_s: float
    """From the last look at which nothing had been sent to the first at which all had."""
    in_force_s: float
    """From the order, until it was put in force."""
    member_s: float
    """Until the newcomer had its place."""
    best_bytes_per_s: float
    """Over the quickest ``BEST_OF_S`` of it, or all of it."""

    @property
    def bytes_per_s(self) -> float:
        """While it was sent."""
        return self.size_bytes / self.sent_s

    def to_json(self) -> dict[str, Any]:
        """For the file."""
        return {**asdict(self), "bytes_per_s": self.bytes_per_s}


def arrival_of(samples: Sequence[Sample]) -> Arrival:
    """Of looks in their order, the last of which saw that the newcomer has its place.

    Raises:
        KVError: no look saw a snapshot under way.
    """
    sending = [s for s in samples if s.stage == SNAPSHOT and s.bytes_sent > 0]
    if not sending:
        raise KVError("the replica came without a snapshot, or too quickly to be seen")
    begins = max((s.at_s for s in samples if s.at_s < sending[0].at_s), default=0.0)
    size_bytes = sending[-1].bytes_total
    all_sent = [s for s in sending if s.bytes_sent >= size_bytes]
    past = [s for s in samples if s.at_s > sending[-1].at_s]
    whole_s = (all_sent or past)[0].at_s - begins
    return Arrival(
        size_bytes,
        sent_s=whole_s,
        in_force_s=past[0].at_s,
        member_s=samples[-1].at_s,
        best_bytes_per_s=max(_rates(sending), default=size_bytes / whole_s),
    )


def _rates(sending: Sequence[Sample]) -> Iterator[float]:
    """Over each stretch that is just long enough."""
    later = iter(sending)
    end = next(later)
    for begin in sending:
        while end.at_s - begin.at_s < BEST_OF_S:
            if (following := next(later, None)) is None:
                return
            end = following
        yield (end.bytes_sent - begin.bytes_sent) / (end.at_s - begin.at_s)
