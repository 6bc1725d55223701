"""What callers give, as bytes and times, or a clear refusal.

Checked here as well as at the shard: a bad argument fails its own call at once and never
travels with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from kvstore.config import is_address
from kvstore.errors import InvalidArgument

TIMEOUT_S_MAX = 1_000_000
"""Beyond some number of days an event loop's timers overflow."""

Text: TypeAlias = "str | bytes | bytearray | memoryview"
"""Keys and values: text stands for its UTF-8."""


def as_bytes(value: Text, what: str) -> bytes:
    """``value`` as bytes.

    Raises:
        InvalidArgument: neither text nor bytes, or text that UTF-8 cannot express.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"the {what} cannot be encoded as UTF-8: {error}") from error
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise InvalidArgument(f"the {what} must be str or bytes, not {type(value).__name__}")


def bad_key(key: bytes, key_bytes_max: int) -> InvalidArgument:
    """What is wrong with a key whose length is out of bounds."""
    if not key:
        return InvalidArgument("the key is empty")
    return InvalidArgument(f"the key has {len(key)} bytes, more than {key_bytes_max}")


def bad_value(value: bytes, value_bytes_max: int) -> InvalidArgument:
    """What is wrong with a value whose length is out of bounds."""
    return InvalidArgument(f"the value has {len(value)} bytes, more than {value_bytes_max}")


def check_timeout(timeout_s: float) -> float:
    """``timeout_s`` if it is one.

    Raises:
        InvalidArgument: not a number above 0 and at most ``TIMEOUT_S_MAX``.
    """
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise InvalidArgument(
            f"timeout_s must be a number above 0 and at most {TIMEOUT_S_MAX}, not {timeout_s!r}"
        )
    return timeout_s


def check_limit(limit: int | None) -> None:
    """See that ``limit`` is one; None stands for none.

    Raises:
        InvalidArgument: not a whole number of 0 or more.
    """
    if limit is None:
        return
    # A bool is an int to Python, and to nobody else.
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise InvalidArgument(f"limit must be a whole number of 0 or more, not {limit!r}")


def check_flag(value: bool, what: str) -> None:
    """See that ``value`` is one: what only counts as true or false would be refused by nodes.

    Raises:
        InvalidArgument: neither True nor False.
    """
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what} must be True or False, not {value!r}")


def parse_endpoints(endpoints: str | Iterable[str]) -> tuple[str, ...]:
    """``"host:port,host:port"``, or several such texts, as addresses without repeats.

    Raises:
        InvalidArgument: there is none, or one is not ``host:port``.
    """
    texts = [endpoints] if isinstance(endpoints, str) else _listed(endpoints)
    parts = [part.strip() for text in texts for part in text.split(",")]
    addresses = tuple(dict.fromkeys(part for part in parts if part))
    for address in addresses:
        if not is_address(address):
            raise InvalidArgument(f"endpoint {address!r} is not host:port")
    if not addresses:
        raise InvalidArgument("no endpoint given")
    return addresses


def _listed(endpoints: Iterable[str]) -> list[str]:
    texts = list(endpoints) if isinstance(endpoints, Iterable) else [endpoints]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(f"endpoints must be str, or several str, not {endpoints!r}")
    return texts


def prefix_end(prefix: bytes) -> bytes | None:
    """The lowest key above all that start with ``prefix``; None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
