"""Changing a group's members: the allowed steps, and how a configuration is stored.

Raft §6 and thesis §4. A step that adds or removes one voter is safe by itself, since any
majority before shares a member with any majority after. Everything else goes through a joint
configuration, in which both majorities must agree, and out of it again.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument
from kvstore.ids import ReplicaId
from kvstore.raft.messages import GroupConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT_VERSION = 1
_HEADER = struct.Struct(">B4H")


def change(
    current: GroupConfig, voters: Iterable[ReplicaId], learners: Iterable[ReplicaId]
) -> GroupConfig:
    """The configuration to append in order to get from ``current`` to the wanted members.

    Raises:
        InvalidArgument: no voter would be left, a replica would be both, or ``current`` is
            itself in transition.
    """
    new_voters, new_learners = tuple(sorted(set(voters))), tuple(sorted(set(learners)))
    if current.voters_outgoing:
        raise InvalidArgument("a membership change is still in progress")
    if not new_voters:
        raise InvalidArgument("a group needs at least one voter")
    if set(new_voters) & set(new_learners):
        raise InvalidArgument("a replica cannot be a voter and a learner at once")
    if len(set(new_voters) ^ set(current.voters)) <= 1:
        return GroupConfig(voters=new_voters, learners=new_learners)
    demoted = set(current.voters) & set(new_learners)
    return GroupConfig(
        voters=new_voters,
        voters_outgoing=current.voters,
        learners=tuple(r for r in new_learners if r not in demoted),
        learners_next=tuple(sorted(demoted)),
    )


def leave_joint(current: GroupConfig) -> GroupConfig:
    """The configuration that ends the joint one."""
    assert current.voters_outgoing
    return GroupConfig(
        voters=current.voters,
        learners=tuple(sorted({*current.learners, *current.learners_next})),
    )


def members(config: GroupConfig) -> tuple[ReplicaId, ...]:
    """Every replica that ``config`` knows, sorted."""
    return tuple(
        sorted(
            {
                *config.voters,
                *config.voters_outgoing,
                *config.learners,
                *config.learners_next,
            }
        )
    )


def is_voter(config: GroupConfig, replica: ReplicaId) -> bool:
    """Whether ``replica`` votes, in either half of a joint configuration."""
    return replica in config.voters or replica in config.voters_outgoing


def keeps_vote(config: GroupConfig, replica: ReplicaId) -> bool:
    """Whether ``replica`` votes, and not only in one half of a joint configuration."""
    outgoing = config.voters_outgoing
    return replica in config.voters and (not outgoing or replica in outgoing)


def encode(config: GroupConfig) -> bytes:
    """Stored form: version, four counts, then the ids as u64."""
    parts = (config.voters, config.voters_outgoing, config.learners, config.learners_next)
    ids = [replica for part in parts for replica in part]
    return _HEADER.pack(FORMAT_VERSION, *map(len, parts)) + struct.pack(f">{len(ids)}Q", *ids)


def decode(data: bytes) -> GroupConfig:
    """The inverse of :func:`encode`.

    Raises:
        ValueError: not a configuration, or of a newer format.
    """
    try:
        version, *counts = _HEADER.unpack_from(data)
        ids = struct.unpack(f">{sum(counts)}Q", data[_HEADER.size :])
    except struct.error as error:
        raise ValueError(f"not a group configuration: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"group configuration of unknown format {version}")
    parts = []
    for count in counts:
        parts.append(tuple(ReplicaId(replica) for replica in ids[:count]))
        ids = ids[count:]
    return GroupConfig(*parts)
