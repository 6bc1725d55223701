"""Which keys are asked for: each alike, or a few far more often than the rest. Seeded."""

from __future__ import annotations

import math
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

KEY_BYTES: Final = 16
PREFIX: Final = b"bench"
"""Of every key that the bench writes."""
ZIPFIAN_CONSTANT: Final = 0.99
"""As YCSB has it."""


def key_of(number: int) -> bytes:
    """The key with this number."""
    return b"%b%011d" % (PREFIX, number)


class Zipf:
    """Ranks from 0: the chance of rank r falls as ``(r + 1)**-theta``.

    Gray et al. 1994, "Quickly generating billion-record synthetic databases", section 3: exact for
    the first two ranks, a close approximation for the others.
    """

    def __init__(self, items: int, theta: float = ZIPFIAN_CONSTANT) -> None:
        """Takes time in proportion to ``items``, once."""
        self.items = items
        self.zeta = math.fsum(rank**-theta for rank in range(1, items + 1))
        self._second = 1 + 0.5**theta
        self._alpha = 1 / (1 - theta)
        zeta_2 = sum(rank**-theta for rank in range(1, min(items, 2) + 1))
        self._eta = (1 - (2 / items) ** (1 - theta)) / (1 - zeta_2 / self.zeta) if items > 2 else 0

    def rank_of(self, share: float) -> int:
        """The rank at this share, 0 to 1 without the end, of all draws put in order."""
        scaled = share * self.zeta
        if scaled < 1:
            return 0
        if scaled < self._second or self.items <= 2:
            return 1
        rank = int(self.items * (self._eta * share - self._eta + 1) ** self._alpha)
        return min(rank, self.items - 1)  # the last share before 1 is rounded up


def uniform(keys: int, rng: random.Random) -> Iterator[int]:
    """Numbers of keys, every one as likely as any other. Without end."""
    while True:
        yield rng.randrange(keys)


def zipfian(keys: int, rng: random.Random) -> Iterator[int]:
    """Numbers of keys, few of them most of the time, scattered over all. Without end."""
    zipf, scatter = Zipf(keys), scattered(keys)
    while True:
        yield scatter[zipf.rank_of(rng.random())]


def scattered(keys: int) -> list[int]:
    """All numbers once, so that neighbours lie far apart."""
    step = next(step for step in count(int(keys * 0.618) | 1) if math.gcd(step, keys) == 1)
    return [turn * step % keys for turn in range(keys)]
