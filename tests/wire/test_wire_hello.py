"""The handshake's bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvstore.errors import ProtocolError, Refused
from kvstore.ids import NodeId, Revision
from kvstore.wire.codec import pack, unpack
from kvstore.wire.hello import (
    NOT_SAID,
    Begun,
    Hello,
    Welcome,
    decode_hello,
    decode_welcome,
    encode_hello,
    encode_welcome,
    negotiate,
)

CLIENT = Hello(role="client", software="test 1", wall_ms=1_700_000_000_000)
PEER = replace(
    CLIENT, role="peer", cluster_id="c", node_id=NodeId("n1"), lane=2, data_id=2**64 - 1, life=9,
    begun=Begun(5, 1_600_000_000_000),
)  # fmt: skip
WELCOME = Welcome(
    "c", NodeId("n2"), 7, 1_700_000_000_000, Revision(2**63), "test 1", life=8, begun=Begun(4, 3)
)


@pytest.mark.parametrize("hello", [CLIENT, PEER, replace(CLIENT, cluster_id="expected")])
def test_a_hello_comes_back(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


def test_a_welcome_comes_back() -> None:
    assert decode_welcome(encode_welcome(WELCOME)) == WELCOME


def test_the_formats_are_pinned() -> None:
    assert unpack(encode_hello(PEER)) == [
        1, 1, "peer", "c", "n1", 2, 2**64 - 1, 1_700_000_000_000, "test 1", 9,
        5, 1_600_000_000_000,
    ]  # fmt: skip
    assert unpack(encode_welcome(WELCOME)) == [
        1, "c", "n2", 7, 1_700_000_000_000, 2**63, "test 1", 8, 4, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0, 1), (1, 9)])
def test_versions_that_overlap(low: int, high: int) -> None:
    assert negotiate(low, high) == 1


@pytest.mark.parametrize(("low", "high"), [(2, 3), (0, 0), (2, 1)])
def test_versions_that_do_not(low: int, high: int) -> None:
    with pytest.raises(Refused, match=f"you speak {low} to {high}, this node speaks 1"):
        negotiate(low, high)


def test_a_later_version_is_refused_whatever_else_it_says() -> None:
    with pytest.raises(Refused, match="you speak 2 to 3"):
        decode_hello(pack([2, 3, {"everything": "is different"}]))
    with pytest.raises(Refused):
        decode_welcome(pack([2, {"everything": "is different"}]))


def test_a_later_version_that_still_speaks_ours_may_add_fields() -> None:
    fields = unpack(encode_hello(replace(PEER, protocol_max=2)))
    assert decode_hello(pack([*fields, "credentials"])).protocol_max == 2
    assert decode_welcome(pack([*unpack(encode_welcome(WELCOME)), {}])) == WELCOME


def test_what_an_older_peer_does_not_say_is_nothing() -> None:
    hello, welcome = unpack(encode_hello(PEER)), unpack(encode_welcome(WELCOME))
    assert decode_hello(pack(hello[:9])) == replace(PEER, life=0, begun=NOT_SAID)
    assert decode_welcome(pack(welcome[:7])) == replace(WELCOME, life=0, begun=NOT_SAID)
    assert decode_hello(pack(hello[:10])) == replace(PEER, begun=NOT_SAID)
    assert decode_welcome(pack(welcome[:8])) == replace(WELCOME, begun=NOT_SAID)


def spoilt(position: int, value: Any) -> bytes:
    fields = unpack(encode_hello(PEER))
    fields[position] = value
    return pack(fields)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "msgpack"),
        (b"\xc0", "hello must be an array"),
        (pack([1]), "2 fields, not 1"),
        (pack([1, 1, "peer"]), "9 fields, not 3"),
        (pack(["1", 1]), "field 0"),
        (spoilt(2, "admin"), "client or peer"),
        (spoilt(2, b"peer"), "field 2"),
        (spoilt(3, None), "must name its cluster"),
        (spoilt(4, None), "must name its cluster"),
        (spoilt(5, None), "must name its cluster"),
        (spoilt(6, None), "must name its cluster"),
        (spoilt(4, ""), "1 to 256 characters"),
        (spoilt(4, "n" * 257), "1 to 256 characters"),
        (spoilt(4, "n1\nforged log line"), "printable"),
        (spoilt(5, -1), "negative"),
        (spoilt(6, "7"), "field 6"),
        (spoilt(7, 1.5), "field 7"),
        (spoilt(8, None), "field 8"),
        (spoilt(9, None), "a life, from 0"),
        (spoilt(9, True), "a life, from 0"),
        (spoilt(9, -1), "a life, from 0"),
        (spoilt(9, 1 << 32), "a life, from 0"),
        (spoilt(10, "5"), "field 10 must be a number of starts, from 0"),
        (spoilt(11, 1 << 63), "field 11 must be a time, from 0"),
        (spoilt(4, "n 1"), "no node can have that name"),
    ],
)
def test_a_malformed_hello(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode_hello(body)


@pytest.mark.parametrize(
    "body", [b"", pack([1]), pack([1, None, "n", 1, 1, 1, "s"]), pack([1, "", "n", 1, 1, 1, "s"])]
)
def test_a_malformed_welcome(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_welcome(body)
