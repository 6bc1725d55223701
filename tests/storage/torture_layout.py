"""Every field of every record of a segment, found by a reading of the format of its own.

From the description in :mod:`kvstore.storage.records` and not by its code, so that a change
of one that is not a change of the other is noticed.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_HEAD: Final = struct.Struct(">IIBIQQ")
_TYPES: Final = {
    1: "ENTRY",
    2: "HARD_STATE",
    3: "TRUNCATION",
    4: "MARK",
    5: "SEGMENT",
    6: "BATCH",
    7: "LOG_END",
    8: "REPLICA",
}
_COMMON: Final = {"length": 4, "crc": 4, "type": 1, "group": 4, "index": 8, "term": 8}
_PAYLOADS: Final = {
    "ENTRY": {"kind": 1},
    "HARD_STATE": {"vote": 8},
    "TRUNCATION": {},
    "MARK": {},
    "SEGMENT": {"version": 2, "salt": 8, "made_bytes": 8, "cluster_size": 2, "node_size": 2},
    "BATCH": {"body_bytes": 8, "salt": 8},
    "LOG_END": {},
    "REPLICA": {"replica": 8},
}
_REST: Final = {"ENTRY": "data", "MARK": "config", "SEGMENT": "names"}
"""What is left of a payload after its numbers."""


class Field(NamedTuple):
    """Bytes ``[start, end)`` of a file."""

    name: str
    start: int
    end: int


def field_names() -> set[str]:
    """All there are in a segment; a closing record has the fields of a BATCH."""
    names = {"batch end"}
    for record, numbers in _PAYLOADS.items():
        rest = [_REST[record]] if record in _REST else []
        names |= {f"{record}.{field}" for field in (*_COMMON, *numbers, *rest)}
    return names | {name.replace("BATCH", "CLOSE") for name in names if name.startswith("BATCH")}


def fields_of(data: bytes) -> list[Field]:
    """The fields of a whole, undamaged segment, in order and without a gap."""
    found: list[Field] = []
    at, batch_end = 0, -1
    while at < len(data) and any(data[at : at + 4]):
        at, body_bytes = _record(data, at, found)
        if body_bytes:
            batch_end = at + body_bytes - 1
        if at == batch_end:
            assert data[at] == 0xFF
            found.append(Field("batch end", at, at + 1))
            at += 1
    assert not any(data[at:])
    return found


def _record(data: bytes, at: int, found: list[Field]) -> tuple[int, int]:
    """Add one record's fields; where it ends, and how much a batch announces to follow."""
    length, _, kind, _, _, term = _HEAD.unpack_from(data, at)
    name = _TYPES[kind]
    end = at + 8 + length
    body_bytes = 0
    sizes = {**_COMMON, **_PAYLOADS[name]}
    if name == "BATCH":
        (body_bytes,) = struct.unpack_from(">Q", data, at + _HEAD.size)
        name = "CLOSE" if term else "BATCH"
    for field, size in sizes.items():
        found.append(Field(f"{name}.{field}", at, at + size))
        at += size
    if at < end:
        found.append(Field(f"{name}.{_REST[name]}", at, end))
    return end, body_bytes
