"""The messages of the membership, one a frame, and back (DESIGN section 8).

The body of a SWIM frame is a msgpack array ``[format, tag, sender, ...]``, the rest being the
fields in the order of the dataclass; what those hold are arrays in the same way. The format
stands first, so that any later one can be told apart; whatever is newer is refused. Within a
format nothing may be missing and nothing more be there.

What is said here is believed of others and passed on to all, so every field is checked as
strictly as the configuration of the node that it came from: one bad claim refuses the whole
message. How far an incarnation may be ahead is the core's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kvstore.errors import ProtocolError
from kvstore.swim.claims import Claim, State, Vitals
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
from kvstore.wire.fields import (
    address,
    array,
    flag,
    metadata,
    metadata_row,
    node_id,
    node_id_or_none,
    real,
    rows,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.ids import NodeId

FORMAT_VERSION: Final = 1

_PING: Final = 1
_ACK: Final = 2
_PING_REQUEST: Final = 3
_NACK: Final = 4
_GOSSIP: Final = 5
_PUSH_PULL: Final = 6

_CONTAINERS_MAX: Final = 8 * MEMBERS_MAX
"""The largest message has four arrays a row, and a few beside; one too large is still named."""
_STATES: Final = {state.value: state for state in State}


# -- writing --------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """The body of a SWIM frame."""
    tag, *fields = _fields(message)
    return pack((FORMAT_VERSION, tag, _sender_row(message.sender), *fields))


def _fields(message: Message) -> tuple[Any, ...]:
    """The tag, and what follows the sender."""
    match message:
        case Ping():
            return _PING, message.sequence, message.target, _claim_rows(message.claims)
        case Ack():
            return _ACK, message.sequence, _claim_rows(message.claims)
        case PingRequest():
            claims = _claim_rows(message.claims)
            return _PING_REQUEST, message.sequence, message.target, message.target_address, claims
        case Nack():
            return _NACK, message.sequence
        case Gossip():
            return _GOSSIP, _claim_rows(message.claims)
        case PushPull():
            assert len(message.rows) <= MEMBERS_MAX, "more than a view can hold"
            return _PUSH_PULL, message.is_reply, [_member_row(row) for row in message.rows]


def _sender_row(sender: Sender) -> tuple[Any, ...]:
    return sender.node, sender.address, sender.incarnation, _vitals_row(sender.vitals)


def _vitals_row(vitals: Vitals) -> tuple[Any, ...]:
    return vitals.beat, vitals.map_version, vitals.load


def _claim_rows(claims: tuple[Claim, ...]) -> list[Any]:
    assert len(claims) <= CLAIMS_MAX, "more than one message may carry"
    return [_claim_row(claim) for claim in claims]


def _claim_row(claim: Claim) -> tuple[Any, ...]:
    said = metadata_row(claim.metadata)
    return claim.node, claim.state.value, claim.incarnation, said, claim.accuser


def _member_row(row: Row) -> tuple[Any, ...]:
    return _claim_row(row.claim), row.age_s, _vitals_row(row.vitals), row.vitals_of


# -- reading --------------------------------------------------------------------------------


def decode_message(body: bytes) -> Message:
    """Read the body of a SWIM frame.

    Raises:
        ProtocolError: malformed, of a newer format, or beyond a bound.
    """
    fields = unpack(body, containers_max=_CONTAINERS_MAX)
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise ProtocolError("swim: the body must be an array that begins with its format")
    if fields[0] != FORMAT_VERSION:
        raise ProtocolError(f"swim: format {fields[0]} is not known, only {FORMAT_VERSION}")
    tag = fields[1] if len(fields) > 1 else None
    if type(tag) is not int or tag not in _DECODERS:
        raise ProtocolError("swim: the tag is none that is known")
    count, decode = _DECODERS[tag]
    _, _, sender, *rest = array(fields, f"swim: a message of tag {tag}", count)
    return decode(_sender(sender), *rest)


def _ping(sender: Sender, sequence: Any, target: Any, claims: Any) -> Ping:
    return Ping(sender, _sequence(sequence), _target(target), _claims(claims))


def _ack(sender: Sender, sequence: Any, claims: Any) -> Ack:
    return Ack(sender, _sequence(sequence), _claims(claims))


def _ping_request(
    sender: Sender, sequence: Any, target: Any, target_address: Any, claims: Any
) -> PingRequest:
    at = address(target_address, "swim: the target's address")
    return PingRequest(sender, _sequence(sequence), _target(target), at, _claims(claims))


def _nack(sender: Sender, sequence: Any) -> Nack:
    return Nack(sender, _sequence(sequence))


def _gossip(sender: Sender, claims: Any) -> Gossip:
    return Gossip(sender, _claims(claims))


def _push_pull(sender: Sender, is_reply: Any, members: Any) -> PushPull:
    known = rows(members, "swim: members", MEMBERS_MAX)
    return PushPull(sender, flag(is_reply, "swim: is_reply"), tuple(map(_member, known)))


def _sequence(value: Any) -> int:
    return whole(value, "swim: the sequence")


def _target(value: Any) -> NodeId:
    return node_id(value, "swim: the target")


def _sender(value: Any) -> Sender:
    node, host_port, incarnation, vitals = array(value, "swim: the sender", 4)
    return Sender(
        node_id(node, "swim: the sender's name"),
        address(host_port, "swim: the sender's address"),
        whole(incarnation, "swim: the sender's incarnation"),
        _vitals(vitals),
    )


def _vitals(value: Any) -> Vitals:
    beat, map_version, load = array(value, "swim: vitals", 3)
    return Vitals(
        whole(beat, "swim: a beat"),
        whole(map_version, "swim: a map version"),
        real(load, "swim: a load"),
    )


def _claims(value: Any) -> tuple[Claim, ...]:
    return tuple(map(_claim, rows(value, "swim: claims", CLAIMS_MAX)))


def _claim(value: Any) -> Claim:
    name, number, incarnation, said, accuser = array(value, "swim: a claim", 5)
    node = node_id(name, "swim: a member's name")
    state = _STATES.get(number) if type(number) is int else None
    if state is None:
        raise ProtocolError(f"swim: the state of {node} is none that is known")
    if said is None and state is State.ALIVE:
        raise ProtocolError(f"swim: {node} is said to be alive, and not where")
    return Claim(
        node,
        state,
        whole(incarnation, "swim: a member's incarnation"),
        None if said is None else metadata(said, "swim", node),
        node_id_or_none(accuser, "swim: an accuser"),
    )


def _member(value: Any) -> Row:
    claim, age_s, vitals, vitals_of = array(value, "swim: a member", 4)
    return Row(
        _claim(claim),
        real(age_s, "swim: an age"),
        _vitals(vitals),
        whole(vitals_of, "swim: the incarnation of vitals"),
    )


_DECODERS: Final[dict[int, tuple[int, Callable[..., Message]]]] = {
    _PING: (6, _ping),
    _ACK: (5, _ack),
    _PING_REQUEST: (7, _ping_request),
    _NACK: (4, _nack),
    _GOSSIP: (4, _gossip),
    _PUSH_PULL: (5, _push_pull),
}
"""By tag: how many fields there are in all, and what reads those after the tag."""
