from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import InvalidArgument, ProtocolError
from kvstore.ids import LogIndex, ShardId, Term
from kvstore.wire.checksums import (
    ChecksumReply,
    ChecksumRequest,
    decode_checksum,
    decode_checksum_reply,
    encode_checksum,
    encode_checksum_reply,
)
from kvstore.wire.codec import pack, unpack

REQUEST = ChecksumRequest(ShardId(5), LogIndex(2**63), 2000)
REPLY = ChecksumReply(LogIndex(7), Term(3), 2**64 - 1, 10, 1000)


def test_request_and_reply_come_back() -> None:
    assert decode_checksum(encode_checksum(REQUEST)) == REQUEST
    assert decode_checksum_reply(encode_checksum_reply(REPLY), LogIndex(7)) == REPLY
    elsewhere = REPLY._replace(checksum=None)
    assert decode_checksum_reply(encode_checksum_reply(elsewhere), LogIndex(6)) == elsewhere


def test_the_formats_are_pinned() -> None:
    assert unpack(encode_checksum(REQUEST)) == [5, 2**63, 2000]
    assert unpack(encode_checksum_reply(REPLY)) == [7, 3, 2**64 - 1, 10, 1000]


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode_checksum(pack([*REQUEST, "later"])) == REQUEST
    assert decode_checksum_reply(pack([*REPLY, "later"]), LogIndex(7)) == REPLY


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\xc1garbage",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 1500,
        pack([]),
        pack({}),
        pack([5, 7]),
        pack([-5, 7, 1]),
        pack([5, 7.0, 1]),
        pack([5, None, 1]),
        pack([5, 7, True]),
        pack([5, 7, []]),
        pack([5, 7, 1, []]),
    ],
)
def test_a_malformed_request_is_an_invalid_argument(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="malformed request"):
        decode_checksum(body)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [7, 3, 1, 10],
        [7, 3, "1", 10, 1000],
        [7, 3, 1, None, 1000],
        [7, 3, -1, 10, 1000],
        [7, 3, [], 10, 1000],
        [7, 3, 1, 10, 1000, []],
    ],
)
def test_a_malformed_reply_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        decode_checksum_reply(pack(value), LogIndex(7))


@pytest.mark.parametrize(
    "reply", [REPLY._replace(index=LogIndex(8)), REPLY._replace(checksum=None)]
)
def test_a_checksum_stands_at_the_index_that_was_asked_for_and_no_other(
    reply: ChecksumReply,
) -> None:
    with pytest.raises(ProtocolError, match="asked at 7"):
        decode_checksum_reply(encode_checksum_reply(reply), LogIndex(7))


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(InvalidArgument):
        decode_checksum(body)
    with suppress(ProtocolError):
        decode_checksum_reply(body, LogIndex(7))
