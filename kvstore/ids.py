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
"""A Raft group. 0 is the meta group; shard ``s`` is group ``s + 1``."""

ReplicaId = NewType("ReplicaId", int)
"""One shard's copy on one node; never used again once that copy is gone. At least 1.

``life u32 | stay u16 | number u16``. The *number* is the node's in the cluster, never given to
another. The *life* is that of the node's data directory: 0 for its first, then rising with each
repair. The *stay* tells how many copies had come to the shard before, by whatever node's: 0 for
those that it was founded with. So whoever knows the nodes can tell where any replica is, of
whatever life and stay.
"""

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
"""Position in a group's log; the first entry has index 1, 0 means "before the log"."""

Revision = NewType("Revision", int)
"""A hybrid-clock value (see :mod:`kvstore.hlc`), strictly rising within a shard."""

NO_REPLICA = ReplicaId(0)

META_GROUP = GroupId(0)
META_SHARD = ShardId(-1)
"""What the meta group goes by where shards are told apart; no key belongs to it."""

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

LIFE_MAX = (1 << 32) - 1
STAY_MAX = (1 << 16) - 1
NUMBER_MAX = (1 << 16) - 1


def is_node_id(text: str) -> bool:
    """Whether a node may be called so: 1 to 64 letters, digits, ``.``, ``_`` and ``-``."""
    return _NODE_ID.fullmatch(text) is not None


def replica_id(number: int, life: int, stay: int = 0) -> ReplicaId:
    """The replica of the node with this number, in this life of its data, come as this one."""
    assert 0 < number <= NUMBER_MAX
    assert 0 <= life <= LIFE_MAX
    assert 0 <= stay <= STAY_MAX
    return ReplicaId(life << 32 | stay << 16 | number)


def life_of(replica: ReplicaId) -> int:
    """The life of the data directory that ``replica`` belongs to."""
    return replica >> 32


def stay_of(replica: ReplicaId) -> int:
    """Which of the shard's copies ``replica`` is, in the order in which they came."""
    return replica >> 16 & STAY_MAX


def number_of(replica: ReplicaId) -> int:
    """The number of the node that ``replica`` is on."""
    return replica & NUMBER_MAX


def in_life(replica: ReplicaId, life: int) -> ReplicaId:
    """The same copy in another life of its node's data."""
    return replica_id(number_of(replica), life, stay_of(replica))


def group_of_shard(shard: ShardId) -> GroupId:
    """The Raft group that replicates ``shard``."""
    return GroupId(shard + 1)


def shard_of_group(group: GroupId) -> ShardId:
    """The inverse of :func:`group_of_shard`."""
    return ShardId(group - 1)
