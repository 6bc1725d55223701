"""What a client asks of a node's membership: who is there, and what has happened.

A node answers for itself alone: its view, and the events that it has seen since its process
began. As in all requests, fields that a newer version appends are ignored; whatever else is
wrong with a question is an :class:`~kvstore.errors.InvalidArgument`, and with an answer a
:class:`~kvstore.errors.ProtocolError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvstore.errors import ProtocolError
from kvstore.ids import NodeId
from kvstore.swim.claims import State
from kvstore.swim.members import MEMBERS_MAX
from kvstore.wire.codec import UINT, pack, unpack
from kvstore.wire.fields import (
    array,
    metadata,
    metadata_row,
    node_id,
    node_id_or_none,
    real,
    rows,
    text,
    whole,
)
from kvstore.wire.requests import decode_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvstore.swim.ready import Event, MemberStatus

EVENTS_MAX: Final = 1024
"""In one answer; whoever is further behind asks again."""
KIND_CHARS_MAX: Final = 32
DETAIL_CHARS_MAX: Final = 1024
_CONTAINERS_MAX: Final = 4 * MEMBERS_MAX
_WALL_BITS: Final = 46
"""As in a revision (:mod:`kvstore.hlc`): any such time is a date."""
_STATES: Final = frozenset(state.name.lower() for state in State)


# -- who is there ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member as the asked node sees it; the fields are named as they are printed."""

    id: NodeId
    address: str
    """Empty, as ``zone`` and ``version`` are, for one that was removed and never met."""
    state: str
    """``alive``, ``suspect``, ``dead``, ``left`` or ``removed``."""
    incarnation: int
    age_s: float
    """For how long it has been in that state, there."""
    phi: float
    """How surprising its silence is (:mod:`kvstore.phi`); 0 for the asked node itself."""
    zone: str
    weight: float
    """0 for one that was never met."""
    version: str
    """Of its software."""
    map_version: int
    """Of the shard map that it has; 0 = none yet."""
    load: float
    """Processor cores that it uses."""


class MembersReply(NamedTuple):
    """One node's view."""

    asked: NodeId
    """Whose view it is."""
    members: list[MemberRow]
    """The asked node first."""


def encode_members_reply(asked: NodeId, members: Sequence[MemberStatus]) -> bytes:
    """The answer of ``asked`` to a MEMBERS request (whose own body is empty)."""
    return pack((asked, [_member_row(member) for member in members]))


def _member_row(member: MemberStatus) -> tuple[Any, ...]:
    return (
        member.node,
        member.state.name.lower(),
        member.incarnation,
        member.age_s,
        member.phi,
        metadata_row(member.metadata),
        member.vitals.map_version,
        member.vitals.load,
    )


def decode_members_reply(body: bytes) -> MembersReply:
    """Read the answer to a MEMBERS request.

    Raises:
        ProtocolError: malformed, or beyond a bound.
    """
    value = unpack(body, containers_max=_CONTAINERS_MAX)
    asked, members = array(value, "members reply", 2, is_open=True)
    return MembersReply(
        node_id(asked, "members reply: the asked node"),
        [_member(row) for row in rows(members, "members reply: members", MEMBERS_MAX)],
    )


def _member(value: Any) -> MemberRow:
    what = "members reply"
    name, state, incarnation, age_s, phi, about, map_version, load = array(
        value, f"{what}: a member", 8, is_open=True
    )
    node = node_id(name, f"{what}: a member's name")
    if text(state, f"{what}: a state") not in _STATES:
        raise ProtocolError(f"{what}: the state of {node} is none that is known")
    said = None if about is None else metadata(about, what, node, is_open=True)
    return MemberRow(
        id=node,
        address=said.address if said else "",
        state=state,
        incarnation=whole(incarnation, f"{what}: an incarnation"),
        age_s=real(age_s, f"{what}: an age"),
        phi=real(phi, f"{what}: a phi"),
        zone=said.zone if said else "",
        weight=said.weight if said else 0.0,
        version=said.software if said else "",
        map_version=whole(map_version, f"{what}: a map version"),
        load=real(load, f"{what}: a load"),
    )


# -- what has happened ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event, as the asked node saw it."""

    number: int
    """From 1 on, without a gap; begins anew with the process."""
    wall_ms: int
    """When, by its wall clock: milliseconds since the Unix epoch."""
    kind: str
    """The value of a :class:`kvstore.swim.ready.EventKind`, or what a newer node calls it."""
    node: NodeId
    incarnation: int
    accuser: NodeId | None
    """Who suspected the node, or found it dead."""
    detail: str

    @classmethod
    def of(cls, number: int, wall_ms: int, event: Event) -> EventRow:
        """``event`` with its place and time."""
        return cls(
            number, wall_ms, event.kind.value,
            event.node, event.incarnation, event.accuser, event.detail,
        )  # fmt: skip


class EventsRequest(NamedTuple):
    """What has happened since?"""

    after: int
    """The ``next`` of the last answer; 0 for all that is kept."""
    wait_ms: int
    """How long the node may wait for something to happen; it has a bound of its own."""
    stream: int
    """The ``stream`` of the last answer, or 0: the numbers of another one are not counted on."""


class EventsReply(NamedTuple):
    """What has happened, the oldest first.

    Whoever asked after ``after`` has missed ``oldest - after - 1`` events if that is above 0.
    """

    asked: NodeId
    """Who saw it."""
    next: int
    """What to ask after next time: the last number here, or the last there is."""
    oldest: int
    """The first number that is still kept; ``next + 1`` if none is."""
    events: list[EventRow]
    """At most ``EVENTS_MAX``."""
    stream: int
    """Which process of that node counts; each begins anew."""


def encode_events(request: EventsRequest) -> bytes:
    """The body of an EVENTS frame."""
    return pack(request)


def decode_events(body: bytes) -> EventsRequest:
    """Read an EVENTS.

    Raises:
        InvalidArgument: malformed.
    """
    return EventsRequest(*decode_fields(body, "events", UINT, UINT, UINT))


def encode_events_reply(reply: EventsReply) -> bytes:
    """The answer to an EVENTS."""
    assert len(reply.events) <= EVENTS_MAX, "more than one answer may carry"
    rows_ = [_event_row(event) for event in reply.events]
    return pack((reply.asked, reply.next, reply.oldest, rows_, reply.stream))


def _event_row(event: EventRow) -> tuple[Any, ...]:
    return (
        event.number,
        event.wall_ms,
        event.kind,
        event.node,
        event.incarnation,
        event.accuser,
        event.detail,
    )


def decode_events_reply(body: bytes) -> EventsReply:
    """Read the answer to an EVENTS.

    Raises:
        ProtocolError: malformed, beyond a bound, or numbers that do not rise from ``oldest`` to
            ``next``.
    """
    value = unpack(body, containers_max=_CONTAINERS_MAX)
    asked, next_number, oldest, found, stream = array(value, "events reply", 5, is_open=True)
    reply = EventsReply(
        node_id(asked, "events reply: the asked node"),
        whole(next_number, "events reply: next"),
        whole(oldest, "events reply: oldest"),
        [_event(row) for row in rows(found, "events reply: events", EVENTS_MAX)],
        whole(stream, "events reply: stream"),
    )
    numbers = [reply.oldest - 1, *(event.number for event in reply.events), reply.next + 1]
    if any(earlier >= later for earlier, later in pairwise(numbers)):
        raise ProtocolError("events reply: the numbers do not rise from oldest to next")
    return reply


def _event(value: Any) -> EventRow:
    what = "events reply"
    number, wall_ms, kind, node, incarnation, accuser, detail = array(
        value, f"{what}: an event", 7, is_open=True
    )
    return EventRow(
        whole(number, f"{what}: a number"),
        whole(wall_ms, f"{what}: a time", _WALL_BITS),
        text(kind, f"{what}: a kind", KIND_CHARS_MAX),
        node_id(node, f"{what}: a node"),
        whole(incarnation, f"{what}: an incarnation"),
        node_id_or_none(accuser, f"{what}: an accuser"),
        text(detail, f"{what}: a detail", DETAIL_CHARS_MAX),
    )
