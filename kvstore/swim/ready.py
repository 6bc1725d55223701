"""What the core hands to its driver, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kvstore.ids import NodeId
from kvstore.swim.claims import Metadata, State, Vitals
from kvstore.swim.messages import Message


class EventKind(Enum):
    """What happened to a member, or was refused of what was said of it."""

    JOINED = "joined"
    """It is there for the first time, or again after it had left or died."""
    SUSPECTED = "suspected"
    REFUTED = "refuted"
    """It was suspected, and has said that it lives."""
    DIED = "died"
    LEFT = "left"
    REMOVED = "removed"
    UPDATED = "updated"
    """It says something else of itself, such as another address."""
    CONFLICT = "conflict"
    """Two nodes go by its name."""
    ABSURD = "absurd"
    """Something was claimed of it that cannot be, such as an incarnation far ahead."""
    CROWDED = "crowded"
    """There is no room for it in the view."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history of the view."""

    kind: EventKind
    node: NodeId
    incarnation: int
    accuser: NodeId | None = None
    """Who suspected it, or found it dead."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes; ``node`` is None while only an address is known."""

    node: NodeId | None
    address: str
    message: Message


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that has come up since the last one."""

    messages: tuple[Outgoing, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member as this node sees it."""

    node: NodeId
    metadata: Metadata | None
    """None for a removed one that was never met."""
    state: State
    incarnation: int
    age_s: float
    """Since it came into this state here."""
    phi: float
    """How surprising its silence is (:mod:`kvstore.phi`); 0 for this node itself."""
    vitals: Vitals
    has_answered: bool = False
    """A ping of this node itself, at its address; so it is no mere name. True of this node."""
