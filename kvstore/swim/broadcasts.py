"""News on its way: which claims go into the next message (SWIM sections 4.1 and 5).

What was sent least goes first; each claim is sent a number of times that grows with the
logarithm of the cluster, which is how an epidemic reaches everybody with high probability.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvstore.swim.messages import CLAIMS_MAX

if TYPE_CHECKING:
    from kvstore.ids import NodeId
    from kvstore.swim.claims import Claim


def retransmits(mult: int, members: int) -> int:
    """How often each member sends a piece of news in a cluster of so many."""
    return mult * math.ceil(math.log10(members + 1))


class Broadcasts:
    """Invariant: at most one claim a member, the last that was added."""

    def __init__(self, mult: int) -> None:
        self._mult = mult
        self._queue: dict[NodeId, tuple[Claim, int]] = {}
        """Each with how often it was sent; the newest stands last."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Send ``claim``, and no longer what was said of that member before."""
        self._queue.pop(claim.node, None)
        self._queue[claim.node] = claim, 0

    def discard(self, node: NodeId) -> None:
        """Nothing more is to be said of ``node``."""
        self._queue.pop(node, None)

    def take(self, bytes_max: int, members: int, first: Claim | None = None) -> tuple[Claim, ...]:
        """The claims for one message of at most ``bytes_max``, ``first`` before all others.

        There are at most ``CLAIMS_MAX``.
        """
        taken = [] if first is None else [first]
        left = bytes_max - sum(claim.size_bytes for claim in taken)
        limit = retransmits(self._mult, members)
        newest_first = reversed(list(self._queue.values()))
        for claim, sent in sorted(newest_first, key=lambda queued: queued[1]):
            if len(taken) == CLAIMS_MAX:
                break
            if claim.size_bytes > left:
                continue
            left -= claim.size_bytes
            if first is None or claim.node != first.node:
                taken.append(claim)
            if sent + 1 >= limit:
                del self._queue[claim.node]
            else:
                self._queue[claim.node] = claim, sent + 1
        return tuple(taken)
