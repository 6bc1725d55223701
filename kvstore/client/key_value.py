"""What a read returns."""

from __future__ import annotations

from typing import NamedTuple


class KeyValue(NamedTuple):
    """A key, its value, and the revision that last changed it."""

    key: bytes
    value: bytes
    revision: int
