"""msgpack, bounded: what may be built from bytes that somebody else sent.

One byte can ask for a Python object of 72 (an empty list), five for a list of 2^32 slots, and
each level of nesting for another. So besides the frame's own size:

* an array or a map has at most as many items as its message allows (slots are allocated when
  the header is read, before the items are there);
* a request may hold only as many containers as its shape has (``containers_max``), any other
  message as many as take about 20 MB, however long it is;
* nesting ends at 1024 levels (msgpack's own stack), and as each level could promise as many
  items again, nothing is built before it is known that all items are there;
* extension types and text that is not UTF-8 are refused, and so are keys that are neither
  text nor bytes, unless the message has such (hashes of numbers can be made to collide).

Every failure is a :class:`~kvstore.errors.ProtocolError` whose text never shows the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack

from kvstore.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS_MAX: Final = 1 << 16
"""Items of an array or a map, unless the message has a bound of its own."""

CONTAINERS_MAX: Final = 1 << 18
"""Arrays and maps of one message, unless it has a bound of its own."""

SHORT_BYTES: Final = 512
"""A message up to here cannot promise a megabyte, however its arrays are nested."""

UINT: Final = frozenset({int})
TEXT: Final = frozenset({str})
BYTES: Final = frozenset({bytes})
BOOL: Final = frozenset({bool})
ARRAY: Final = frozenset({list})
MAP: Final = frozenset({dict})
NIL: Final = frozenset({type(None)})
"""What a field may be; join them with ``|``. Integers are always 0 to 2^64-1."""


def pack(value: object) -> bytes:
    """Encode plain values: None, bool, int, float, str, bytes, list, tuple, dict."""
    encoded: bytes = msgpack.Packer().pack(value)  # packb does the same with a detour
    return encoded


def unpack(
    data: bytes,
    *,
    items_max: int = ITEMS_MAX,
    containers_max: int = CONTAINERS_MAX,
    any_keys: bool = False,
) -> Any:
    """Decode exactly one value.

    Args:
        data: All of the value and nothing after it.
        items_max: Bound on the items of each array and map.
        containers_max: Bound on the number of arrays and maps together.
        any_keys: Maps may have keys that are neither text nor bytes, such as numbers.

    Raises:
        ProtocolError: malformed, or beyond a bound.
    """
    items_max = min(items_max, len(data))  # an item takes at least a byte, a container too
    count = None if len(data) <= containers_max else _counter(containers_max)
    try:
        if len(data) > SHORT_BYTES:
            _check_promises(data)
        return msgpack.unpackb(
            data,
            list_hook=count,
            object_hook=count,
            ext_hook=_refuse_extension,
            strict_map_key=not any_keys,
            max_array_len=items_max,
            max_map_len=items_max,
            max_ext_len=0,
        )
    except RecursionError as error:
        raise ProtocolError("msgpack: nested too deep") from error
    except (ValueError, TypeError, MemoryError) as error:
        detail = str(error) if type(error) is ValueError else type(error).__name__
        raise ProtocolError(f"msgpack: {detail}") from error


def check_fields(value: object, what: str, *allowed: frozenset[type]) -> list[Any]:
    """``value`` if it is an array whose first fields are of the ``allowed`` types.

    Fields after those are ignored: a newer version may have added them.

    Raises:
        ProtocolError: not an array, too short, a wrong type, or a negative integer.
    """
    if type(value) is not list:
        raise ProtocolError(f"{what} must be an array, not {type(value).__name__}")
    if len(value) < len(allowed):
        raise ProtocolError(f"{what} must have {len(allowed)} fields, not {len(value)}")
    for field, types in zip(value, allowed, strict=False):
        kind = type(field)
        if kind not in types or (kind is int and field < 0):
            raise _bad_field(value, what, allowed)
    return value


def _bad_field(value: list[Any], what: str, allowed: tuple[frozenset[type], ...]) -> ProtocolError:
    for position, (field, types) in enumerate(zip(value, allowed, strict=False)):
        if type(field) not in types:
            names = " or ".join(sorted(kind.__name__ for kind in types))
            return ProtocolError(
                f"{what}: field {position} must be {names}, not {type(field).__name__}"
            )
    return ProtocolError(f"{what}: an integer is negative")


def _check_promises(data: bytes) -> None:
    """Walk over ``data`` without building anything: are all items there? Costs about 1 us.

    Raises:
        ValueError: no, or it is malformed.
    """
    walker = msgpack.Unpacker(max_buffer_size=len(data), strict_map_key=False)
    walker.feed(data)
    try:
        walker.skip()
    except msgpack.OutOfData as error:
        raise ValueError("Unpack failed: incomplete input") from error


def _counter(containers_max: int) -> Callable[[Any], Any]:
    """A hook that lets so many containers pass; msgpack calls it as each is complete."""
    left = containers_max

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ProtocolError(f"msgpack: more than {containers_max} arrays and maps")
        return container

    return count


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
