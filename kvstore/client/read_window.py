"""How many keys may be asked for at once, before their values' size is known.

A read is small and its answer may be large. A node that has to hold too many bytes for one
connection cuts it, so a client asks a shard for about ``budget_bytes`` of values at a time,
by what the last answers held.

Pure.
"""

from __future__ import annotations

BYTES_PER_KEY_ASSUMED = 4096
ROW_BYTES = 32
"""What a row has besides its value: also what a key costs that is not there."""
_WEIGHT_OF_NEWEST = 0.25


class ReadWindow:
    """Batches of keys asked of one shard and not answered.

    The estimate of a value's size rises at once and falls slowly.
    """

    __slots__ = ("_batches_max", "_budget_bytes", "_bytes_per_key", "_keys_max", "batches", "keys")

    def __init__(self, *, budget_bytes: int, keys_max: int, batches_max: int) -> None:
        self._budget_bytes = budget_bytes
        self._keys_max = keys_max
        self._batches_max = batches_max
        self._bytes_per_key: float = BYTES_PER_KEY_ASSUMED
        self.batches = 0
        self.keys = 0
        """Keys of all of them."""

    @property
    def batch_keys_max(self) -> int:
        """Keys of one batch: a quarter of the budget, so that batches overlap."""
        keys = int(self._budget_bytes / 4 / self._bytes_per_key)
        return max(1, min(self._keys_max, keys))

    def has_room(self, keys: int) -> bool:
        """Whether a batch of so many may be sent; one batch may always."""
        if not self.batches:
            return True
        expected_bytes = (self.keys + keys) * self._bytes_per_key
        return self.batches < self._batches_max and expected_bytes <= self._budget_bytes

    def begin(self, keys: int) -> None:
        """A batch leaves."""
        self.batches += 1
        self.keys += keys

    def end(self, keys: int) -> None:
        """It was settled or given up."""
        self.batches -= 1
        self.keys -= keys
        assert self.batches >= 0
        assert self.keys >= 0

    def observe(self, answer_bytes: int, keys: int) -> None:
        """An answer to ``keys`` keys had (or, when refused, would have had) that many bytes."""
        seen = max(ROW_BYTES, answer_bytes / keys)
        if seen > self._bytes_per_key:
            self._bytes_per_key = seen
        else:
            self._bytes_per_key += (seen - self._bytes_per_key) * _WEIGHT_OF_NEWEST
