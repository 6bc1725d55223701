"""Bodies of requests and answers: round trips, pinned forms, and every way to be malformed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import errors
from kvstore.ids import NodeId, Revision, ShardId
from kvstore.wire import requests
from kvstore.wire.codec import pack, unpack
from kvstore.wire.requests import (
    READ_KEYS_MAX,
    SCAN_ROWS_MAX,
    ReadMode,
    ReadRequest,
    ScanRequest,
    WriteRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

WRITE = WriteRequest(3, ShardId(5), 2, b"opaque")
READ = ReadRequest(3, ShardId(5), ReadMode.SESSION, [b"a", b"b"], Revision(2**63))
SCAN = ScanRequest(3, ShardId(5), ReadMode.LINEARIZABLE, b"a", None, 10, 1000, False)


def test_requests_come_back() -> None:
    assert requests.decode_write(requests.encode_write(WRITE)) == WRITE
    assert requests.decode_read(requests.encode_read(READ)) == READ
    assert requests.decode_scan(requests.encode_scan(SCAN)) == SCAN
    bounded = SCAN._replace(end=b"z", keys_only=True)
    assert requests.decode_scan(requests.encode_scan(bounded)) == bounded


def test_the_formats_are_pinned() -> None:
    assert unpack(requests.encode_write(WRITE)) == [3, 5, 2, b"opaque"]
    assert unpack(requests.encode_read(READ)) == [3, 5, 2, [b"a", b"b"], 2**63]
    assert unpack(requests.encode_scan(SCAN)) == [3, 5, 0, b"a", None, 10, 1000, False]
    refusal = errors.NotLeader("not here", leader="n2", may_have_applied=True)
    assert unpack(requests.encode_error(refusal)) == [
        "not_leader", "not here", True, {"leader": "n2"},
    ]  # fmt: skip
    refusal = errors.NotLeader("moved", leader="n4", address="[::1]:7404", map_version=9)
    assert unpack(requests.encode_error(refusal)) == [
        "not_leader", "moved", False, {"leader": "n4", "address": "[::1]:7404", "map_version": 9},
    ]  # fmt: skip
    assert unpack(requests.encode_error(errors.Overloaded("busy")))[3] == {}


def test_fields_of_a_later_version_are_ignored() -> None:
    assert requests.decode_read(pack([*READ, "priority"])) == READ
    assert requests.decode_write(pack([*WRITE, 7])) == WRITE


def test_a_scan_asks_for_no_more_rows_than_a_page_has() -> None:
    greedy = SCAN._replace(limit=SCAN_ROWS_MAX + 1)
    assert requests.decode_scan(requests.encode_scan(greedy)).limit == SCAN_ROWS_MAX


MALFORMED = [
    b"",
    b"\xc0",
    b"\xc1garbage",
    pack([]),
    pack({}),
    pack("text"),
    b"\x91" * 1500,
    b"\xdd\xff\xff\xff\xff",
    pack([[[]]] * 8),
]


@pytest.mark.parametrize(
    "decode", [requests.decode_write, requests.decode_read, requests.decode_scan]
)
@pytest.mark.parametrize("body", MALFORMED)
def test_a_malformed_request_is_an_invalid_argument(
    decode: Callable[[bytes], object], body: bytes
) -> None:
    with pytest.raises(errors.InvalidArgument, match="malformed request"):
        decode(body)


@pytest.mark.parametrize(
    ("decode", "fields", "why"),
    [
        (requests.decode_write, [3, 5, 0, b""], "batch is empty"),
        (requests.decode_write, [3, -5, 1, b""], "negative"),
        (requests.decode_write, [3, 5, 1, "text"], "field 3 must be bytes"),
        (requests.decode_write, [3, 5, 1, b"", []], "more than 1 arrays"),
        (requests.decode_read, [3, 5, 0, [], 0], "one or more byte strings"),
        (requests.decode_read, [3, 5, 0, [b"a", b""], 0], "one or more byte strings"),
        (requests.decode_read, [3, 5, 0, [b"a", "b"], 0], "one or more byte strings"),
        (requests.decode_read, [3, 5, 0, [[b"a"]], 0], "more than 2 arrays"),
        (requests.decode_read, [3, 5, 0, [b"k"] * (READ_KEYS_MAX + 1), 0], "max_array_len"),
        (requests.decode_read, [3, 5, 3, [b"a"], 0], "unknown read mode 3"),
        (requests.decode_scan, [3, 5, 0, b"", None, 0, 1, False], "above 0"),
        (requests.decode_scan, [3, 5, 0, b"", None, 1, 0, False], "above 0"),
        (requests.decode_scan, [3, 5, 9, b"", None, 1, 1, False], "unknown read mode"),
        (requests.decode_scan, [3, 5, 0, None, None, 1, 1, False], "field 3 must be bytes"),
        (requests.decode_scan, [3, 5, 0, b"", None, 1, 1, 0], "field 7 must be bool"),
    ],
)
def test_a_request_that_breaks_a_rule(
    decode: Callable[[bytes], object], fields: list[Any], why: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=why):
        decode(pack(fields))


def test_replies_come_back() -> None:
    rows = [(b"value", 12), None]
    assert requests.decode_read_reply(requests.encode_read_reply(rows), 2) == [[b"value", 12], None]
    page = [(b"k1", b"v", 1), (b"k2", None, 2)]
    assert requests.decode_scan_reply(requests.encode_scan_reply(page, True)) == (page, True)
    leaders = {ShardId(0): NodeId("n1"), ShardId(7): NodeId("n3")}
    reply = requests.encode_shard_map_reply([1, {"x": []}], leaders, 99)
    assert requests.decode_shard_map_reply(reply) == ([1, {"x": []}], leaders, 99)
    status = {"node": {"id": "n1"}, "shards": []}
    assert requests.decode_status_reply(requests.encode_status_reply(status)) == status


@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (lambda body: requests.decode_read_reply(body, 1), []),
        (lambda body: requests.decode_read_reply(body, 1), [None, None]),
        (lambda body: requests.decode_read_reply(body, 1), None),
        (lambda body: requests.decode_read_reply(body, 1), [[b"v"]]),
        (lambda body: requests.decode_read_reply(body, 1), ["vr"]),
        (lambda body: requests.decode_read_reply(body, 1), [["v", 1]]),
        (lambda body: requests.decode_read_reply(body, 1), [[b"v", b"1"]]),
        (requests.decode_scan_reply, [[[b"k", "v", 1]], False]),
        (requests.decode_scan_reply, [[], 0]),
        (requests.decode_shard_map_reply, [[], {}, "now"]),
        (requests.decode_shard_map_reply, [[], {"0": "n1"}, 1]),
        (requests.decode_status_reply, []),
        (requests.decode_error, ["code", "message", False]),
        *(
            (requests.decode_error, ["not_leader", "message", False, details])
            for details in (
                {"leader": 1},
                {"leader": ""},
                {"leader": "n 2"},
                {"leader": "n" * 65},
                {"address": 1},
                {"address": ""},
                {"address": "n2"},
                {"address": "n2:0"},
                {"address": "n" * 300 + ":1"},
                {"address": "n2\n:1"},
                {"map_version": None},
                {"map_version": -1},
                {"map_version": True},
                {"map_version": 1.0},
                {"map_version": 1 << 63},
            )
        ),
    ],
)
def test_a_malformed_reply_is_a_protocol_error(
    decode: Callable[[bytes], object], value: object
) -> None:
    with pytest.raises(errors.ProtocolError):
        decode(pack(value))


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument("bad key"),
        errors.Overloaded("too much", may_have_applied=True),
        errors.NotLeader("elsewhere", leader="n2"),
        errors.NotLeader("nobody knows", leader=None),
        errors.NotLeader("moved", leader="n4", address="10.0.0.4:7401", map_version=(1 << 63) - 1),
        errors.Refused("wrong cluster"),
        errors.ClockAhead("600 ms"),
    ],
)
def test_an_error_comes_back_as_itself(error: errors.KVError) -> None:
    received = requests.decode_error(requests.encode_error(error))
    assert type(received) is type(error)
    assert vars(received) == vars(error)


@given(
    st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    st.none() | st.builds("10.0.0.{}:{}".format, st.integers(0, 255), st.integers(1, 65535)),
    st.integers(0, (1 << 63) - 1),
    st.booleans(),
)
def test_whatever_a_refusal_hints_at_arrives(
    leader: str | None, address: str | None, map_version: int, may_have_applied: bool
) -> None:
    sent = errors.NotLeader(
        "moved",
        leader=leader,
        address=address,
        map_version=map_version,
        may_have_applied=may_have_applied,
    )
    received = requests.decode_error(requests.encode_error(sent))
    assert type(received) is errors.NotLeader
    assert vars(received) == vars(sent)


def test_hints_are_of_one_error_and_later_ones_are_ignored() -> None:
    hints = {"leader": 7, "address": 7, "map_version": "x", "since": 1}
    assert type(requests.decode_error(pack(["overloaded", "m", False, hints]))) is errors.Overloaded
    hints = {"leader": "n2", "since": [1]}
    received = requests.decode_error(pack(["not_leader", "m", False, hints, "more"]))
    assert vars(received) == vars(errors.NotLeader("m", leader="n2"))


def test_an_error_of_a_later_version_is_still_an_error() -> None:
    received = requests.decode_error(pack(["quota_exceeded", "no more", False, {}]))
    assert type(received) is errors.Internal
    assert received.message == "no more"
