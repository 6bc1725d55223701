"""What a client asks and what it is answered: the bodies of those frames.

A malformed request is its sender's mistake and leaves the stream intact, so decoding one
raises :class:`~kvstore.errors.InvalidArgument`, to be answered under the request's own id. A
malformed answer raises :class:`~kvstore.errors.ProtocolError`.

A write's batch and its reply travel as opaque bytes: their format is the state machine's.
All bodies are msgpack arrays; fields that a newer version appends are ignored.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvstore.errors import InvalidArgument, KVError, NotLeader, ProtocolError, from_wire
from kvstore.ids import NodeId, Revision, ShardId
from kvstore.wire import fields
from kvstore.wire.codec import (
    ARRAY,
    BOOL,
    BYTES,
    MAP,
    NIL,
    TEXT,
    UINT,
    check_fields,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READ_KEYS_MAX: Final = 4096
"""Keys of one READ request."""
SCAN_ROWS_MAX: Final = 4096
"""Rows of one SCAN answer; the server gives fewer when asked for more."""

LEADER: Final = "leader"
"""The details of a ``NotLeader`` on the wire: who leads, where it listens, and how old is the
map of whoever says so."""
ADDRESS: Final = "address"
MAP_VERSION: Final = "map_version"


class ReadMode(IntEnum):
    """How fresh an answer must be (DESIGN section 3)."""

    LINEARIZABLE = 0
    STALE = 1
    """Whatever this replica has applied."""
    SESSION = 2
    """At least as new as the request's ``min_revision``."""


_READ_MODES: Final = {mode.value: mode for mode in ReadMode}


class WriteRequest(NamedTuple):
    """One batch of commands for one shard."""

    map_version: int
    """The shard map the client routed by; 0 if it has none."""
    shard: ShardId
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """How many commands are in ``batch``; the state machine refuses a batch that lies."""
    batch: bytes


class ReadRequest(NamedTuple):
    """Some keys of one shard."""

    map_version: int
    shard: ShardId
    mode: ReadMode
    keys: list[bytes]
    """1 to ``READ_KEYS_MAX``, none of them empty."""
    min_revision: Revision


class ScanRequest(NamedTuple):
    """A range of one shard's keys, ``[start, end)``, in key order."""

    map_version: int
    shard: ShardId
    mode: ReadMode
    start: bytes
    end: bytes | None
    """None: to the end of the shard."""
    limit: int
    """Rows, 1 to ``SCAN_ROWS_MAX``."""
    bytes_max: int
    keys_only: bool


class ScanReply(NamedTuple):
    """A page of a scan."""

    rows: list[tuple[bytes, bytes | None, Revision]]
    """Key, value (None when only keys were asked for), revision of the last change."""
    more: bool
    """Whether keys of the range are left after the last row."""


class ShardMapReply(NamedTuple):
    """What a client needs for routing."""

    map: Any
    """What :func:`kvstore.sharding.map_wire.encode` gave, as it came."""
    leaders: dict[ShardId, NodeId]
    """Who led each shard when the node last heard; shards without a known leader are left out."""
    revision_now: Revision


def encode_write(request: WriteRequest) -> bytes:
    """The body of a WRITE frame."""
    return pack(request)


def decode_write(body: bytes) -> WriteRequest:
    """Read a WRITE.

    Raises:
        InvalidArgument: malformed.
    """
    map_version, shard, count, batch = decode_fields(body, "write", UINT, UINT, UINT, BYTES)
    if count == 0:
        raise InvalidArgument("write: the batch is empty")
    return WriteRequest(map_version, shard, count, batch)


def encode_read(request: ReadRequest) -> bytes:
    """The body of a READ frame."""
    return pack(request)


def decode_read(body: bytes) -> ReadRequest:
    """Read a READ.

    Raises:
        InvalidArgument: malformed, no keys, too many, or an empty one.
    """
    map_version, shard, mode, keys, min_revision = decode_fields(
        body, "read", UINT, UINT, UINT, ARRAY, UINT
    )
    if set(map(type, keys)) != {bytes} or not all(keys):
        raise InvalidArgument("read: keys must be one or more byte strings, none of them empty")
    return ReadRequest(map_version, shard, _mode(mode), keys, min_revision)


def encode_read_reply(rows: Sequence[tuple[bytes, int] | None]) -> bytes:
    """The answer to a READ: value and revision for each key in order, None where absent."""
    return pack(rows)


def decode_read_reply(body: bytes, count: int) -> list[tuple[bytes, Revision] | None]:
    """Read the answer to a READ of ``count`` keys.

    Raises:
        ProtocolError: malformed, or not ``count`` rows.
    """
    rows = unpack(body)
    if type(rows) is not list or len(rows) != count:
        raise ProtocolError(f"read reply: expected {count} rows")
    for row in rows:
        if row is None:
            continue
        if type(row) is not list or len(row) != 2:
            raise ProtocolError("read reply: a row must be nil or [value, revision]")
        value, revision = row
        if type(value) is not bytes or type(revision) is not int or revision < 0:
            raise ProtocolError("read reply: a row must be nil or [value, revision]")
    return rows


def encode_scan(request: ScanRequest) -> bytes:
    """The body of a SCAN frame."""
    return pack(request)


def decode_scan(body: bytes) -> ScanRequest:
    """Read a SCAN; a larger ``limit`` is lowered to ``SCAN_ROWS_MAX``.

    Raises:
        InvalidArgument: malformed, or a limit of 0.
    """
    map_version, shard, mode, start, end, limit, bytes_max, keys_only = decode_fields(
        body, "scan", UINT, UINT, UINT, BYTES, BYTES | NIL, UINT, UINT, BOOL
    )
    if limit == 0 or bytes_max == 0:
        raise InvalidArgument("scan: limit and bytes_max must be above 0")
    return ScanRequest(
        map_version, shard, _mode(mode), start, end,
        min(limit, SCAN_ROWS_MAX), bytes_max, keys_only,
    )  # fmt: skip


def encode_scan_reply(rows: Sequence[tuple[bytes, bytes | None, int]], more: bool) -> bytes:
    """The answer to a SCAN."""
    return pack((rows, more))


def decode_scan_reply(body: bytes) -> ScanReply:
    """Read the answer to a SCAN.

    Raises:
        ProtocolError: malformed.
    """
    rows, more = check_fields(unpack(body), "scan reply", ARRAY, BOOL)[:2]
    for row in rows:
        check_fields(row, "scan reply row", BYTES, BYTES | NIL, UINT)
    return ScanReply([(row[0], row[1], row[2]) for row in rows], more)


def encode_shard_map_reply(
    shard_map: object, leaders: Mapping[ShardId, NodeId], revision_now: int
) -> bytes:
    """The answer to a SHARD_MAP request (whose own body is empty)."""
    return pack((shard_map, leaders, revision_now))


def decode_shard_map_reply(body: bytes) -> ShardMapReply:
    """Read the answer to a SHARD_MAP request; the map itself is not looked into.

    Raises:
        ProtocolError: malformed.
    """
    reply = check_fields(unpack(body, any_keys=True), "shard map reply", ARRAY | MAP, MAP, UINT)
    shard_map, leaders, revision_now = reply[:3]
    for shard, node in leaders.items():
        check_fields([shard, node], "shard map reply: a leader", UINT, TEXT)
    return ShardMapReply(shard_map, leaders, Revision(revision_now))


def encode_status_reply(status: Mapping[str, Any]) -> bytes:
    """The answer to a STATUS request (whose own body is empty)."""
    return pack(status)


def decode_status_reply(body: bytes) -> dict[str, Any]:
    """Read the answer to a STATUS request.

    Raises:
        ProtocolError: not a map.
    """
    status = unpack(body)
    if not isinstance(status, dict):
        raise ProtocolError("status reply: must be a map")
    return status


def encode_error(error: KVError) -> bytes:
    """The body of an ERROR frame: code, message, whether a write may have applied, details."""
    details: dict[str, Any] = {}
    if isinstance(error, NotLeader):
        hints = (LEADER, error.leader), (ADDRESS, error.address), (MAP_VERSION, error.map_version)
        details = {name: hint for name, hint in hints if hint}
    return pack((error.code, error.message, error.may_have_applied, details))


def decode_error(body: bytes) -> KVError:
    """The error that another process sent; it is returned, not raised.

    Details that this version does not know are ignored, and none needs to be there.

    Raises:
        ProtocolError: malformed.
    """
    code, message, may_have_applied, details = check_fields(
        unpack(body), "error", TEXT, TEXT, BOOL, MAP
    )[:4]
    error = from_wire(code, message, may_have_applied=may_have_applied)
    if isinstance(error, NotLeader):
        error.leader = fields.node_id_or_none(details.get(LEADER), "error: the leader")
        if (address := details.get(ADDRESS)) is not None:
            error.address = fields.address(address, "error: the leader's address")
        error.map_version = fields.whole(details.get(MAP_VERSION, 0), "error: the map version")
    return error


def decode_fields(body: bytes, what: str, *allowed: frozenset[type]) -> list[Any]:
    """The fields of a request: one array, in which only an ARRAY field is another.

    Raises:
        InvalidArgument: malformed.
    """
    try:
        value = unpack(body, items_max=READ_KEYS_MAX, containers_max=1 + allowed.count(ARRAY))
        return check_fields(value, what, *allowed)[: len(allowed)]
    except ProtocolError as error:
        raise InvalidArgument(f"malformed request: {error.message}") from error


def _mode(mode: int) -> ReadMode:
    known = _READ_MODES.get(mode)
    if known is None:
        raise InvalidArgument(f"unknown read mode {mode}")
    return known
