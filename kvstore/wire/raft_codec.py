"""Raft messages of many groups in one frame, and back (DESIGN sections 5 and 8).

The body of a RAFT frame is a msgpack array of messages, each ``[tag, group, field, ...]``.
Most messages are flat: their fields are numbers and truths in the order of the dataclass.
The two that carry data have functions of their own. Tags and orders belong to protocol
version 1 and never change their meaning.

A replica's log goes through here, so the rules are strict: exact types, numbers from 0 to
2^64-1, nothing missing and nothing more. Entries follow ``prev_index`` one by one, and only
their terms, kinds and payloads travel: no gap can be expressed.

This is on the way of every write, hence the tables, one ``attrgetter`` a message, and checks
that compare whole tuples of types.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from kvstore.errors import ProtocolError
from kvstore.ids import GroupId, LogIndex, ReplicaId, Term
from kvstore.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    GroupConfig,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from kvstore.wire.codec import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_ITEMS_MAX: Final = 1 << 18
_UINT_MAX: Final = (1 << 64) - 1
_MESSAGE_BYTES: Final = 128
"""More than any message takes beside its payloads."""
_ENTRY_BYTES: Final = 16
"""More than an entry takes beside its payload."""

_APPEND_REQUEST: Final = 3
_SNAPSHOT_CHUNK: Final = 10
_FLAT: Final[dict[int, type[Any]]] = {
    1: VoteRequest,
    2: VoteResponse,
    4: AppendResponse,
    5: Heartbeat,
    6: HeartbeatResponse,
    7: ReadIndexRequest,
    8: ReadIndexResponse,
    9: TimeoutNow,
    11: SnapshotResponse,
}
_ENTRY_KINDS: Final = {kind.value: kind for kind in EntryKind}


def encode_messages(messages: Iterable[tuple[GroupId, Message]]) -> bytes:
    """The body of one RAFT frame that holds all of ``messages``, in order."""
    return pack([_ENCODERS[type(message)](group, message) for group, message in messages])


def encode_bodies(messages: Sequence[tuple[GroupId, Message]], bytes_max: int) -> list[bytes]:
    """Like :func:`encode_messages`, in as many bodies as keep each below ``bytes_max``.

    A single message that is larger gets a body of its own. Order is kept.
    """
    if len(messages) == 1:
        return [encode_messages(messages)]
    bodies: list[bytes] = []
    gathered: list[tuple[GroupId, Message]] = []
    gathered_bytes = 0
    for item in messages:
        size = _bytes_at_most(item[1])
        if gathered and gathered_bytes + size > bytes_max:
            bodies.append(encode_messages(gathered))
            gathered, gathered_bytes = [], 0
        gathered.append(item)
        gathered_bytes += size
    if gathered:
        bodies.append(encode_messages(gathered))
    return bodies


def decode_messages(body: bytes) -> list[tuple[GroupId, Message]]:
    """Read the body of a RAFT frame.

    Raises:
        ProtocolError: anything malformed; then none of its messages may be used.
    """
    rows = unpack(body, items_max=_ITEMS_MAX)
    if type(rows) is not list:
        raise ProtocolError("raft: the body must be an array of messages")
    messages: list[tuple[GroupId, Message]] = []
    for row in rows:
        if type(row) is not list or len(row) < 2 or type(row[0]) is not int:
            raise ProtocolError("raft: a message must be an array [tag, group, ...]")
        decode = _DECODERS.get(row[0])
        if decode is None:
            raise ProtocolError(f"raft: unknown message tag {row[0]}")
        messages.append((row[1], decode(row)))
    return messages


def _bytes_at_most(message: Message) -> int:
    """An upper bound of the encoded size, cheaply."""
    size = _MESSAGE_BYTES
    if type(message) is AppendRequest:
        for entry in message.entries:
            size += _ENTRY_BYTES + len(entry.payload)
    elif type(message) is SnapshotChunk:
        config = message.meta.config
        members = len(config.voters) + len(config.voters_outgoing) + len(config.learners)
        size += len(message.data) + 9 * (members + len(config.learners_next))
    return size


# -- flat messages --------------------------------------------------------------------------


def _flat_encoder(tag: int, kind: type[Any]) -> Callable[[GroupId, Any], tuple[Any, ...]]:
    values_of = attrgetter(*(field.name for field in fields(kind)))

    def encode(group: GroupId, message: Any) -> tuple[Any, ...]:
        return (tag, group, *values_of(message))

    return encode


def _flat_decoder(kind: type[Any]) -> Callable[[list[Any]], Any]:
    types = (int, int, *(bool if field.type == "bool" else int for field in fields(kind)))

    def decode(row: list[Any]) -> Any:
        if tuple(map(type, row)) != types or min(row) < 0:  # False and True are 0 and 1 here
            raise _malformed(kind)
        return kind(*row[2:])

    return decode


def _malformed(kind: type[Any]) -> ProtocolError:
    return ProtocolError(f"raft: malformed {kind.__name__}")


# -- messages that carry data ---------------------------------------------------------------

_APPEND_TYPES: Final = (*(int,) * 8, list)
_ENTRY_TYPES: Final = (int, int, bytes)
_CHUNK_TYPES: Final = (*(int,) * 9, list, bytes, bool)


def _encode_append(group: GroupId, message: AppendRequest) -> tuple[Any, ...]:
    entries = message.entries
    flat: list[Any] = []
    for entry in entries:
        flat += (entry.term, entry.kind, entry.payload)
    assert not entries or (
        entries[0].index == message.prev_index + 1
        and entries[-1].index == message.prev_index + len(entries)
    ), "entries follow prev_index without a gap"
    assert len(flat) <= _ITEMS_MAX, "more entries than one message may carry"
    return (
        _APPEND_REQUEST,
        group,
        message.sender,
        message.receiver,
        message.term,
        message.prev_index,
        message.prev_term,
        message.commit_index,
        flat,
    )


def _decode_append(row: list[Any]) -> AppendRequest:
    if tuple(map(type, row)) != _APPEND_TYPES or min(row[:8]) < 0:
        raise _malformed(AppendRequest)
    _, _, sender, receiver, term, prev_index, prev_term, commit_index, flat = row
    return AppendRequest(
        sender, receiver, term, prev_index, prev_term, _entries(prev_index, flat), commit_index
    )


def _entries(prev_index: int, flat: list[Any]) -> tuple[Entry, ...]:
    """The entries after ``prev_index`` from ``term, kind, payload, term, ...``."""
    if len(flat) % 3 or prev_index + len(flat) // 3 > _UINT_MAX:
        raise ProtocolError("raft: malformed entries")
    rows = zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
    entries = []
    for index, (term, kind, payload) in enumerate(rows, prev_index + 1):
        types = (type(term), type(kind), type(payload))
        if types != _ENTRY_TYPES or term < 0 or kind not in _ENTRY_KINDS:
            raise ProtocolError("raft: malformed entries")
        entries.append(Entry(LogIndex(index), term, _ENTRY_KINDS[kind], payload))
    return tuple(entries)


def _encode_chunk(group: GroupId, message: SnapshotChunk) -> tuple[Any, ...]:
    config = message.meta.config
    return (
        _SNAPSHOT_CHUNK,
        group,
        message.sender,
        message.receiver,
        message.term,
        message.meta.index,
        message.meta.term,
        message.transfer,
        message.offset,
        _encode_config(config),
        message.data,
        message.is_last,
    )


def _decode_chunk(row: list[Any]) -> SnapshotChunk:
    if tuple(map(type, row)) != _CHUNK_TYPES or min(row[:9]) < 0:
        raise _malformed(SnapshotChunk)
    _, _, sender, receiver, term, index, snapshot_term, transfer, offset, config, data, last = row
    meta = SnapshotMeta(LogIndex(index), Term(snapshot_term), _config(config))
    return SnapshotChunk(sender, receiver, term, meta, transfer, offset, data, last)


def _encode_config(config: GroupConfig) -> tuple[object, ...]:
    """Four lists of ids, and the epoch unless it is 0."""
    parts = (config.voters, config.voters_outgoing, config.learners, config.learners_next)
    return (*parts, config.epoch) if config.epoch else parts


def _config(fields: list[Any]) -> GroupConfig:
    """Each part strictly rising ids, as :class:`GroupConfig` wants them."""
    parts, epochs = fields[:4], fields[4:] or [0]
    if tuple(map(type, [*parts, *epochs])) != (list, list, list, list, int) or epochs[0] < 0:
        raise ProtocolError("raft: malformed configuration")
    for part in parts:
        if set(map(type, part)) - {int} or any(
            earlier >= later for earlier, later in zip([0, *part], part, strict=False)
        ):
            raise ProtocolError("raft: malformed configuration")
    voters, voters_outgoing, learners, learners_next = map(tuple[ReplicaId, ...], parts)
    return GroupConfig(voters, voters_outgoing, learners, learners_next, epochs[0])


_ENCODERS: Final[dict[type[Any], Callable[[GroupId, Any], tuple[Any, ...]]]] = {
    AppendRequest: _encode_append,
    SnapshotChunk: _encode_chunk,
    **{kind: _flat_encoder(tag, kind) for tag, kind in _FLAT.items()},
}
_DECODERS: Final[dict[int, Callable[[list[Any]], Message]]] = {
    _APPEND_REQUEST: _decode_append,
    _SNAPSHOT_CHUNK: _decode_chunk,
    **{tag: _flat_decoder(kind) for tag, kind in _FLAT.items()},
}
