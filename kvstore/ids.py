"""Names for the numbers and strings that must not be mixed up.

Floor 0: everything may import this module, it imports nothing of ours.
"""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
"""A node's name in the cluster, such as ``n1``."""

ShardId = NewType("ShardId", int)
"""An arc of the ring, 0 … S-1."""

GroupId = NewType("GroupId", int)
"""A Raft group. 0 is kept for the meta group; shard ``s`` is group ``s + 1``."""

ReplicaId = NewType("ReplicaId", int)
"""One shard's copy on one node; never used again once that copy is gone. At least 1."""

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
"""Position in a group's log; the first entry has index 1, 0 means "before the log"."""

Revision = NewType("Revision", int)
"""A hybrid-clock value (see :mod:`kvstore.hlc`), strictly rising within a shard."""

NO_REPLICA = ReplicaId(0)


def group_of_shard(shard: ShardId) -> GroupId:
    """The Raft group that replicates ``shard``."""
    return GroupId(shard + 1)


def shard_of_group(group: GroupId) -> ShardId:
    """The inverse of :func:`group_of_shard`; group 0 has no shard."""
    assert group > 0
    return ShardId(group - 1)
