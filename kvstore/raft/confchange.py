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

FORMAT_VERSION = 2
FORMAT_WITHOUT_EPOCH = 1
"""What older versions wrote, and what an epoch of 0 is still written as."""
_HEADER = struct.Struct(">B4H")
_EPOCH = struct.Struct(">Q")


def change(
    current: GroupConfig,
    voters: Iterable[ReplicaId],
    learners: Iterable[ReplicaId],
    epoch: int | None = None,
) -> GroupConfig:
    """The configuration to append in order to get from ``current`` to the wanted members.

    ``epoch`` is that of ``current`` unless another one is given.

    Raises:
        InvalidArgument: no voter would be left, a replica would be both, ``current`` is
            itself in transition, or the epoch would go back.
    """
    epoch = current.epoch if epoch is None else epoch
    new_voters, new_learners = tuple(sorted(set(voters))), tuple(sorted(set(learners)))
    if current.voters_outgoing:
        raise InvalidArgument("a membership change is still in progress")
    if not new_voters:
        raise InvalidArgument("a group needs at least one voter")
    if set(new_voters) & set(new_learners):
        raise InvalidArgument("a replica cannot be a voter and a learner at once")
    if epoch < current.epoch:
        raise InvalidArgument(f"epoch {epoch} is over: the group is in epoch {current.epoch}")
    if len(set(new_voters) ^ set(current.voters)) <= 1:
        return GroupConfig(voters=new_voters, learners=new_learners, epoch=epoch)
    demoted = set(current.voters) & set(new_learners)
    return GroupConfig(
        voters=new_voters,
        voters_outgoing=current.voters,
        learners=tuple(r for r in new_learners if r not in demoted),
        learners_next=tuple(sorted(demoted)),
        epoch=epoch,
    )


def leave_joint(current: GroupConfig) -> GroupConfig:
    """The configuration that ends the joint one."""
    assert current.voters_outgoing
    return GroupConfig(
        voters=current.voters,
        learners=tuple(sorted({*current.learners, *current.learners_next})),
        epoch=current.epoch,
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
    """Stored form: version, four counts, the ids as u64, then the epoch as u64 unless it is 0."""
    parts = (config.voters, config.voters_outgoing, config.learners, config.learners_next)
    ids = [replica for part in parts for replica in part]
    version = FORMAT_VERSION if config.epoch else FORMAT_WITHOUT_EPOCH
    packed = _HEADER.pack(version, *map(len, parts)) + struct.pack(f">{len(ids)}Q", *ids)
    return packed + _EPOCH.pack(config.epoch) if config.epoch else packed


def decode(data: bytes) -> GroupConfig:
    """The inverse of :func:`encode`.

    Raises:
        ValueError: not a configuration, or of a newer format.
    """
    try:
        version, *counts = _HEADER.unpack_from(data)
        if version not in (FORMAT_VERSION, FORMAT_WITHOUT_EPOCH):
            raise ValueError(f"group configuration of unknown format {version}")
        has_epoch = version == FORMAT_VERSION
        end = len(data) - _EPOCH.size if has_epoch else len(data)
        epoch = _EPOCH.unpack(data[end:])[0] if has_epoch else 0
        ids = struct.unpack(f">{sum(counts)}Q", data[_HEADER.size : end])
    except struct.error as error:
        raise ValueError(f"not a group configuration: {error}") from error
    if has_epoch and epoch == 0:
        raise ValueError("not a group configuration: an epoch of 0 is not written")
    parts = []
    for count in counts:
        parts.append(tuple(ReplicaId(replica) for replica in ids[:count]))
        ids = ids[count:]
    voters, voters_outgoing, learners, learners_next = parts
    return GroupConfig(voters, voters_outgoing, learners, learners_next, epoch)
