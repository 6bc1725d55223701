"""As which replica the engine holds a group: the *stamp* beside the group's rows.

A group may come to this node, leave it and come again, each time as another replica (see
:data:`kvstore.ids.ReplicaId`). Rows and stamp are changed in one write, so they are always of
the same replica; which one that is, is another matter. The engine has no log of its own, and
a crash takes it back to an earlier state: to the rows and the stamp of a replica that was
here before, say. So each start compares the stamp with what the shard map says, and where it
is another one the rows are void: :func:`begin`. (So are those of a snapshot that was promised
and is installed under such a stamp by the start itself.) Nothing is lost by that: an entry
leaves the log, and a snapshot is owned to, only when the engine has it *flushed*, and whatever
flushed it flushed the stamp with it.

What is done when a group comes or leaves, each step durable before the next but the last::

    comes                                  leaves
    ------------------------------------   --------------------------------------------
    the map says so                        the map says so; its replica stops
    the log: REPLICA with the new id       the log: REPLICA with 0
    ``SnapshotStorage.forget``             ``SnapshotStorage.forget``
    :func:`begin`; the replica starts      :func:`forget`

Whatever a crash leaves of that, the next start does the rest of it: for each group of the map
that the log or the engine has as another replica, and for each that the map does not have and
the log or the engine has. Of the groups that a node was founded with the log has no REPLICA
record and the engine no stamp; hence leftovers are looked for among the rows as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvstore.ids import GroupId, ReplicaId, group_of_shard, shard_of_group
from kvstore.kv.engine import (
    KEYS_END,
    behind_shard,
    group_of_stamp,
    shard_of_key,
    shard_range,
    stamp_key,
    stamps_range,
)

if TYPE_CHECKING:
    from kvstore.kv.engine import Engine

_STAMP_BYTES: Final = 8
_PAGE_ROWS: Final = 1000
_PAGE_BYTES: Final = 1 << 20


def begin(engine: Engine, group: GroupId, replica: ReplicaId) -> None:
    """The engine holds ``group`` as ``replica`` from now on, and as yet not one row of it.

    Raises:
        DiskFull: nothing was changed; it may be tried again.
    """
    batch = engine.batch()
    start, end = shard_range(shard_of_group(group))
    if engine.scan(start, end, 1, 1):  # or else a tombstone would lie on what is to come
        batch.delete_range(start, end)
    batch.put(stamp_key(group), replica.to_bytes(_STAMP_BYTES, "big"))
    engine.write(batch)


def forget(engine: Engine, group: GroupId) -> None:
    """The engine holds nothing of ``group`` any more, and it need not have.

    Raises:
        DiskFull: nothing was changed; it may be tried again.
    """
    batch = engine.batch()
    batch.delete_range(*shard_range(shard_of_group(group)))
    batch.delete(stamp_key(group))
    engine.write(batch)


def groups_held(engine: Engine) -> dict[GroupId, ReplicaId]:
    """Each group that has a stamp, and the replica that it names."""
    found: dict[GroupId, ReplicaId] = {}
    at, end = stamps_range()
    while rows := engine.scan(at, end, _PAGE_ROWS, _PAGE_BYTES):
        found |= {group_of_stamp(key): _replica_of(stamp) for key, stamp in rows}
        at = rows[-1][0] + b"\0"
    return found


def groups_with_rows(engine: Engine) -> list[GroupId]:
    """Each group of which there is a row, with a stamp or without; one look for each."""
    found: list[GroupId] = []
    at = b""
    while rows := engine.scan(at, KEYS_END, 1, 1):
        key = rows[0][0]
        shard = shard_of_key(key)
        if shard is not None:
            found.append(group_of_shard(shard))
        at = behind_shard(key)
    return sorted(found)


def _replica_of(stamp: bytes) -> ReplicaId:
    return ReplicaId(int.from_bytes(stamp, "big"))
