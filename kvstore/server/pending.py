"""What waits in a shard's host: client batches, reads, and what has become of them so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kvstore.ids import LogIndex, Term

if TYPE_CHECKING:
    from kvstore.errors import KVError


class Answer(Protocol):
    """Where the one answer of a request goes. Both release what the request was charged."""

    def reply(self, body: bytes) -> None:
        """Answer with ``body``."""
        ...

    def fail(self, error: KVError) -> None:
        """Answer with an error."""
        ...


@dataclass(slots=True)
class Write:
    """One client batch: ``batch_bytes`` holds ``count`` commands, not decoded here."""

    count: int
    batch_bytes: bytes
    answer: Answer


@dataclass(slots=True)
class Read:
    """``serve`` runs once the state is known to be recent enough; else ``answer.fail``."""

    serve: Callable[[], None]
    answer: Answer


@dataclass(slots=True)
class Proposal:
    """Client batches that went into one log entry, in order; emptied once answered."""

    index: LogIndex
    term: Term
    deadline: float
    writes: list[Write]
    replies: list[bytes] = field(default_factory=list)
    """One for each write, once the entry was run."""


@dataclass(slots=True)
class Confirming:
    """Reads that share one read index; ``index`` is None until the core has named it."""

    deadline: float
    reads: list[Read]
    index: LogIndex | None = None
