"""The first frame each way: who speaks, and which protocol (DESIGN section 8).

The protocol range stands first in a hello and is all that is read before the versions are
known to overlap, so that any later version can be turned away with a clear reason, whatever
else it has come to say. Unknown fields at the end are ignored, for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kvstore.errors import ProtocolError, Refused
from kvstore.ids import LIFE_MAX, NodeId, Revision, is_node_id
from kvstore.wire.codec import NIL, TEXT, UINT, check_fields, pack, unpack

PROTOCOL_VERSION: Final = 1
HELLO_FRAME_BYTES_MAX: Final = 4096
"""Until it has said hello, nobody may send a larger frame than this."""
_WHOLE_MAX: Final = (1 << 63) - 1
_TEXT_CHARS_MAX: Final = 256

Role: TypeAlias = Literal["client", "peer"]


class Begun(NamedTuple):
    """When a process began to use its data directory; of two, the later is the greater."""

    starts: int = 0
    """How often that directory has been used; 0 if the sender does not say."""
    wall_ms: int = 0
    """Tells apart those that began on copies of one directory."""


NOT_SAID: Final = Begun()
NO_DATA_ID: Final = 0
"""Instead of a data id, in the welcome of a node that does not say it to whoever has come."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What whoever connects says of itself. A client leaves most of it out."""

    role: Role
    software: str
    """Name and version, for logs."""
    wall_ms: int
    """The sender's wall clock, milliseconds since the Unix epoch."""
    cluster_id: str | None = None
    """A client may name the cluster it expects."""
    node_id: NodeId | None = None
    lane: int | None = None
    """Which of a peer's lanes this connection is (:class:`kvstore.net.transport.Lane`)."""
    data_id: int | None = None
    """The random number of the sender's data directory: a node that lost its disk has another."""
    protocol_min: int = PROTOCOL_VERSION
    protocol_max: int = PROTOCOL_VERSION
    life: int = 0
    """The life of the sender's data directory (:mod:`kvstore.ids`); 0 if it does not say."""
    begun: Begun = NOT_SAID
    """Which of the processes that have used that directory the sender is."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the accepting node says of itself."""

    cluster_id: str
    node_id: NodeId
    data_id: int
    """``NO_DATA_ID`` if it does not say; nor does it say ``life`` and ``begun`` then."""
    wall_ms: int
    revision_now: Revision
    """The node's clock: what a client's session id is made from."""
    software: str
    protocol: int = PROTOCOL_VERSION
    """The version both will speak on this connection."""
    life: int = 0
    """As in :class:`Hello`, and so is ``begun``."""
    begun: Begun = NOT_SAID


def negotiate(protocol_min: int, protocol_max: int) -> int:
    """The highest protocol version that both sides know.

    Raises:
        Refused: there is none.
    """
    if protocol_min <= PROTOCOL_VERSION <= protocol_max:
        return PROTOCOL_VERSION
    raise Refused(
        f"no common protocol version: you speak {protocol_min} to {protocol_max}, "
        f"this node speaks {PROTOCOL_VERSION}"
    )


def encode_hello(hello: Hello) -> bytes:
    """The body of a HELLO frame."""
    return pack(
        (
            hello.protocol_min,
            hello.protocol_max,
            hello.role,
            hello.cluster_id,
            hello.node_id,
            hello.lane,
            hello.data_id,
            hello.wall_ms,
            hello.software,
            hello.life,
            *hello.begun,
        )
    )


def decode_hello(body: bytes) -> Hello:
    """Read and check the body of a HELLO frame.

    Raises:
        Refused: the sender speaks no protocol version that we know.
        ProtocolError: malformed.
    """
    fields = unpack(body)
    protocol_min, protocol_max = check_fields(fields, "hello", UINT, UINT)[:2]
    negotiate(protocol_min, protocol_max)
    optional_text, optional_uint = TEXT | NIL, UINT | NIL
    check_fields(
        fields, "hello", UINT, UINT, TEXT, optional_text, optional_text,
        optional_uint, optional_uint, UINT, TEXT,
    )  # fmt: skip
    _, _, role, cluster_id, node_id, lane, data_id, wall_ms, software = fields[:9]
    _check_texts("hello", role, cluster_id, node_id, software)
    if role not in ("client", "peer"):
        raise ProtocolError("hello: the role must be client or peer")
    if role == "peer" and None in (cluster_id, node_id, lane, data_id):
        raise ProtocolError("hello: a peer must name its cluster, node, lane and data id")
    if node_id is not None and not is_node_id(node_id):
        raise ProtocolError("hello: no node can have that name")
    return Hello(
        role, software, wall_ms, cluster_id, node_id, lane, data_id, protocol_min, protocol_max,
        life=_added("hello", fields, 9, "a life", LIFE_MAX),
        begun=_begun("hello", fields, 10),
    )  # fmt: skip


def encode_welcome(welcome: Welcome) -> bytes:
    """The body of a WELCOME frame."""
    return pack(
        (
            welcome.protocol,
            welcome.cluster_id,
            welcome.node_id,
            welcome.data_id,
            welcome.wall_ms,
            welcome.revision_now,
            welcome.software,
            welcome.life,
            *welcome.begun,
        )
    )


def decode_welcome(body: bytes) -> Welcome:
    """Read and check the body of a WELCOME frame.

    Raises:
        Refused: the node chose a protocol version that we do not know.
        ProtocolError: malformed.
    """
    fields = unpack(body)
    (protocol,) = check_fields(fields, "welcome", UINT)[:1]
    negotiate(protocol, protocol)
    check_fields(fields, "welcome", UINT, TEXT, TEXT, UINT, UINT, UINT, TEXT)
    _, cluster_id, node_id, data_id, wall_ms, revision_now, software = fields[:7]
    _check_texts("welcome", cluster_id, node_id, software)
    return Welcome(
        cluster_id, node_id, data_id, wall_ms, revision_now, software, protocol,
        life=_added("welcome", fields, 7, "a life", LIFE_MAX),
        begun=_begun("welcome", fields, 8),
    )  # fmt: skip


def _begun(what: str, fields: list[Any], position: int) -> Begun:
    starts = _added(what, fields, position, "a number of starts", _WHOLE_MAX)
    return Begun(starts, _added(what, fields, position + 1, "a time", _WHOLE_MAX))


def _added(what: str, fields: list[Any], position: int, name: str, highest: int) -> int:
    """A field that was added later: 0 of those who know nothing of it."""
    value = fields[position] if len(fields) > position else 0
    if type(value) is not int or not 0 <= value <= highest:
        raise ProtocolError(f"{what}: field {position} must be {name}, from 0 to {highest}")
    return value


def _check_texts(what: str, *texts: Any) -> None:
    for text in texts:
        if text is not None and not (text.isprintable() and 0 < len(text) <= _TEXT_CHARS_MAX):
            raise ProtocolError(
                f"{what}: every text must be printable and have 1 to {_TEXT_CHARS_MAX} characters"
            )
