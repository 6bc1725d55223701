"""What members say to each other.

Every message begins with a :class:`Sender`; every one may carry claims, the news.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from kvstore.ids import NodeId
from kvstore.swim.claims import Claim, Vitals

CLAIMS_MAX: Final = 1024
"""In one message, however short they are; more wait for the next."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who speaks, and where to answer."""

    node: NodeId
    address: str
    incarnation: int
    vitals: Vitals


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered by an :class:`Ack` of the same ``sequence``."""

    sender: Sender
    sequence: int
    target: NodeId
    """Whom it is for: another node may listen at that address now."""
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """I am, or, passed on by a helper, it is."""

    sender: Sender
    sequence: int
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Ping ``target`` for me, and pass its ack on."""

    sender: Sender
    sequence: int
    target: NodeId
    target_address: str
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Nack:
    """I, your helper, am well, but the target has not answered me (Lifeguard section IV-A)."""

    sender: Sender
    sequence: int


@dataclass(frozen=True, slots=True)
class Gossip:
    """News only."""

    sender: Sender
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One member in a view."""

    claim: Claim
    """With all that the member said of itself."""
    age_s: float
    """For how long it has been in that state, there."""
    vitals: Vitals
    vitals_of: int
    """The incarnation that ``vitals`` are of."""


@dataclass(frozen=True, slots=True)
class PushPull:
    """The whole view of the sender; unless it is an answer, the receiver's is asked for."""

    sender: Sender
    is_reply: bool
    rows: tuple[Row, ...]


Message: TypeAlias = Ping | Ack | PingRequest | Nack | Gossip | PushPull
