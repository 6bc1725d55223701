"""The first frame each way: who speaks, and which protocol (DESIGN section 8).

The protocol range stands first in a hello and is all that is read before the versions are
known to overlap, so that any later version can be turned away with a clear reason, whatever
else it has come to say. Unknown fields at the end are ignored, for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from kvstore.errors import ProtocolError, Refused
from kvstore.ids import LIFE_MAX, NodeId, Revision
from kvstore.wire.codec import NIL, TEXT, UINT, check_fields, pack, unpack

PROTOCOL_VERSION: Final = 1
HELLO_FRAME_BYTES_MAX: Final = 4096
"""Until it has said hello, nobody may send a larger frame than this."""
_TEXT_CHARS_MAX: Final = 256

Role: TypeAlias = Literal["client", "peer"]


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


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the accepting node says of itself."""

    cluster_id: str
    node_id: NodeId
    data_id: int
    wall_ms: int
    revision_now: Revision
    """The node's clock: what a client's session id is made from."""
    software: str
    protocol: int = PROTOCOL_VERSION
    """The version both will speak on this connection."""
    life: int = 0
    """As in :class:`Hello`."""


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
    life = _life("hello", fields, 9)
    return Hello(
        role, software, wall_ms, cluster_id, node_id, lane, data_id, protocol_min, protocol_max,
        life,
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
    life = _life("welcome", fields, 7)
    return Welcome(cluster_id, node_id, data_id, wall_ms, revision_now, software, protocol, life)


def _life(what: str, fields: list[Any], position: int) -> int:
    """The field that was added last: a peer that knows nothing of lives lives its first."""
    life = fields[position] if len(fields) > position else 0
    if type(life) is not int or not 0 <= life <= LIFE_MAX:
        raise ProtocolError(f"{what}: field {position} must be a life, from 0 to {LIFE_MAX}")
    return life


def _check_texts(what: str, *texts: Any) -> None:
    for text in texts:
        if text is not None and not (text.isprintable() and 0 < len(text) <= _TEXT_CHARS_MAX):
            raise ProtocolError(
                f"{what}: every text must be printable and have 1 to {_TEXT_CHARS_MAX} characters"
            )
