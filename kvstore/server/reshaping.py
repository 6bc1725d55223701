"""What the leader of a group does so that its members become those of the shard map.

The map says who should be a member (:mod:`kvstore.sharding.changes`); each leader takes the next
step towards it, each a configuration change of its own (thesis §4.2.1, §4.3):

1. who is to come becomes a learner, once it is connected: its node has made room for it;
2. it gets the log, or a snapshot and the log behind it;
3. once all who are to come have caught up, one joint change brings them in and takes out those
   who are to go. So the group never has fewer live voters than before.

Nothing is remembered from step to step, so whoever leads next goes on. The configuration's epoch
is the version of the map that it follows: a leader that knows only an older map does nothing.
Were it otherwise, one that has missed some maps could undo what they said, while the nodes that
have not missed them remove what they were told to remove.

A repaired node (:mod:`kvstore.server.rejoin`) goes these steps too, but without a change of the
map: its replica is the same there, in another life of its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvstore.ids import NO_REPLICA, LogIndex, ReplicaId, in_life, life_of
from kvstore.sharding.known import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvstore.ids import GroupId
    from kvstore.raft.messages import GroupConfig
    from kvstore.raft.ready import Status
    from kvstore.sharding.shard_map import Change, ShardMap


class Step(NamedTuple):
    """The members to propose."""

    voters: frozenset[ReplicaId]
    learners: frozenset[ReplicaId]


def wanted_members(
    shard_map: ShardMap, group: GroupId, config: GroupConfig
) -> frozenset[ReplicaId]:
    """Who should vote in ``group``, named as in the map.

    A change that was cancelled is undone, unless it was made already: then the map will follow,
    and whoever went may be gone at any moment.
    """
    members = frozenset(replica.id for replica in shard_map.members(group))
    change = shard_map.change_of(group)
    if change is None:
        return members
    comes = frozenset(() if change.add is None else (change.add.id,))
    goes = frozenset(() if change.remove is None else (change.remove.id,))
    voters = frozenset(map(_named, config.voters))
    is_made = comes <= voters and not goes & voters
    return members if change.cancelled_at and not is_made else (members | comes) - goes


def must_confirm(shard_map: ShardMap, group: GroupId) -> int:
    """The epoch that the group must reach: that of the change that is wanted, or of its end."""
    change = shard_map.change_of(group)
    return 0 if change is None else change.cancelled_at or change.begun_at


def next_step(
    config: GroupConfig,
    wanted: frozenset[ReplicaId],
    *,
    confirm: int,
    life: Callable[[ReplicaId], int | None],
    is_caught_up: Callable[[ReplicaId], bool],
    may_begin: Callable[[ReplicaId], bool],
) -> Step | None:
    """The next step for one group, if there is one to take now.

    Args:
        config: The configuration in force, of no later epoch than the map's version.
        wanted: Who should vote, named as in the map.
        confirm: The epoch that the group must reach even if nobody comes or goes.
        life: Of the data on a replica's node; None while it is not connected.
        is_caught_up: Whether a learner has nearly all of the log.
        may_begin: Whether a new learner may begin to catch up now.
    """
    if config.voters_outgoing:
        return None
    voters = {_named(voter): voter for voter in config.voters}
    learners = {_named(learner): learner for learner in config.learners}
    missing = sorted(wanted - voters.keys())
    # A learner with the name of a voter is that voter's next life: not ours to judge.
    strays = {real for name, real in learners.items() if name not in wanted | voters.keys()}
    if not missing and wanted == voters.keys():
        if strays or config.epoch < confirm:
            return Step(frozenset(config.voters), frozenset(config.learners) - strays)
        return None
    coming = {name: _as_it_lives(name, learners.get(name), life) for name in missing}
    new = {real for name, real in coming.items() if real is not None and real != learners.get(name)}
    if new:
        # One that gives way to its next life makes room for it.
        if not all(may_begin(coming[name] or name) for name in missing if name not in learners):
            return None
        outlived = {learners[name] for name in missing if coming[name] in new and name in learners}
        return Step(frozenset(config.voters), frozenset(config.learners) - outlived - strays | new)
    if any(real is None or not is_caught_up(real) for real in coming.values()):
        return None
    came = frozenset(real for real in coming.values() if real is not None)
    stay = frozenset(real for name, real in voters.items() if name in wanted)
    return Step(stay | came, frozenset(config.learners) - came - strays)


def _named(replica: ReplicaId) -> ReplicaId:
    """As the map calls it, whatever the life of its node's data."""
    return in_life(replica, 0)


def _as_it_lives(
    name: ReplicaId, learner: ReplicaId | None, life: Callable[[ReplicaId], int | None]
) -> ReplicaId | None:
    """Who is to be the learner: the one there is, unless its node has begun a later life."""
    known = life(name)
    if known is None or (learner is not None and life_of(learner) >= known):
        return learner
    return in_life(name, known)


def report_of(change: Change, status: Status) -> Report:
    """What to tell of a configuration that is committed, and that none follows in the log."""
    config = status.config
    comes = NO_REPLICA if change.add is None else change.add.id
    newcomer = next((peer for peer in status.progress if _named(peer.replica) == comes), None)
    return Report(
        change.group,
        config.epoch,
        frozenset(map(_named, config.voters)),
        frozenset(map(_named, config.voters_outgoing)),
        frozenset(map(_named, (*config.learners, *config.learners_next))),
        leader=_named(status.replica),
        matched=LogIndex(0) if newcomer is None else newcomer.match_index,
        received_bytes=0 if newcomer is None else newcomer.snapshot_bytes,
    )
