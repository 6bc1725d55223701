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
    """Invariant: of each member only the claims of the precedence that was added last.

    Those are one, or, of a suspect, one by each accuser: to hear of several is what makes its
    time shorter, so that they must not push each other out.
    """

    def __init__(self, mult: int) -> None:
        self._mult = mult
        self._queue: dict[tuple[NodeId, NodeId | None], tuple[Claim, int]] = {}
        """By member and accuser, each with how often it was sent; the newest stands last."""
        self._keys: dict[NodeId, list[tuple[NodeId, NodeId | None]]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Send ``claim``, and no longer what it outdoes."""
        key = claim.node, claim.accuser
        for other in list(self._keys.get(claim.node, ())):
            if other == key or self._queue[other][0].precedence != claim.precedence:
                self._remove(other)
        self._queue[key] = claim, 0
        self._keys.setdefault(claim.node, []).append(key)

    def _remove(self, key: tuple[NodeId, NodeId | None]) -> None:
        node, _ = key
        del self._queue[key]
        self._keys[node].remove(key)
        if not self._keys[node]:
            del self._keys[node]

    def discard(self, node: NodeId) -> None:
        """Nothing more is to be said of ``node``."""
        for key in list(self._keys.get(node, ())):
            self._remove(key)

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
            if claim != first:
                taken.append(claim)
            if sent + 1 >= limit:
                self._remove((claim.node, claim.accuser))
            else:
                self._queue[claim.node, claim.accuser] = claim, sent + 1
        return tuple(taken)
