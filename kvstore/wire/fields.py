"""Single fields of what others say, each checked as strictly as a node's own configuration.

Every function gives the field as it is to be used, or raises a
:class:`~kvstore.errors.ProtocolError` of one line that begins with ``what`` and never shows
the field itself.
"""

from __future__ import annotations

import math
from typing import Any

from kvstore.config import ADDRESS_CHARS_MAX, WEIGHT_MAX, WEIGHT_MIN, is_address
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId, is_node_id
from kvstore.swim.claims import METADATA_BYTES_MAX, Metadata


def array(value: Any, what: str, count: int, *, is_open: bool = False) -> list[Any]:
    """An array of ``count`` fields; of an open one, those that a newer version added are cut."""
    if type(value) is not list or len(value) < count or (len(value) > count and not is_open):
        raise ProtocolError(f"{what} must be an array of {count} fields")
    return value[:count]


def rows(value: Any, what: str, count_max: int) -> list[Any]:
    """An array of any length up to ``count_max``."""
    if type(value) is not list:
        raise ProtocolError(f"{what} must be an array")
    if len(value) > count_max:
        raise ProtocolError(f"{what}: there are {len(value)}, more than {count_max}")
    return value


def node_id(value: Any, what: str) -> NodeId:
    """The name of a node."""
    if type(value) is not str or not is_node_id(value):
        raise ProtocolError(f"{what} must be a node id")
    return NodeId(value)


def node_id_or_none(value: Any, what: str) -> NodeId | None:
    """The name of a node, if there is one."""
    return None if value is None else node_id(value, what)


def address(value: Any, what: str) -> str:
    """``host:port``."""
    if type(value) is not str or len(value) > ADDRESS_CHARS_MAX or not is_address(value):
        raise ProtocolError(f"{what} must be host:port, at most {ADDRESS_CHARS_MAX} characters")
    return value


def text(value: Any, what: str, chars_max: int | None = None) -> str:
    """A text that may be shown as it is; without ``chars_max`` it is bounded by what it is in."""
    if type(value) is not str or not value.isprintable():
        raise ProtocolError(f"{what} must be printable text")
    if chars_max is not None and len(value) > chars_max:
        raise ProtocolError(f"{what} has {len(value)} characters, more than {chars_max}")
    return value


def flag(value: Any, what: str) -> bool:
    """A truth."""
    if type(value) is not bool:
        raise ProtocolError(f"{what} must be true or false")
    return value


def whole(value: Any, what: str, bits: int = 63) -> int:
    """A number from 0 that has at most so many bits."""
    if type(value) is not int or value < 0 or value >> bits:
        raise ProtocolError(f"{what} must be a whole number from 0 to 2^{bits}-1")
    return value


def real(value: Any, what: str) -> float:
    """A finite number of at least 0; a whole one will do."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ProtocolError(f"{what} must be a finite number of at least 0")
    return abs(float(value))  # -0.0 is at least 0, and would be shown with its sign


def weight(value: Any, what: str) -> float:
    """Of a node, as the configuration allows it."""
    if type(value) not in (int, float) or not WEIGHT_MIN <= value <= WEIGHT_MAX:
        raise ProtocolError(f"{what} must be from {WEIGHT_MIN} to {WEIGHT_MAX}")
    return float(value)


def metadata(value: Any, what: str, node: NodeId, *, is_open: bool = False) -> Metadata:
    """``[address, zone, weight, software]``: what ``node``, whose name was checked, says of itself.

    See :func:`array` for ``is_open``.
    """
    try:
        host_port, zone, share, software = array(value, "it", 4, is_open=is_open)
        said = Metadata(
            address(host_port, "the address"),
            text(zone, "the zone"),
            weight(share, "the weight"),
            text(software, "the software"),
        )
    except ProtocolError as error:
        raise ProtocolError(f"{what}: metadata of {node}: {error.message}") from None
    size = said.size_bytes
    if size > METADATA_BYTES_MAX:
        raise ProtocolError(
            f"{what}: metadata of {node} has {size} bytes, more than {METADATA_BYTES_MAX}"
        )
    return said


def metadata_row(said: Metadata | None) -> tuple[Any, ...] | None:
    """What :func:`metadata` reads; None if nothing is known."""
    return None if said is None else (said.address, said.zone, said.weight, said.software)
