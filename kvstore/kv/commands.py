"""Commands, and the two envelopes in which they travel to the state machine.

A *batch* is what a client sends to one shard at once, and the unit of retry. It is a single
flat msgpack array, ``[created, nonce, seq, ack_below, op, key, …, op, key, …]``: the session
and the number within it (see :mod:`kvstore.kv.sessions`), then the commands one after the
other. Being flat it holds no container but itself, so it decodes quickly, and a hostile one
cannot make us build millions of them.

An *entry* is what the leader proposes: all batches that arrived in one tick, as they came,
behind a fixed header: ``format u8 | first_revision u64 | count u32 | limits``, then for each
batch ``count u32 | length u32 | bytes``. No command is decoded before it is committed. The
i-th command of the entry, counted over all of its batches, has the revision
``first_revision + i``.
"""

from __future__ import annotations

from itertools import islice
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias

import msgpack

from kvstore.errors import Internal, InvalidArgument
from kvstore.kv.limits import ApplyLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

PUT: Final = 0
DELETE: Final = 1
CAS: Final = 2

Command: TypeAlias = tuple[Any, ...]
"""``(PUT, key, value)``, ``(DELETE, key)`` or ``(CAS, key, expected | None, value)``.

Keys and values are bytes; expected None means that the key must be absent. A plain tuple:
there is one for every put of every client.
"""

Puts: TypeAlias = tuple[list[bytes], list[bytes]]
"""Keys and the values to put there, equally many."""

COMMANDS_MAX: Final = 4096
"""Commands of one batch."""

SHORT_BYTES: Final = 2048
"""A batch up to here cannot promise more than 12 MB, however arrays are nested in it."""

ENTRY_FORMAT: Final = 1

_INTEGERS, _BYTES = {int}, {bytes}
_FIELDS = {PUT: 3, DELETE: 2, CAS: 4}
_BATCH_FIELDS_MAX = 4 + COMMANDS_MAX * max(_FIELDS.values())
_ENTRY = Struct(">BQIIIQI")
_ENTRY_START = Struct(">BQI")
_BATCH = Struct(">II")


class Batch(NamedTuple):
    """A client's batch whose commands are not yet looked at."""

    session: tuple[int, int]
    """``created`` and ``nonce``."""
    seq: int
    ack_below: int
    announced: int
    """How many commands it holds by its sender's word."""
    fields: list[Any]
    """All fields of the array, those of the commands from 4 on."""


class Entry(NamedTuple):
    """A log entry's payload, its batches still encoded."""

    first_revision: int
    commands: int
    """How many, over all batches."""
    limits: ApplyLimits
    batches: list[tuple[int, bytes]]
    """How many commands each holds by its sender's word, and its bytes."""


def encode_batch(
    created: int, nonce: int, seq: int, ack_below: int, commands: Iterable[Command]
) -> bytes:
    """A client's batch; ``created`` and ``nonce`` both 0 if there is no session."""
    fields: list[Any] = [created, nonce, seq, ack_below]
    for command in commands:
        fields += command
    encoded: bytes = msgpack.Packer().pack(fields)  # packb does the same with a detour
    return encoded


def decode_batch(encoded: bytes, announced: int) -> Batch:
    """Open a batch as far as its session.

    Raises:
        InvalidArgument: not a flat msgpack array, the session's numbers are none, or
            ``announced`` is not from 1 to ``COMMANDS_MAX``.
    """
    if not 1 <= announced <= COMMANDS_MAX:
        raise InvalidArgument(f"batch: 1 to {COMMANDS_MAX} commands, not {announced}")
    fields = _decode_flat(encoded)
    numbers = fields[:4]
    if len(numbers) < 4:
        raise InvalidArgument("batch: an array of at least 4 fields is needed")
    if set(map(type, numbers)) != _INTEGERS or min(numbers) < 0:  # msgpack has none above 64 bits
        raise InvalidArgument("batch: session, seq and ack_below must be unsigned integers")
    created, nonce, seq, ack_below = numbers
    return Batch((created, nonce), seq, ack_below, announced, fields)


def _decode_flat(encoded: bytes) -> list[Any]:
    """The fields of an array of scalars."""
    try:
        if len(encoded) <= SHORT_BYTES:
            fields = msgpack.unpackb(
                encoded, max_array_len=len(encoded), max_map_len=0, max_ext_len=0
            )
            if type(fields) is not list or (list in set(map(type, fields)) and _is_nested(fields)):
                raise ValueError
            return fields
        return _decode_long(encoded)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvalidArgument(f"batch: not a flat msgpack array ({type(error).__name__})") from None


def _is_nested(fields: Sequence[Any]) -> bool:
    """Whether an array holds more than empty ones, which pass for scalars."""
    return any(type(field) is list and field for field in fields)


def _decode_long(encoded: bytes) -> list[Any]:
    """The same, read one by one, so that an array or map inside is refused by its header.

    To decode it first would allocate what it only claims to hold, level upon level: of a short one
    that is little, and it is quicker.
    """
    unpacker = msgpack.Unpacker(
        max_buffer_size=len(encoded), max_array_len=0, max_map_len=0, max_ext_len=0
    )
    unpacker.feed(encoded)
    length = unpacker.read_array_header()
    fields = list(islice(unpacker, min(length, _BATCH_FIELDS_MAX + 1)))
    if len(fields) != length or unpacker.tell() != len(encoded):
        raise InvalidArgument(f"batch: {length} fields announced, not what follows")
    return fields


def decode_commands(
    batch: Batch, limits: ApplyLimits, owns: Callable[[Collection[bytes]], bool]
) -> list[Command]:
    """Read and check all commands of ``batch``, whatever they are; see also :func:`decode_puts`.

    Args:
        batch: As :func:`decode_batch` opened it.
        limits: What keys and values must keep to.
        owns: Whether keys all belong to this shard.

    Raises:
        InvalidArgument: names the first command that breaks a rule, and the rule.
    """
    fields, end = batch.fields, len(batch.fields)
    key_bytes_max, value_bytes_max = limits.key_bytes_max, limits.value_bytes_max
    commands: list[Command] = []
    position = 4
    while position < end:
        op = fields[position]
        following = position + (_FIELDS.get(op, 0) if type(op) is int else 0)
        if not position < following <= end:
            _refuse(commands, "the operation is unknown or cut short")
        command = tuple(fields[position:following])
        position = following
        key = command[1]
        if type(key) is not bytes or not 0 < len(key) <= key_bytes_max:
            _refuse(commands, f"a key must be 1 to {key_bytes_max} bytes")
        if op != DELETE:
            value = command[-1]
            if type(value) is not bytes or len(value) > value_bytes_max:
                _refuse(commands, f"a value must be at most {value_bytes_max} bytes")
            if op == CAS and type(command[2]) is not bytes and command[2] is not None:
                _refuse(commands, "the expected value must be bytes or nil")
        if not owns((key,)):
            _refuse(commands, "the key belongs to another shard")
        commands.append(command)
    if len(commands) != batch.announced:
        raise InvalidArgument(f"batch: {batch.announced} commands announced, not {len(commands)}")
    return commands


def decode_puts(
    batch: Batch, limits: ApplyLimits, owns: Callable[[Collection[bytes]], bool]
) -> Puts | None:
    """Read a batch of nothing but puts that breaks no rule; None for any other.

    Most batches are of this kind, and each is decoded on every replica: so whole columns are
    checked at once, and run so (:meth:`kvstore.kv.data.Data.put_all`).
    """
    fields = batch.fields
    operations, keys, new_values = fields[4::3], fields[5::3], fields[6::3]
    if len(fields) == 7:
        return (keys, new_values) if _is_one_put(batch, limits) and owns(keys) else None
    if (
        len(fields) == 4 + 3 * batch.announced
        and operations.count(PUT) == batch.announced
        and set(map(type, operations)) == _INTEGERS  # False counts as 0
        and set(map(type, keys)) == _BYTES
        and set(map(type, new_values)) == _BYTES
        and all(keys)
        and len(max(keys, key=len)) <= limits.key_bytes_max
        and len(max(new_values, key=len)) <= limits.value_bytes_max
        and owns(keys)
    ):
        return keys, new_values
    return None


def _is_one_put(batch: Batch, limits: ApplyLimits) -> bool:
    """The same for a batch of three fields: a check of a column costs as much as all of these."""
    _, _, _, _, operation, key, value = batch.fields
    return (
        batch.announced == 1
        and type(operation) is int
        and operation == PUT
        and type(key) is bytes
        and 0 < len(key) <= limits.key_bytes_max
        and type(value) is bytes
        and len(value) <= limits.value_bytes_max
    )


def _refuse(commands: Sequence[Command], rule: str) -> NoReturn:
    raise InvalidArgument(f"command {len(commands)}: {rule}")


def encode_entry(
    first_revision: int, batches: Sequence[tuple[int, bytes]], limits: ApplyLimits
) -> bytes:
    """The payload of an entry.

    Args:
        first_revision: Of its first command; the next ones are consecutive.
        batches: For each, how many commands it holds and its bytes.
        limits: Those of the leader, for all replicas to obey.
    """
    total = sum(count for count, _ in batches)
    parts = [_ENTRY.pack(ENTRY_FORMAT, first_revision, total, *limits)]
    for count, encoded in batches:
        parts += (_BATCH.pack(count, len(encoded)), encoded)
    return b"".join(parts)


def decode_entry(payload: bytes) -> Entry:
    """Open an entry; its batches stay encoded.

    Raises:
        Internal: not what :func:`encode_entry` made, or made by a newer version.
    """
    _check_format(payload)
    _, first_revision, total, *limits = _ENTRY.unpack_from(payload)
    batches = []
    position, end, header_bytes = _ENTRY.size, len(payload), _BATCH.size
    commands = 0
    while end - position >= header_bytes:
        count, length = _BATCH.unpack_from(payload, position)
        start = position + header_bytes
        position = start + length
        batches.append((count, payload[start:position]))
        commands += count
    if position != end or total != commands:
        raise Internal("a log entry's payload is malformed")
    return Entry(first_revision, total, ApplyLimits(*limits), batches)


def last_revision(payload: bytes) -> int:
    """The highest revision in an entry, without decoding it; new leaders scan their log so.

    Raises:
        Internal: not what :func:`encode_entry` made, or made by a newer version.
    """
    _check_format(payload)
    first_revision: int
    total: int
    _, first_revision, total = _ENTRY_START.unpack_from(payload)
    return first_revision + total - 1


def _check_format(payload: bytes) -> None:
    if len(payload) < _ENTRY.size:
        raise Internal("a log entry's payload is cut short")
    if payload[0] != ENTRY_FORMAT:
        raise Internal(f"a log entry has format {payload[0]}, this version knows {ENTRY_FORMAT}")
