"""What a message of a peer must keep to before a core sees it.

The codec has checked types and ranges. A core relies on more: terms that never fall, entries
that can be applied, numbers that leave room for the next one. A replica that broke such a
rule in the middle of its work would have to stop; refused here, only the sender's connection
ends (the stream's sender is not to be trusted) and nothing was changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.errors import Internal, ProtocolError
from kvstore.kv import commands
from kvstore.raft import confchange
from kvstore.raft.messages import AppendRequest, EntryKind, SnapshotChunk

if TYPE_CHECKING:
    from kvstore.raft.messages import Entry, Message

TERM_MAX = 1 << 39
"""Beyond it the numbers of snapshot transfers (term << 24) would leave 64 bits."""


def check_message(message: Message) -> None:
    """Refuse what no correct replica sends.

    Raises:
        ProtocolError: says what is wrong.
    """
    if message.term > TERM_MAX:
        raise ProtocolError(f"raft: a message of the impossible term {message.term}")
    if isinstance(message, AppendRequest):
        _check_append(message)
    elif isinstance(message, SnapshotChunk) and not message.meta.config.voters:
        raise ProtocolError("raft: a snapshot of a group without voters")


def _check_append(message: AppendRequest) -> None:
    term = message.prev_term
    for entry in message.entries:
        if not term <= entry.term <= message.term:
            raise ProtocolError(
                f"raft: entry {entry.index} of term {entry.term} follows one of term {term} "
                f"in a message of term {message.term}"
            )
        term = entry.term
        _check_payload(entry)


def _check_payload(entry: Entry) -> None:
    try:
        if entry.kind is EntryKind.COMMAND:
            commands.last_revision(entry.payload)
        elif entry.kind is EntryKind.CONFIG:
            confchange.decode(entry.payload)
    except (Internal, ValueError) as error:
        raise ProtocolError(f"raft: entry {entry.index} cannot be used: {error}") from error
