"""A value as the engine stores it.

``format u8 | created_revision u64 | modified_revision u64 | lease u64 | value``, big endian.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from kvstore.errors import Internal

FORMAT: Final = 1
NO_LEASE: Final = 0

_HEADER = Struct(">BQQQ")
_CHANGE = Struct(">QQ")
"""The part of the header that a put over an existing row changes."""
HEADER_BYTES: Final = _HEADER.size
"""Before every value, as long as there is one format."""


class Value(NamedTuple):
    """A value and where it comes from."""

    created_revision: int
    """The put since which the key has existed without a break."""
    modified_revision: int
    """The last put."""
    lease: int
    """The lease that the key ends with; 0 for none."""
    value: bytes


def encode(created_revision: int, modified_revision: int, lease: int, value: bytes) -> bytes:
    """The stored form."""
    return _HEADER.pack(FORMAT, created_revision, modified_revision, lease) + value


def decode(stored: bytes) -> Value:
    """Read the stored form.

    Raises:
        Internal: it is not one that this version writes or has ever written.
    """
    if len(stored) < HEADER_BYTES or stored[0] != FORMAT:
        raise Internal(f"a stored value has the unknown format {stored[:1].hex() or 'empty'}")
    _, created_revision, modified_revision, lease = _HEADER.unpack_from(stored)
    return Value(created_revision, modified_revision, lease, stored[HEADER_BYTES:])


def value_of(stored: bytes) -> tuple[bytes, int]:
    """The value and its modified revision alone.

    Raises:
        Internal: as :func:`decode`.
    """
    if len(stored) < HEADER_BYTES or stored[0] != FORMAT:
        decode(stored)
    return stored[HEADER_BYTES:], int.from_bytes(stored[9:17], "big")


def is_value(stored: bytes, value: bytes) -> bool:
    """Whether the stored form ``stored`` holds ``value``."""
    return len(stored) == HEADER_BYTES + len(value) and stored.endswith(value)


def encode_over(before: bytes, modified_revision: int, lease: int, value: bytes) -> bytes:
    """The stored form of a value that takes the place of the one stored as ``before``."""
    return before[:9] + _CHANGE.pack(modified_revision, lease) + value
