"""How long to wait before the next attempt.

Pure: the caller gives the randomness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.net.backoff import Backoff

if TYPE_CHECKING:
    import random

BACKOFF_BASE_S = 0.005
BACKOFF_CAP_S = 0.25
SEEK_DELAY_S_MIN = 0.005
SEEK_DELAY_S_MAX = 0.025


def refusal_backoff(rng: random.Random) -> Backoff:
    """The waits of one sequence of attempts at a node that refuses or fails."""
    return Backoff(BACKOFF_BASE_S, BACKOFF_CAP_S, rng)


def seek_delay_s(rng: random.Random) -> float:
    """The pause between two rounds of asking a shard's replicas who leads.

    It does not grow: an election takes tens of milliseconds, only one request per shard
    seeks at a time, and every doubling would be added to the failover.
    """
    return rng.uniform(SEEK_DELAY_S_MIN, SEEK_DELAY_S_MAX)
