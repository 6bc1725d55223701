"""What the clients asked and were told: the record that everything is held against later."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from histories.model import Operation
from kvstore.sharding.ring import shard_of


class Sample(NamedTuple):
    """One finished operation, for the report."""

    at: float
    seconds: float
    shard: int
    is_write: bool
    is_ok: bool


@dataclass
class History:
    """What all clients together asked and were told; times are of the monotonic clock."""

    shards: int
    operations: list[Operation] = field(default_factory=list)
    """On keys that are written again and again: what is checked for linearizability."""
    ledger: dict[str, bytes] = field(default_factory=dict)
    """Keys that were written once and acknowledged."""
    counted: Counter[bytes] = field(default_factory=Counter)
    """Acknowledged increments, by counter."""
    uncertain: Counter[bytes] = field(default_factory=Counter)
    """Increments of unknown outcome."""
    samples: list[Sample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Operations by what they were and what came of them."""
    acknowledged_writes: int = 0
    last_ok: dict[int, float] = field(default_factory=dict)
    longest_gap_s: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    """By shard, between two acknowledged operations."""

    def record(self, kind: str, key: bytes, began: float, outcome: str) -> None:
        """An operation has ended, well or not."""
        is_write = kind != "get"
        now, shard = time.monotonic(), shard_of(key, self.shards)
        is_ok = outcome == "ok"
        self.samples.append(Sample(now, now - began, shard, is_write, is_ok))
        self.outcomes[outcome] += 1
        self.kinds[f"{kind}: {outcome}"] += 1
        if not is_ok:
            return
        self.acknowledged_writes += is_write
        gap = now - self.last_ok.get(shard, now)
        self.longest_gap_s[shard] = max(self.longest_gap_s[shard], gap)
        self.last_ok[shard] = now

    def per_second(self, seconds: float) -> float:
        """Operations that ended well, a second, over the last ``seconds``."""
        since = time.monotonic() - seconds
        good = 0
        for sample in reversed(self.samples):
            if sample.at < since:
                break
            good += sample.is_ok
        return good / seconds
