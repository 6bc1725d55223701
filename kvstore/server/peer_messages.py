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
from kvstore.raft.messages import AppendRequest, EntryKind
from kvstore.raft.validation import is_plausible

if TYPE_CHECKING:
    from kvstore.raft.messages import Entry, Message


def check_message(message: Message) -> None:
    """Refuse what no correct replica sends.

    Raises:
        ProtocolError: says what is wrong.
    """
    if not is_plausible(message):
        raise ProtocolError(
            f"raft: an impossible {type(message).__name__} of term {message.term} "
            f"by replica {message.sender}"
        )
    if isinstance(message, AppendRequest):
        for entry in message.entries:
            if entry.kind is EntryKind.COMMAND:
                _check_command(entry)


def _check_command(entry: Entry) -> None:
    try:
        commands.last_revision(entry.payload)
    except Internal as error:
        raise ProtocolError(f"raft: entry {entry.index} cannot be used: {error}") from error
