"""A snapshot that arrives: how far it is, and what the engine has of it already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore.kv.engine import shard_range
from kvstore.raft.messages import SnapshotMeta
from kvstore.storage import snapshot_stream

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.ids import ShardId
    from kvstore.storage.replacement import Replacement

SHARD_PREFIX_BYTES = 2
"""With which every key of a shard begins; left out of the stream."""


def prefix_of(shard: ShardId) -> bytes:
    """What every key of ``shard`` begins with."""
    return shard_range(shard)[0][:SHARD_PREFIX_BYTES]


@dataclass(slots=True)
class Arriving:
    """How far a snapshot has arrived. Invariant: the file is ``size`` bytes long."""

    meta: SnapshotMeta
    preparing: Preparing | None
    """None if the engine cannot."""
    size: int = 0
    synced: int = 0
    is_complete: bool = False

    def close(self) -> None:
        """It is of no use any more."""
        if self.preparing is not None:
            self.preparing.replacement.abandon()


class Preparing:
    """Brings what arrives into the engine's own form at once, aside of what is in force there.

    Then there is little left to do in the end, and who sends has set the pace of all of it.
    """

    def __init__(self, path: Path, shard: ShardId, replacement: Replacement) -> None:
        self._path = path
        self._decoder = snapshot_stream.Decoder(str(path))
        self._prefix = prefix_of(shard)
        self.replacement = replacement

    def go_on(self, size: int, *, is_whole: bool) -> None:
        """So much of the file is there. Raises as :meth:`SnapshotStorage.stage`."""
        with self._path.open("rb") as file:
            for rows in self._decoder.blocks(file, size, is_whole=is_whole):
                self.replacement.add((self._prefix + key, value) for key, value in rows)
        if is_whole:
            self.replacement.complete()
