"""What clients ask of the membership: round trips, pinned forms, and one refusal a rule."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import swim_strategies
from hypothesis import given
from hypothesis import strategies as st
from swim_strategies import spoilt

from kvstore.errors import InvalidArgument, ProtocolError
from kvstore.ids import NodeId
from kvstore.phi import PHI_MAX
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.members import MEMBERS_MAX
from kvstore.swim.ready import Event, EventKind, MemberStatus
from kvstore.wire.codec import pack, unpack
from kvstore.wire.membership import (
    DETAIL_CHARS_MAX,
    EVENTS_MAX,
    EventRow,
    EventsReply,
    EventsRequest,
    MemberRow,
    MembersReply,
    decode_events,
    decode_events_reply,
    decode_members_reply,
    encode_events,
    encode_events_reply,
    encode_members_reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
SAID = Metadata("h:1", "b", 2.0, "kv 1.0")
STATUS = MemberStatus(N1, SAID, State.ALIVE, 4, 5.5, 0.0, Vitals(6, 7, 0.5))
UNMET = MemberStatus(N3, None, State.REMOVED, 0, 1.0, 0.0, Vitals())
ROW = MemberRow(N1, "h:1", "alive", 4, 5.5, 0.0, "b", 2.0, "kv 1.0", 7, 0.5)
MEMBER = ["n1", "alive", 4, 5.5, 0.0, ["h:1", "b", 2.0, "kv 1.0"], 7, 0.5]
MEMBERS = ["n1", [MEMBER]]

DIED = Event(EventKind.DIED, N2, 3, N1)
EVENT = EventRow(8, 1_700_000_000_000, "died", N2, 3, N1, "")
EVENT_ROW = [8, 1_700_000_000_000, "died", "n2", 3, "n1", ""]
STREAM = 5
EVENTS = ["n1", 9, 7, [EVENT_ROW], STREAM]
REQUEST = EventsRequest(5, 1000, STREAM)


# -- members --------------------------------------------------------------------------------


def test_members_are_told_as_they_are_printed() -> None:
    reply = decode_members_reply(encode_members_reply(N1, [STATUS]))
    assert reply == MembersReply(N1, [ROW])
    assert list(asdict(reply.members[0]).items()) == [
        ("id", "n1"), ("address", "h:1"), ("state", "alive"), ("incarnation", 4), ("age_s", 5.5),
        ("phi", 0.0), ("zone", "b"), ("weight", 2.0), ("version", "kv 1.0"), ("map_version", 7),
        ("load", 0.5),
    ]  # fmt: skip


def test_of_one_that_was_never_met_little_is_known() -> None:
    (row,) = decode_members_reply(encode_members_reply(N1, [UNMET])).members
    assert row == MemberRow(N3, "", "removed", 0, 1.0, 0.0, "", 0.0, "", 0, 0.0)


def test_the_format_of_members_is_pinned() -> None:
    never_met = ["n3", "removed", 0, 1.0, 0.0, None, 0, 0.0]
    assert unpack(encode_members_reply(N1, [STATUS, UNMET])) == ["n1", [MEMBER, never_met]]


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name(state: State) -> None:
    status = MemberStatus(N1, SAID, state, 4, 0.0, PHI_MAX, Vitals())
    (row,) = decode_members_reply(encode_members_reply(N1, [status])).members
    assert State[row.state.upper()] is state


statuses = st.builds(
    MemberStatus,
    swim_strategies.nodes,
    st.none() | swim_strategies.metadata,
    st.sampled_from(State),
    swim_strategies.whole,
    swim_strategies.real,
    swim_strategies.real,
    swim_strategies.vitals,
)


@given(swim_strategies.nodes, st.lists(statuses, max_size=5))
def test_any_view_comes_back(asked: NodeId, members: list[MemberStatus]) -> None:
    reply = decode_members_reply(encode_members_reply(asked, members))
    assert reply.asked == asked
    for row, member in zip(reply.members, members, strict=True):
        said = member.metadata
        assert (row.id, row.incarnation, row.age_s) == (
            member.node, member.incarnation, member.age_s,
        )  # fmt: skip
        assert (row.phi, row.map_version, row.load) == (
            member.phi, member.vitals.map_version, member.vitals.load,
        )  # fmt: skip
        assert (row.address, row.zone, row.weight, row.version) == (
            ("", "", 0.0, "")
            if said is None
            else (said.address, said.zone, said.weight, said.software)
        )


def test_so_many_members_and_no_more() -> None:
    assert len(decode_members_reply(pack(["n1", [MEMBER] * MEMBERS_MAX])).members) == MEMBERS_MAX
    with pytest.raises(ProtocolError, match="members: there are 4097, more than 4096"):
        decode_members_reply(pack(["n1", [MEMBER] * (MEMBERS_MAX + 1)]))


# -- events ---------------------------------------------------------------------------------


def test_events_come_back() -> None:
    assert decode_events(encode_events(REQUEST)) == REQUEST
    row = EventRow.of(8, 1_700_000_000_000, DIED)
    assert row == EVENT
    reply = decode_events_reply(encode_events_reply(EventsReply(N1, 9, 7, [row], STREAM)))
    assert reply == EventsReply(N1, 9, 7, [EVENT], STREAM)


def test_the_formats_of_events_are_pinned() -> None:
    assert unpack(encode_events(REQUEST)) == [5, 1000, STREAM]
    assert unpack(encode_events_reply(EventsReply(N1, 9, 7, [EVENT], STREAM))) == EVENTS


@pytest.mark.parametrize("kind", EventKind)
def test_an_event_of_every_kind(kind: EventKind) -> None:
    row = EventRow.of(1, 0, Event(kind, N2, 3, None, "x" * DETAIL_CHARS_MAX))
    reply = EventsReply(N1, 1, 1, [row], STREAM)
    assert decode_events_reply(encode_events_reply(reply)) == reply


def test_a_kind_of_a_later_version_is_told_as_it_is() -> None:
    (event,) = decode_events_reply(pack(spoilt(EVENTS, (3, 0, 2), "promoted"))).events
    assert event.kind == "promoted"


events = st.builds(
    EventRow,
    st.just(0),
    st.integers(0, 2**46 - 1),
    st.sampled_from(EventKind).map(lambda kind: kind.value),
    swim_strategies.nodes,
    swim_strategies.whole,
    st.none() | swim_strategies.nodes,
    swim_strategies.printable,
)


@given(st.lists(events, max_size=5), st.integers(1, 2**40), swim_strategies.whole)
def test_any_history_comes_back(some: list[EventRow], first: int, stream: int) -> None:
    numbered = [replace(event, number=number) for number, event in enumerate(some, first)]
    last = first + len(numbered) - 1
    reply = EventsReply(N1, last, first, numbered, stream)
    assert decode_events_reply(encode_events_reply(reply)) == reply


@pytest.mark.parametrize(
    ("next_number", "oldest", "numbers"),
    [(0, 1, []), (9, 1, []), (9, 10, []), (9, 9, [9]), (9, 3, [3, 4, 9]), (12, 3, [7, 8])],
)
def test_numbers_that_rise(next_number: int, oldest: int, numbers: list[int]) -> None:
    rows = [[number, *EVENT_ROW[1:]] for number in numbers]
    reply = decode_events_reply(pack(["n1", next_number, oldest, rows, STREAM]))
    assert [event.number for event in reply.events] == numbers


@pytest.mark.parametrize(
    ("next_number", "oldest", "numbers"),
    [(9, 11, []), (9, 8, [7]), (9, 1, [10]), (9, 1, [5, 5]), (9, 1, [6, 5]), (0, 5, [0])],
)
def test_numbers_that_do_not(next_number: int, oldest: int, numbers: list[int]) -> None:
    rows = [[number, *EVENT_ROW[1:]] for number in numbers]
    with pytest.raises(ProtocolError, match="numbers do not rise from oldest to next"):
        decode_events_reply(pack(["n1", next_number, oldest, rows, STREAM]))


def test_so_many_events_and_no_more() -> None:
    rows = [EventRow.of(number, 0, DIED) for number in range(1, EVENTS_MAX + 2)]
    reply = EventsReply(N1, EVENTS_MAX + 1, 1, rows[:-1], STREAM)
    assert len(decode_events_reply(encode_events_reply(reply)).events) == EVENTS_MAX
    with pytest.raises(AssertionError, match="more than one answer may carry"):
        encode_events_reply(reply._replace(events=rows))
    with pytest.raises(ProtocolError, match="events: there are 1025, more than 1024"):
        decode_events_reply(pack(["n1", 1025, 1, [EVENT_ROW] * (EVENTS_MAX + 1), STREAM]))


# -- rules ----------------------------------------------------------------------------------

NOT_WHOLE = "must be a whole number from 0 to 2^63-1"
NOT_REAL = "must be a finite number of at least 0"
NOT_ID = "must be a node id"
NO_WHOLE: list[Any] = [-1, 2**63, True, 1.0, "1", None]
NO_REAL: list[Any] = [-0.5, math.nan, math.inf, True, "1", None]
NO_ID: list[Any] = ["", "n\n", "n" * 65, 1]
NO_TEXT: list[Any] = ["a\nb", b"z", 1, None]

MEMBERS_RULES: list[tuple[tuple[int, ...], list[Any], str]] = [
    ((0,), [*NO_ID, None], f"the asked node {NOT_ID}"),
    ((1,), [None, {}], "members must be an array"),
    ((1, 0), [None, MEMBER[:-1]], "a member must be an array of 8 fields"),
    ((1, 0, 0), [*NO_ID, None], f"a member's name {NOT_ID}"),
    ((1, 0, 1), NO_TEXT, "a state must be printable text"),
    ((1, 0, 1), ["", "ALIVE", "asleep"], "the state of n1 is none that is known"),
    ((1, 0, 2), NO_WHOLE, f"an incarnation {NOT_WHOLE}"),
    ((1, 0, 3), NO_REAL, f"an age {NOT_REAL}"),
    ((1, 0, 4), NO_REAL, f"a phi {NOT_REAL}"),
    ((1, 0, 5), [[], 1, ["h:1", "b", 2.0]], "metadata of n1: it must be an array of 4 fields"),
    ((1, 0, 5, 0), ["", "h", None], "metadata of n1: the address must be host:port"),
    ((1, 0, 5, 1), NO_TEXT, "metadata of n1: the zone must be printable text"),
    ((1, 0, 5, 2), [0, 101.0, math.nan, None], "metadata of n1: the weight must be from 0.01"),
    ((1, 0, 5, 3), NO_TEXT, "metadata of n1: the software must be printable text"),
    ((1, 0, 5, 3), ["x" * 597], "metadata of n1 has 601 bytes, more than 600"),
    ((1, 0, 6), NO_WHOLE, f"a map version {NOT_WHOLE}"),
    ((1, 0, 7), NO_REAL, f"a load {NOT_REAL}"),
]
EVENTS_RULES: list[tuple[tuple[int, ...], list[Any], str]] = [
    ((0,), [*NO_ID, None], f"the asked node {NOT_ID}"),
    ((1,), NO_WHOLE, f"next {NOT_WHOLE}"),
    ((2,), NO_WHOLE, f"oldest {NOT_WHOLE}"),
    ((4,), NO_WHOLE, f"stream {NOT_WHOLE}"),
    ((3,), [None, {}], "events must be an array"),
    ((3, 0), [None, EVENT_ROW[:-1]], "an event must be an array of 7 fields"),
    ((3, 0, 0), NO_WHOLE, f"a number {NOT_WHOLE}"),
    ((3, 0, 1), [*NO_WHOLE, 2**46], "a time must be a whole number from 0 to 2^46-1"),
    ((3, 0, 2), NO_TEXT, "a kind must be printable text"),
    ((3, 0, 2), ["x" * 33], "a kind has 33 characters, more than 32"),
    ((3, 0, 3), [*NO_ID, None], f"a node {NOT_ID}"),
    ((3, 0, 4), NO_WHOLE, f"an incarnation {NOT_WHOLE}"),
    ((3, 0, 5), NO_ID, f"an accuser {NOT_ID}"),
    ((3, 0, 6), NO_TEXT, "a detail must be printable text"),
    ((3, 0, 6), ["x" * 1025], "a detail has 1025 characters, more than 1024"),
]


def cases(rules: list[tuple[tuple[int, ...], list[Any], str]]) -> list[Any]:
    return [
        pytest.param(path, value, why, id=f"{why[:30]}-{str(value)[:20]!a}")
        for path, values, why in rules
        for value in values
    ]


@pytest.mark.parametrize(("path", "value", "why"), cases(MEMBERS_RULES))
def test_members_that_break_a_rule(path: tuple[int, ...], value: Any, why: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode_members_reply(pack(spoilt(MEMBERS, path, value)))
    assert refused.value.message.startswith("members reply: " + why)


@pytest.mark.parametrize(("path", "value", "why"), cases(EVENTS_RULES))
def test_events_that_break_a_rule(path: tuple[int, ...], value: Any, why: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        decode_events_reply(pack(spoilt(EVENTS, path, value)))
    assert refused.value.message.startswith("events reply: " + why)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xc1", pack([]), pack({}), pack([5, 1]), pack([-5, 1, 1]), pack([5, 1.0, 1])),
        *(pack([5, None, 1]), pack([5, True, 1]), pack([5, 1, 1, []])),
    ],
)
def test_a_malformed_request_is_an_invalid_argument(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="malformed request"):
        decode_events(body)


# -- other versions, any bytes --------------------------------------------------------------


def test_fields_of_a_later_version_are_ignored() -> None:
    assert decode_events(pack([*REQUEST, "later"])) == REQUEST
    assert decode_events_reply(pack([*EVENTS[:3], [[*EVENT_ROW, 1]], STREAM, 2])).events == [EVENT]
    member = spoilt([*MEMBER, "later"], (5,), [*MEMBER[5], "later"])
    assert decode_members_reply(pack(["n1", [member], {}])) == MembersReply(N1, [ROW])


def check_members(body: bytes) -> None:
    """It is refused, or what is printed of it makes sense."""
    with suppress(ProtocolError):
        for row in decode_members_reply(body).members:
            assert row.state.upper() in State.__members__
            numbers = (row.incarnation, row.age_s, row.phi, row.weight, row.map_version, row.load)
            assert all(0 <= number < math.inf for number in numbers)


def check_events(body: bytes) -> None:
    """It is refused, or one that a node could have given."""
    with suppress(ProtocolError):
        reply = decode_events_reply(body)
        assert decode_events_reply(encode_events_reply(reply)) == reply


@pytest.mark.parametrize(("check", "row"), [(check_members, MEMBERS), (check_events, EVENTS)])
@given(data=st.data())
def test_a_damaged_answer_is_another_one_or_refused(
    check: Callable[[bytes], None], row: list[Any], data: st.DataObject
) -> None:
    body = bytearray(pack(row))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body))) :]
    check(bytes(body))


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    check_members(body)
    check_events(body)
    with suppress(InvalidArgument):
        request = decode_events(body)
        assert decode_events(encode_events(request)) == request
