"""The membership's messages on the wire: round trips, pinned bytes, one refusal a rule."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, get_args

import pytest
import swim_strategies
from hypothesis import given
from hypothesis import strategies as st
from swim_strategies import spoilt

from kvstore.config import FRAME_BYTES_MAX, MIB
from kvstore.errors import ProtocolError
from kvstore.ids import NodeId
from kvstore.swim.broadcasts import Broadcasts
from kvstore.swim.claims import Claim, Metadata, State, Vitals
from kvstore.swim.members import MEMBERS_MAX
from kvstore.swim.messages import (
    CLAIMS_MAX,
    Ack,
    Gossip,
    Message,
    Nack,
    Ping,
    PingRequest,
    PushPull,
    Row,
    Sender,
)
from kvstore.wire.codec import pack, unpack
from kvstore.wire.swim_codec import decode_message, encode_message

if TYPE_CHECKING:
    from collections.abc import Callable

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
SENDER = Sender(N1, "h:1", 2, Vitals(3, 4, 0.5))
ALIVE = Claim(N2, State.ALIVE, 5, Metadata("h:2", "b", 2.0, "kv 1.0"))
DEAD = Claim(N3, State.DEAD, 6, None, N1)

SENDER_ROW = ["n1", "h:1", 2, [3, 4, 0.5]]
ALIVE_ROW = ["n2", 0, 5, ["h:2", "b", 2.0, "kv 1.0"], None]
DEAD_ROW = ["n3", 2, 6, None, "n1"]

PINNED: list[tuple[Message, list[Any]]] = [
    (Ping(SENDER, 9, N2, (DEAD,)), [1, 1, SENDER_ROW, 9, "n2", [DEAD_ROW]]),
    (Ack(SENDER, 9, (ALIVE,)), [1, 2, SENDER_ROW, 9, [ALIVE_ROW]]),
    (
        PingRequest(SENDER, 9, N2, "h:2", (DEAD, ALIVE)),
        [1, 3, SENDER_ROW, 9, "n2", "h:2", [DEAD_ROW, ALIVE_ROW]],
    ),
    (Nack(SENDER, 9), [1, 4, SENDER_ROW, 9]),
    (Gossip(SENDER, (ALIVE,)), [1, 5, SENDER_ROW, [ALIVE_ROW]]),
    (
        PushPull(SENDER, False, (Row(ALIVE, 7.5, Vitals(8, 9, 1.5), 5),)),
        [1, 6, SENDER_ROW, False, [[ALIVE_ROW, 7.5, [8, 9, 1.5], 5]]],
    ),
]
names = pytest.mark.parametrize(("message", "row"), PINNED, ids=lambda part: type(part).__name__)


# -- what comes back ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", swim_strategies.by_type, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_messages_come_back(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(swim_strategies.by_type[kind])
    decoded = decode_message(encode_message(message))
    assert decoded == message
    assert type(decoded) is kind


def test_every_type_has_a_strategy_and_a_pinned_format() -> None:
    types = set(get_args(Message))
    assert set(swim_strategies.by_type) == types
    assert {type(message) for message, _ in PINNED} == types


@names
def test_the_format_is_pinned(message: Message, row: list[Any]) -> None:
    assert unpack(encode_message(message)) == row
    assert decode_message(pack(row)) == message


def test_a_whole_number_will_do_for_a_number() -> None:
    row: list[Any] = [1, 6, ["n1", "h:1", 2, [3, 4, 1]], True, [[ALIVE_ROW, 7, [8, 9, 0], 5]]]
    row[4][0][0] = ["n2", 0, 5, ["h:2", "", 2, ""], None]
    decoded = decode_message(pack(row))
    assert isinstance(decoded, PushPull)
    (member,) = decoded.rows
    assert member.claim.metadata is not None
    numbers = [
        decoded.sender.vitals.load, member.age_s, member.vitals.load, member.claim.metadata.weight
    ]  # fmt: skip
    assert numbers == [1.0, 7.0, 0.0, 2.0]
    assert {type(number) for number in numbers} == {float}


@given(swim_strategies.claims)
def test_a_claim_takes_no_more_bytes_than_the_core_counts(claim: Claim) -> None:
    without = len(encode_message(Gossip(SENDER, ())))
    assert len(encode_message(Gossip(SENDER, (claim,)))) - without <= claim.size_bytes


# -- bounds ---------------------------------------------------------------------------------

CARRIERS: list[Callable[[list[Any]], list[Any]]] = [
    lambda claims: [1, 1, SENDER_ROW, 9, "n2", claims],
    lambda claims: [1, 2, SENDER_ROW, 9, claims],
    lambda claims: [1, 3, SENDER_ROW, 9, "n2", "h:2", claims],
    lambda claims: [1, 5, SENDER_ROW, claims],
]


@pytest.mark.parametrize("carry", CARRIERS)
def test_so_many_claims_and_no_more(carry: Callable[[list[Any]], list[Any]]) -> None:
    decode_message(pack(carry([ALIVE_ROW] * CLAIMS_MAX)))
    with pytest.raises(ProtocolError, match=r"^swim: claims: there are 1025, more than 1024$"):
        decode_message(pack(carry([ALIVE_ROW] * (CLAIMS_MAX + 1))))


def test_so_many_members_and_no_more() -> None:
    members = [[ALIVE_ROW, 7.5, [8, 9, 1.5], 5]] * (MEMBERS_MAX + 1)
    decode_message(pack([1, 6, SENDER_ROW, True, members[1:]]))
    with pytest.raises(ProtocolError, match=r"^swim: members: there are 4097, more than 4096$"):
        decode_message(pack([1, 6, SENDER_ROW, True, members]))


def test_the_largest_view_fits_into_a_frame() -> None:
    metadata = Metadata("h" * 249 + ":65535", "z" * 345, 0.1)
    longest = NodeId("n" * 64)
    claim = Claim(longest, State.SUSPECT, 2**63 - 1, metadata, longest)
    row = Row(claim, 0.1, Vitals(2**63 - 1, 2**63 - 1, 0.1), 2**63 - 1)
    view = PushPull(SENDER, True, (row,) * MEMBERS_MAX)
    body = encode_message(view)
    assert decode_message(body) == view
    assert len(body) < 4 * MIB < FRAME_BYTES_MAX


def test_the_core_says_no_more_in_a_message_than_one_may_carry() -> None:
    news = Broadcasts(4)
    for number in range(2 * CLAIMS_MAX):
        news.add(Claim(NodeId(f"n{number}"), State.LEFT, 1))
    first = Claim(NodeId("n0"), State.LEFT, 1)
    taken = news.take(MIB, 2 * CLAIMS_MAX, first)
    assert len(taken) == CLAIMS_MAX
    assert decode_message(encode_message(Gossip(SENDER, taken))) == Gossip(SENDER, taken)
    others = {claim.node for claim in news.take(MIB, 2 * CLAIMS_MAX)}
    assert not others & {claim.node for claim in taken[1:]}, "the rest comes with the next"


def test_too_much_cannot_be_sent() -> None:
    with pytest.raises(AssertionError, match="more than one message may carry"):
        encode_message(Gossip(SENDER, (ALIVE,) * (CLAIMS_MAX + 1)))
    row = Row(ALIVE, 0.0, Vitals(), 0)
    with pytest.raises(AssertionError, match="more than a view can hold"):
        encode_message(PushPull(SENDER, True, (row,) * (MEMBERS_MAX + 1)))


# -- rules ----------------------------------------------------------------------------------

PING, PING_REQUEST, PUSH_PULL = PINNED[0][1], PINNED[2][1], PINNED[5][1]
CLAIM = (4, 0, 0)
METADATA = (*CLAIM, 3)
SAID_600 = Metadata("h:2", "z" * 300, 1.0, "s" * 297)
MILLION = "x" * 10**6

NOT_WHOLE = "must be a whole number from 0 to 2^63-1"
NOT_REAL = "must be a finite number of at least 0"
NOT_ID = "must be a node id"
NOT_ADDRESS = "must be host:port, at most 255 characters"
NOT_TEXT = "must be printable text"
NO_WHOLE: list[Any] = [-1, 2**63, True, 1.0, "1", None, []]
NO_REAL: list[Any] = [-0.5, -1, math.nan, math.inf, -math.inf, True, "1", None, []]
NO_ID: list[Any] = ["", "-n", "n 1", "n1\n", "n\N{DIGIT ONE}é", "n" * 65, b"n1", 1, []]
NO_ADDRESS: list[Any] = [
    *("", "h", "h:", ":1", "h:0", "h:65536", "h\n:1", "h:" + "9" * 5000),
    *("h" * 254 + ":1", b"h:1", 1, None, ["h:1"]),
]
NO_TEXT: list[Any] = ["a\nb", "\x1b[2J", "\u202e", b"z", 1, None, []]

RULES: list[tuple[list[Any], tuple[int, ...], list[Any], str]] = [
    (PING, (0,), [0, 2, 2**64 - 1], "format {} is not known, only 1"),
    (PING, (0,), [True, "1", None, 1.0, []], "the body must be an array that begins with its f"),
    (PING, (1,), [0, 7, 2**64 - 1, True, "1", None, 1.0, []], "the tag is none that is known"),
    (PING, (2,), [None, "n1", {}, [], [1, 2, 3]], "the sender must be an array of 4 fields"),
    (PING, (2, 0), [*NO_ID, None], f"the sender's name {NOT_ID}"),
    (PING, (2, 1), NO_ADDRESS, f"the sender's address {NOT_ADDRESS}"),
    (PING, (2, 2), NO_WHOLE, f"the sender's incarnation {NOT_WHOLE}"),
    (PING, (2, 3), [None, 1, [], [1, 2]], "vitals must be an array of 3 fields"),
    (PING, (2, 3, 0), NO_WHOLE, f"a beat {NOT_WHOLE}"),
    (PING, (2, 3, 1), NO_WHOLE, f"a map version {NOT_WHOLE}"),
    (PING, (2, 3, 2), NO_REAL, f"a load {NOT_REAL}"),
    (PING, (3,), NO_WHOLE, f"the sequence {NOT_WHOLE}"),
    (PING, (4,), [*NO_ID, None], f"the target {NOT_ID}"),
    (PING, (5,), [None, {}, "n1"], "claims must be an array"),
    (PING, (5, 0), [None, [], DEAD_ROW[:4], [*DEAD_ROW, 1]], "a claim must be an array of 5"),
    (PING, (5, 0, 0), [*NO_ID, None], f"a member's name {NOT_ID}"),
    (PING, (5, 0, 1), [-1, 5, True, 2.0, "dead", None, []], "the state of n3 is none that is"),
    (PING, (5, 0, 1), [0], "n3 is said to be alive, and not where"),
    (PING, (5, 0, 2), NO_WHOLE, f"a member's incarnation {NOT_WHOLE}"),
    (PING, (5, 0, 4), NO_ID, f"an accuser {NOT_ID}"),
    (PING_REQUEST, (5,), NO_ADDRESS, f"the target's address {NOT_ADDRESS}"),
    (PUSH_PULL, (3,), [0, 1, None, "no"], "is_reply must be true or false"),
    (PUSH_PULL, (4,), [None, {}, 1], "members must be an array"),
    (PUSH_PULL, (4, 0), [None, [], ALIVE_ROW], "a member must be an array of 4 fields"),
    (PUSH_PULL, (*CLAIM,), [None, []], "a claim must be an array of 5 fields"),
    (PUSH_PULL, METADATA, [[], "h:2", 1, [1, 2, 3]], "metadata of n2: it must be an array of 4"),
    (PUSH_PULL, (*METADATA, 0), NO_ADDRESS, f"metadata of n2: the address {NOT_ADDRESS}"),
    (PUSH_PULL, (*METADATA, 1), NO_TEXT, f"metadata of n2: the zone {NOT_TEXT}"),
    (
        PUSH_PULL, (*METADATA, 2),
        [0.009, 100.1, 0, -1, 2**64 - 1, math.nan, math.inf, True, "1", None],
        "metadata of n2: the weight must be from 0.01 to 100.0",
    ),
    (PUSH_PULL, (*METADATA, 3), NO_TEXT, f"metadata of n2: the software {NOT_TEXT}"),
    (PUSH_PULL, METADATA, [["h:2", "z" * 300, 1, "s" * 298]], "metadata of n2 has 601 bytes, more"),
    (PUSH_PULL, METADATA, [["h:2", "é" * 299, 1.0, ""]], "metadata of n2 has 601 bytes, more"),
    (PUSH_PULL, (*METADATA, 1), [MILLION], "metadata of n2 has 1000009 bytes, more than 600"),
    (PUSH_PULL, (4, 0, 1), NO_REAL, f"an age {NOT_REAL}"),
    (PUSH_PULL, (4, 0, 2), [None, [], [1, 2, 3, 4]], "vitals must be an array of 3 fields"),
    (PUSH_PULL, (4, 0, 3), NO_WHOLE, f"the incarnation of vitals {NOT_WHOLE}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "path", "value", "why"),
    [
        pytest.param(row, path, value, why, id=f"{why[:30]}-{str(value)[:20]!a}")
        for row, path, values, why in RULES
        for value in values
    ],
)
def test_what_breaks_a_rule(row: list[Any], path: tuple[int, ...], value: Any, why: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode_message(pack(spoilt(row, path, value)))
    said = refused.value.message
    assert said.startswith("swim: " + why.format(value))
    assert said.isprintable()
    assert len(said) < 100


def test_metadata_of_600_bytes_and_any_incarnation_of_63_bits_are_let_in() -> None:
    largest = spoilt(PUSH_PULL, METADATA, list(astuple(SAID_600)))
    largest = spoilt(largest, (*CLAIM, 2), 2**63 - 1)
    decoded = decode_message(pack(largest))
    assert isinstance(decoded, PushPull)
    assert decoded.rows[0].claim == Claim(N2, State.ALIVE, 2**63 - 1, SAID_600)


@names
def test_a_field_too_few_or_too_many(message: Message, row: list[Any]) -> None:
    for wrong in (row[:-1], [*row, 0], row[:2]):
        with pytest.raises(ProtocolError, match=r"^swim: a message of tag .* must be an array of"):
            decode_message(pack(wrong))


@names
def test_every_field_has_its_type(message: Message, row: list[Any]) -> None:
    def paths(value: Any, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
        inner = enumerate(value) if isinstance(value, list) else ()
        return [at, *(path for step, part in inner for path in paths(part, (*at, step)))]

    for path in paths(row)[1:]:
        with pytest.raises(ProtocolError):
            decode_message(pack(spoilt(row, path, {})))


@pytest.mark.parametrize("value", [None, 1, "ping", {}, [], [1], [None, 1], {"1": 1}])
def test_what_is_no_message(value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"begins with its format|the tag is none"):
        decode_message(pack(value))


@pytest.mark.parametrize("later", [[2], [2, "ping"], [2, 7, {"by": "n1"}], [2, 1, SENDER_ROW]])
def test_a_newer_format_is_told_apart_whatever_else_it_says(later: list[Any]) -> None:
    with pytest.raises(ProtocolError, match=r"^swim: format 2 is not known, only 1$"):
        decode_message(pack(later))


# -- any bytes ------------------------------------------------------------------------------


@given(swim_strategies.messages)
def test_no_beginning_of_a_message_is_one(message: Message) -> None:
    body = encode_message(message)
    for end in range(len(body)):
        with pytest.raises(ProtocolError):
            decode_message(body[:end])
    with pytest.raises(ProtocolError):
        decode_message(body + b"\0")


@given(swim_strategies.messages, st.data())
def test_a_damaged_message_is_another_one_or_refused(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        decoded = decode_message(bytes(body))
        assert decode_message(encode_message(decoded)) == decoded


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_protocol_error(body: bytes) -> None:
    with suppress(ProtocolError):
        decoded = decode_message(body)
        assert decode_message(encode_message(decoded)) == decoded
