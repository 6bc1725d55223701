"""The bytes of the write-ahead log: records, batches and segment headers. Pure.

All numbers are big-endian. A **record** (DESIGN section 6)::

    length u32 | crc32c u32 | type u8 | group u32 | index u64 | term u64 | payload

``length`` counts what follows the checksum, and the checksum covers exactly that. No record
has length 0, so zeros (preallocated space) are never taken for one.

A **batch** is what one write and one ``fdatasync`` made durable; it is recovered whole or not
at all::

    BATCH record (index: sequence number, term: flags, payload: body_bytes u64 | salt u64)
    body: records, then one byte 0xFF

The sequence number rises by one from batch to batch over all segments, so a missing,
doubled or misplaced one is noticed. The salt is a random number of the segment: bytes of a
value can never pose as the start of a batch. Salt and body both end in a byte that is not
zero, so zeros at the end of a batch mean that its end was never written.

A BATCH record with the flag ``CLOSES`` has no body: it ends its segment and names the batch
with which the next segment starts.

A group comes to a node, leaves it, and may come again, each time as another replica. A
REPLICA record stands between what one replica of the group wrote here and what the next did:
all records of the group before it are void, be they in this segment or in an earlier one. Of
a group that was founded here there is none. One that names the replica which the group has
already changes nothing (ids are never used again); with such a one each segment begins.

REPLICA came later than the other types. The format's version did not rise with it: a version
of the program that does not know it refuses the record, wherever it stands, and reads logs
that have none as it always did; so does this version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT_VERSION = 1

_FRAME = struct.Struct(">II")
_HEAD = struct.Struct(">BIQQ")
_ENTRY_HEAD = struct.Struct(">BIQQB")
_VOTE = struct.Struct(">Q")
_REPLICA = struct.Struct(">Q")
_BATCH = struct.Struct(">QQ")
_SEGMENT = struct.Struct(">HQQHH")

FRAME_BYTES = _FRAME.size
RECORD_BYTES_MIN = _FRAME.size + _HEAD.size
"""A record without payload."""
BATCH_HEAD_BYTES = RECORD_BYTES_MIN + _BATCH.size
SALT_OFFSET = BATCH_HEAD_BYTES - 8
"""Where in a BATCH record its segment's salt stands."""
BATCH_END = b"\xff"
CLOSES = 1


class RecordType(IntEnum):
    """What a record says."""

    ENTRY = 1
    """A log entry; whatever the group's log held at its index and beyond is replaced."""
    HARD_STATE = 2
    """A term, and whom the replica voted for in it."""
    TRUNCATION = 3
    """Entries at ``index`` and beyond are gone."""
    MARK = 4
    """Entries up to ``index`` are applied and may be released; holds the configuration there."""
    SEGMENT = 5
    """The first record of a file: which segment of whose log it is."""
    BATCH = 6
    """The start of a batch, or the end of a segment."""
    LOG_END = 7
    """At the start of a segment: the group's last index in the segments before it."""
    REPLICA = 8
    """What the group wrote before is void; what follows is of this replica, if there is one."""


@dataclass(slots=True)
class Record:
    """One decoded record."""

    type: int
    group: int
    index: int
    term: int
    payload: memoryview

    @property
    def size(self) -> int:
        """Bytes that it takes in the file."""
        return RECORD_BYTES_MIN + len(self.payload)


class BatchHead(NamedTuple):
    """The start of a batch: ``body_bytes`` of records and the end byte follow."""

    sequence: int
    body_bytes: int
    closes: bool


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Which segment of whose log a file is."""

    number: int
    first_sequence: int
    """The sequence number of its first batch."""
    salt: int
    made_bytes: int
    """Its preallocated size, durable before the first batch was written."""
    cluster_id: str
    node_id: str
    version: int = FORMAT_VERSION


def _encode(head: bytes, payload: bytes) -> bytes:
    checksum = crc32c(payload, crc32c(head))
    return b"".join((_FRAME.pack(len(head) + len(payload), checksum), head, payload))


def encode_entry(group: int, index: int, term: int, kind: int, payload: bytes) -> bytes:
    """A log entry; ``kind`` is one byte that only the caller understands."""
    return _encode(_ENTRY_HEAD.pack(RecordType.ENTRY, group, index, term, kind), payload)


def encode_hard_state(group: int, term: int, vote: int) -> bytes:
    """A term and the vote in it, 0 for none."""
    return _encode(_HEAD.pack(RecordType.HARD_STATE, group, 0, term), _VOTE.pack(vote))


def encode_truncation(group: int, index: int) -> bytes:
    """The group's log ends before ``index``."""
    return _encode(_HEAD.pack(RecordType.TRUNCATION, group, index, 0), b"")


def encode_mark(group: int, index: int, term: int, config: bytes) -> bytes:
    """Entries up to ``index`` are applied; ``config`` is in force there."""
    return _encode(_HEAD.pack(RecordType.MARK, group, index, term), config)


def encode_log_end(group: int, index: int) -> bytes:
    """The group's log reaches to ``index`` in the segments before this one."""
    return _encode(_HEAD.pack(RecordType.LOG_END, group, index, 0), b"")


def encode_replica(group: int, replica: int) -> bytes:
    """The group is here as ``replica`` from now on; 0: it is not here any more."""
    return _encode(_HEAD.pack(RecordType.REPLICA, group, 0, 0), _REPLICA.pack(replica))


def encode_batch_head(salt: int, sequence: int, body_bytes: int) -> bytes:
    """The start of batch ``sequence``; ``body_bytes`` counts its records and the end byte."""
    head = _HEAD.pack(RecordType.BATCH, 0, sequence, 0)
    return _encode(head, _BATCH.pack(body_bytes, salt))


def encode_batch(salt: int, sequence: int, records: Sequence[bytes]) -> bytes:
    """A whole batch in one piece."""
    body_bytes = sum(map(len, records)) + len(BATCH_END)
    return b"".join((encode_batch_head(salt, sequence, body_bytes), *records, BATCH_END))


def encode_close(salt: int, next_sequence: int) -> bytes:
    """The end of a segment: batch ``next_sequence`` stands in the next one."""
    return _encode(_HEAD.pack(RecordType.BATCH, 0, next_sequence, CLOSES), _BATCH.pack(0, salt))


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first record of a segment file."""
    cluster, node = header.cluster_id.encode(), header.node_id.encode()
    sizes = _SEGMENT.pack(header.version, header.salt, header.made_bytes, len(cluster), len(node))
    head = _HEAD.pack(RecordType.SEGMENT, 0, header.number, header.first_sequence)
    return _encode(head, sizes + cluster + node)


def segment_header_bytes(cluster_id: str, node_id: str) -> int:
    """How much the header of a segment of this log takes."""
    names = len(cluster_id.encode()) + len(node_id.encode())
    return RECORD_BYTES_MIN + _SEGMENT.size + names


def read_record(data: memoryview, offset: int, limit: int) -> Record | None:
    """The record at ``offset`` if it is whole before ``limit`` and its checksum holds."""
    start = offset + FRAME_BYTES
    if start + _HEAD.size > limit:
        return None
    length, checksum = _FRAME.unpack_from(data, offset)
    end = start + length
    if length < _HEAD.size or end > limit or crc32c(data[start:end]) != checksum:
        return None
    kind, group, index, term = _HEAD.unpack_from(data, start)
    return Record(kind, group, index, term, data[start + _HEAD.size : end])


def read_batch_head(data: memoryview, offset: int, salt: int) -> BatchHead | None:
    """The start of a batch of the segment with this ``salt``, if one stands at ``offset``."""
    record = read_record(data, offset, min(len(data), offset + BATCH_HEAD_BYTES))
    if record is None or record.type != RecordType.BATCH or len(record.payload) != _BATCH.size:
        return None
    body_bytes, found = _BATCH.unpack(record.payload)
    if found != salt:
        return None
    return BatchHead(record.index, body_bytes, bool(record.term & CLOSES))


def decode_segment_header(record: Record) -> SegmentHeader | None:
    """What a segment's first record says, or None if it is no header.

    Of a newer format only the version is known to stand where this code looks for it.
    """
    payload = record.payload
    if record.type != RecordType.SEGMENT or len(payload) < _SEGMENT.size:
        return None
    version, salt, made_bytes, cluster_bytes, node_bytes = _SEGMENT.unpack_from(payload)
    names = bytes(payload[_SEGMENT.size :])
    return SegmentHeader(
        number=record.index,
        first_sequence=record.term,
        salt=salt,
        made_bytes=made_bytes,
        cluster_id=names[:cluster_bytes].decode(errors="replace"),
        node_id=names[cluster_bytes : cluster_bytes + node_bytes].decode(errors="replace"),
        version=version,
    )


def peek(record: bytes) -> tuple[int, int, int, int]:
    """Type, group, index and term of an encoded record."""
    kind, group, index, term = _HEAD.unpack_from(record, FRAME_BYTES)
    return kind, group, index, term


def decode_vote(payload: bytes | memoryview) -> int:
    """The vote of a HARD_STATE record."""
    vote: int = _VOTE.unpack(payload)[0]
    return vote


def decode_replica(payload: bytes | memoryview) -> int:
    """The id in a REPLICA record, 0 for none."""
    replica: int = _REPLICA.unpack(payload)[0]
    return replica


def payload_of(record: bytes) -> bytes:
    """The payload of an encoded record."""
    return record[RECORD_BYTES_MIN:]
