"""Whether a message can be what it says: a replica must not die of what a peer sends.

The rules of Raft hold only among replicas that follow them, and these checks do not change
that. They catch what a broken or foreign sender could say and what would make our own
assertions fail later, far from the cause.

Whoever takes messages from the network asks once for each (:mod:`kvstore.server.peer_messages`);
``core.step`` and all behind it rely on the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.raft import confchange
from kvstore.raft.messages import AppendRequest, Entry, EntryKind, GroupConfig, SnapshotChunk

if TYPE_CHECKING:
    from kvstore.ids import Term
    from kvstore.raft.messages import Message

TERM_MAX = 1 << 39
"""No group gets here: an election every millisecond would take 17 years. Beyond it the numbers
of snapshot transfers (term << 24) would leave 64 bits."""

TERM_JUMP_MAX = 1 << 20
"""A message further ahead of our term than this is absurd: with PreVote a term begins only when a
majority has lost its leader, so no group holds so many elections while a member is away. A term
is durable and never falls: one that was taken from nowhere would bring the group nearer to the
end of all terms for good."""


def is_plausible(message: Message) -> bool:
    """Whether a message contradicts itself in nothing that we rely on."""
    if message.term > TERM_MAX:
        return False
    if isinstance(message, AppendRequest):
        return not message.entries or _continues(message)
    if isinstance(message, SnapshotChunk):
        return message.meta.term <= message.term and is_whole(message.meta.config)
    return True


def is_within_reach(message: Message, term: Term) -> bool:
    """Whether a group can have come to the message's term while we were at ``term``."""
    return message.term <= term + TERM_JUMP_MAX


def _continues(request: AppendRequest) -> bool:
    """Indexes without a gap, terms that never fall, configurations that can be read."""
    index, term = request.prev_index, request.prev_term
    for entry in request.entries:
        if entry.index != index + 1 or entry.term < term:
            return False
        if entry.kind is EntryKind.CONFIG and not _has_config(entry):
            return False
        index, term = entry.index, entry.term
    return term <= request.term


def _has_config(entry: Entry) -> bool:
    try:
        return is_whole(confchange.decode(entry.payload))
    except ValueError:
        return False


def is_whole(config: GroupConfig) -> bool:
    """Whether a configuration has a voter, and nobody in two incompatible parts."""
    voters = {*config.voters, *config.voters_outgoing}
    return bool(config.voters) and not voters.intersection(config.learners)
