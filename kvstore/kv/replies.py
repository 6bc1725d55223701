"""The answer to a batch, msgpack.

``[0, first_revision, effects]`` when it was run: its i-th command has the revision
``first_revision + i``, and ``effects`` has a bit for each, the first command's the highest.
``[1, code, message, may_have_applied]`` when it was refused as a whole; if its session was, the
revision follows at which a new one is welcome.

The shard keeps the answers to recent batches (:mod:`kvstore.kv.sessions`), up to 64 for each
of thousands of clients; hence the bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack

from kvstore.errors import KVError, ProtocolError, SessionExpired, from_wire

if TYPE_CHECKING:
    from collections.abc import Sequence

_DONE: Final = 0
_REFUSED: Final = 1
_TO_DIGITS: Final = bytes.maketrans(b"\x00\x01", b"01")


class BatchReply(NamedTuple):
    """What a batch did."""

    first_revision: int
    effects: list[bool]
    """For each command: put, True; delete, whether the key existed; CAS, whether it swapped."""


def encode_done(first_revision: int, effects: Sequence[bool]) -> bytes:
    """The answer to a batch that was run; at least one effect."""
    return _encode_bits(first_revision, int(bytes(effects).translate(_TO_DIGITS), 2), len(effects))


def encode_all_done(first_revision: int, count: int) -> bytes:
    """The answer to a batch of ``count`` commands that all had an effect."""
    return _encode_bits(first_revision, (1 << count) - 1, count)


def _encode_bits(first_revision: int, bits: int, count: int) -> bytes:
    packed = bits.to_bytes((count + 7) // 8, "big")
    encoded: bytes = msgpack.packb((_DONE, first_revision, packed))
    return encoded


def encode_refused(error: KVError) -> bytes:
    """The answer to a batch of which nothing was run."""
    fields: tuple[object, ...] = (_REFUSED, error.code, error.message, error.may_have_applied)
    if isinstance(error, SessionExpired) and error.welcome_at:
        fields += (error.welcome_at,)
    encoded: bytes = msgpack.packb(fields)
    return encoded


def decode_reply(body: bytes, count: int) -> BatchReply | KVError:
    """Read the answer to a batch of ``count`` commands.

    Returns:
        What it did, or the error with which it was refused (not raised).

    Raises:
        ProtocolError: malformed, or the answer to another number of commands.
    """
    try:
        fields = msgpack.unpackb(body, max_array_len=8, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"reply: not msgpack ({type(error).__name__})") from None
    # What nearly all answers are, before a pattern, which would cost as much as all else here.
    if type(fields) is list and len(fields) == 3 and fields[0] == _DONE:
        _, first_revision, packed = fields
        if type(first_revision) is int and first_revision >= 0 and type(packed) is bytes:
            return BatchReply(first_revision, _effects(packed, count))
    match fields:
        case [1, str(code), str(message), bool(may_have_applied)]:
            return from_wire(code, message, may_have_applied=may_have_applied)
        case [1, SessionExpired.code, str(message), bool(may_have_applied), int(welcome_at)] if (
            welcome_at > 0
        ):
            return SessionExpired(message, may_have_applied=may_have_applied, welcome_at=welcome_at)
        case _:
            raise ProtocolError(f"reply: unknown form {_outline(fields)}")


def _effects(packed: bytes, count: int) -> list[bool]:
    bits = int.from_bytes(packed, "big")
    if len(packed) != (count + 7) // 8 or bits >> count:
        raise ProtocolError(f"reply: effects do not fit {count} commands")
    if bits + 1 == 1 << count:  # as for puts
        return [True] * count
    return [digit == "1" for digit in f"{bits:0{count}b}"]


def _outline(fields: Any) -> str:
    if type(fields) is not list:
        return type(fields).__name__
    return f"[{', '.join(type(field).__name__ for field in fields)}]"
