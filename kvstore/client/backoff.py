"""How long to wait before the next attempt.

Pure: the caller gives the randomness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

BACKOFF_BASE_S = 0.005
BACKOFF_CAP_S = 0.25
SEEK_DELAY_S_MIN = 0.005
SEEK_DELAY_S_MAX = 0.025


def full_jitter_s(attempt: int, rng: random.Random) -> float:
    """Exponential backoff with full jitter, for a node that refuses or fails.

    Uniform in [0, min(cap, base * 2^attempt)]: spreading the retries over the whole window
    takes the least total work of the variants compared in M. Brooker, "Exponential Backoff
    And Jitter" (AWS Architecture Blog, 2015).

    Args:
        attempt: failed attempts so far, 0 for the first.
        rng: where the jitter comes from.
    """
    return rng.uniform(0.0, min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt, 16)))


def seek_delay_s(rng: random.Random) -> float:
    """The pause between two rounds of asking a shard's replicas who leads.

    It does not grow: an election takes tens of milliseconds, only one request per shard
    seeks at a time, and every doubling would be added to the failover.
    """
    return rng.uniform(SEEK_DELAY_S_MIN, SEEK_DELAY_S_MAX)
