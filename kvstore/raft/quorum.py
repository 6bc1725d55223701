"""Majorities, alone and joint (Raft §5.2, §5.4.2; §6 for joint consensus).

The whole safety of the protocol rests on one fact: any two majorities of the same set share
a member. With a joint configuration a decision needs a majority of *both* sets.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kvstore.ids import ReplicaId
    from kvstore.raft.messages import GroupConfig

_Number = TypeVar("_Number", int, float)


class VoteResult(IntEnum):
    """What the votes so far amount to."""

    PENDING = 0
    WON = 1
    LOST = 2


def majority_value(voters: Sequence[ReplicaId], value: Callable[[ReplicaId], _Number]) -> _Number:
    """The highest number that a majority of ``voters`` has reached; ``voters`` is not empty."""
    reached = sorted(map(value, voters), reverse=True)
    return reached[len(voters) // 2]


def quorum_value(config: GroupConfig, value: Callable[[ReplicaId], _Number]) -> _Number:
    """The highest number that a quorum of ``config`` has reached.

    With ``value`` the match index this is the commit index (before the own-term rule).
    """
    reached = majority_value(config.voters, value)
    if config.voters_outgoing:
        reached = min(reached, majority_value(config.voters_outgoing, value))
    return reached


def majority_vote(voters: Sequence[ReplicaId], votes: Mapping[ReplicaId, bool]) -> VoteResult:
    """Won with a majority of yes, lost once that cannot be reached any more."""
    needed = len(voters) // 2 + 1
    granted = sum(votes.get(voter, False) for voter in voters)
    if granted >= needed:
        return VoteResult.WON
    missing = sum(voter not in votes for voter in voters)
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def quorum_vote(config: GroupConfig, votes: Mapping[ReplicaId, bool]) -> VoteResult:
    """Won when both sets have won, lost when either has lost."""
    result = majority_vote(config.voters, votes)
    if not config.voters_outgoing or result is VoteResult.LOST:
        return result
    outgoing = majority_vote(config.voters_outgoing, votes)
    if VoteResult.LOST in (result, outgoing):
        return VoteResult.LOST
    return VoteResult.WON if result is outgoing is VoteResult.WON else VoteResult.PENDING
