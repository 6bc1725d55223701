"""Names for the numbers and strings that must not be mixed up.

Floor 0: everything may import this module, it imports nothing of ours.
"""

from __future__ import annotations

import re
from typing import NewType

NodeId = NewType("NodeId", str)
"""A node's name in the cluster, such as ``n1``."""

ShardId = NewType("ShardId", int)
"""An arc of the ring, 0 … S-1."""

GroupId = NewType("GroupId", int)
"""A Raft group. 0 is kept for the meta group; shard ``s`` is group ``s + 1``."""

ReplicaId = NewType("ReplicaId", int)
"""One shard's copy on one node; never used again once that copy is gone. At least 1.

Its upper half is the *life* of the node's data directory (0 for the one that the cluster was
founded with, then rising with each repair), its lower half the node's number in the cluster.
So whoever knows the nodes can tell where any replica is, of whatever life.
"""

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
"""Position in a group's log; the first entry has index 1, 0 means "before the log"."""

Revision = NewType("Revision", int)
"""A hybrid-clock value (see :mod:`kvstore.hlc`), strictly rising within a shard."""

NO_REPLICA = ReplicaId(0)

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

LIFE_MAX = (1 << 32) - 1
_NUMBER_BITS = 32
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1


def is_node_id(text: str) -> bool:
    """Whether a node may be called so: 1 to 64 letters, digits, ``.``, ``_`` and ``-``."""
    return _NODE_ID.fullmatch(text) is not None


def replica_id(number: int, life: int) -> ReplicaId:
    """The replica of the node with this number (1 + its position) in this life of its data."""
    assert 0 < number <= _NUMBER_MASK
    assert 0 <= life <= LIFE_MAX
    return ReplicaId(life << _NUMBER_BITS | number)


def life_of(replica: ReplicaId) -> int:
    """The life of the data directory that ``replica`` belongs to."""
    return replica >> _NUMBER_BITS


def number_of(replica: ReplicaId) -> int:
    """The number of the node that ``replica`` is on: 1 + its position in the cluster."""
    return replica & _NUMBER_MASK


def group_of_shard(shard: ShardId) -> GroupId:
    """The Raft group that replicates ``shard``."""
    return GroupId(shard + 1)


def shard_of_group(group: GroupId) -> ShardId:
    """The inverse of :func:`group_of_shard`; group 0 has no shard."""
    assert group > 0
    return ShardId(group - 1)
