"""Raft messages on the wire: round trips, pinned bytes, nothing malformed gets through."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from kvstore.wire.raft_codec import decode_messages, encode_bodies, encode_messages

uint = st.integers(0, 2**64 - 1)
ids = st.lists(st.integers(1, 2**64 - 1), max_size=5, unique=True).map(sorted).map(tuple)
configs = st.builds(GroupConfig, ids, ids, ids, ids, uint)
entry_parts = st.lists(st.tuples(uint, st.sampled_from(EntryKind), st.binary(max_size=50)))


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    prev_index = draw(st.integers(0, 2**63))
    entries = tuple(
        Entry(LogIndex(prev_index + 1 + offset), Term(term), kind, payload)
        for offset, (term, kind, payload) in enumerate(draw(entry_parts))
    )
    sender, receiver, term, prev_term, commit = (draw(uint) for _ in range(5))
    return AppendRequest(
        ReplicaId(sender), ReplicaId(receiver), Term(term), LogIndex(prev_index), Term(prev_term),
        entries, LogIndex(commit),
    )  # fmt: skip


flags = st.booleans()
header = (uint, uint, uint)
messages = st.one_of(
    appends(),
    st.builds(VoteRequest, *header, uint, uint, flags, flags),
    st.builds(VoteResponse, *header, flags, flags),
    st.builds(AppendResponse, *header, uint, flags, uint, uint, uint),
    st.builds(Heartbeat, *header, uint, uint),
    st.builds(HeartbeatResponse, *header, uint),
    st.builds(ReadIndexRequest, *header, uint),
    st.builds(ReadIndexResponse, *header, uint, uint, flags),
    st.builds(TimeoutNow, *header),
    st.builds(
        SnapshotChunk, *header, st.builds(SnapshotMeta, uint, uint, configs), uint, uint,
        st.binary(max_size=50), flags,
    ),
    st.builds(SnapshotResponse, *header, uint, uint, uint, flags, flags),
)  # fmt: skip
batches = st.lists(st.tuples(uint.map(GroupId), messages), max_size=8)


@given(batches)
def test_messages_come_back(batch: list[tuple[GroupId, Message]]) -> None:
    decoded = decode_messages(encode_messages(batch))
    assert decoded == batch
    assert [type(message) for _, message in decoded] == [type(message) for _, message in batch]


PINNED: list[tuple[Message, list[Any]]] = [
    (VoteRequest(2, 3, 4, 5, 6, True, False), [1, 9, 2, 3, 4, 5, 6, True, False]),
    (VoteResponse(2, 3, 4, True, False), [2, 9, 2, 3, 4, True, False]),
    (
        AppendRequest(
            2, 3, 4, 5, 6,
            (Entry(6, 6, EntryKind.COMMAND, b"c"), Entry(7, 7, EntryKind.NOOP, b"")),
            5,
        ),
        [3, 9, 2, 3, 4, 5, 6, 5, [6, 0, b"c", 7, 2, b""]],
    ),
    (AppendResponse(2, 3, 4, 5, True, 6, 7, 8), [4, 9, 2, 3, 4, 5, True, 6, 7, 8]),
    (Heartbeat(2, 3, 4, 5, 6), [5, 9, 2, 3, 4, 5, 6]),
    (HeartbeatResponse(2, 3, 4, 5), [6, 9, 2, 3, 4, 5]),
    (ReadIndexRequest(2, 3, 4, 5), [7, 9, 2, 3, 4, 5]),
    (ReadIndexResponse(2, 3, 4, 5, 6, True), [8, 9, 2, 3, 4, 5, 6, True]),
    (TimeoutNow(2, 3, 4), [9, 9, 2, 3, 4]),
    (
        SnapshotChunk(
            2, 3, 4, SnapshotMeta(5, 6, GroupConfig((1, 2), (1, 3), (4,), (3,))), 7, 8, b"d", True
        ),
        [10, 9, 2, 3, 4, 5, 6, 7, 8, [[1, 2], [1, 3], [4], [3]], b"d", True],
    ),
    (SnapshotResponse(2, 3, 4, 5, 6, 7, True, False), [11, 9, 2, 3, 4, 5, 6, 7, True, False]),
]  # fmt: skip


@pytest.mark.parametrize(("message", "row"), PINNED, ids=lambda part: type(part).__name__)
def test_the_format_is_pinned(message: Message, row: list[Any]) -> None:
    assert unpack(encode_messages([(GroupId(9), message)])) == [row]


def test_every_message_has_a_pinned_format() -> None:
    assert {type(message) for message, _ in PINNED} == set(get_args(Message))


WRONG: list[Any] = [None, -1, True, 1.5, "x", b"x", [], {}]


@pytest.mark.parametrize("row", [row for _, row in PINNED], ids=lambda row: f"tag {row[0]}")
def test_a_wrong_type_in_any_field(row: list[Any]) -> None:
    for position in range(len(row)):
        for wrong in WRONG:
            is_same_type = type(wrong) is type(row[position]) and wrong != -1
            if is_same_type:
                continue
            spoilt = [*row[:position], wrong, *row[position + 1 :]]
            with pytest.raises(ProtocolError):
                decode_messages(pack([spoilt]))


@pytest.mark.parametrize("row", [row for _, row in PINNED], ids=lambda row: f"tag {row[0]}")
def test_a_field_too_few_or_too_many(row: list[Any]) -> None:
    for spoilt in (row[:-1], [*row, 0], row[:1], []):
        with pytest.raises(ProtocolError):
            decode_messages(pack([spoilt]))


def append_row(prev_index: int, entries: list[Any]) -> list[Any]:
    return [3, 9, 2, 3, 4, prev_index, 6, 5, entries]


def chunk_row(config: list[Any]) -> list[Any]:
    return [10, 9, 2, 3, 4, 5, 6, 7, 8, config, b"d", True]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [None],
        [[99, 1]],
        [[0, 1]],
        append_row(5, [6, 0]),
        append_row(5, [6, 0, "text"]),
        append_row(5, [6, 3, b""]),
        append_row(5, [-6, 0, b""]),
        append_row(5, [6, True, b""]),
        append_row(2**64 - 1, [6, 0, b""]),
        chunk_row([]),
        chunk_row([[1], [], []]),
        chunk_row([[1], [], [], None]),
        chunk_row([[2, 1], [], [], []]),
        chunk_row([[1, 1], [], [], []]),
        chunk_row([[0], [], [], []]),
        chunk_row([["n1"], [], [], []]),
        chunk_row([[True], [], [], []]),
    ],
)
def test_malformed(value: Any) -> None:
    is_row = isinstance(value, list) and value and isinstance(value[0], int)
    with pytest.raises(ProtocolError):
        decode_messages(pack([value] if is_row else value))


@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_a_protocol_error(body: bytes) -> None:
    try:
        decoded = decode_messages(body)
    except ProtocolError:
        return
    assert decode_messages(encode_messages(decoded)) == decoded


def test_a_gap_cannot_be_sent() -> None:
    gap = AppendRequest(1, 2, 3, 5, 3, (Entry(7, 3, EntryKind.NOOP, b""),), 5)
    with pytest.raises(AssertionError, match="without a gap"):
        encode_messages([(GroupId(1), gap)])


@given(batches, st.integers(0, 2000))
def test_split_bodies_hold_the_same_messages_and_keep_the_bound(
    batch: list[tuple[GroupId, Message]], bytes_max: int
) -> None:
    bodies = encode_bodies(batch, bytes_max)
    decoded = [decode_messages(body) for body in bodies]
    assert [item for part in decoded for item in part] == batch
    for body, part in zip(bodies, decoded, strict=True):
        assert len(body) <= bytes_max or len(part) == 1


def test_what_fits_is_not_split() -> None:
    batch: list[tuple[GroupId, Message]] = [(GroupId(1), Heartbeat(1, 2, 3, 4, 5))] * 100
    assert encode_bodies(batch, 1 << 20) == [encode_messages(batch)]
    assert encode_bodies([], 1 << 20) == []
