"""What a simulated node's identity file says, as far as the shard map goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvstore.storage import map_file
from kvstore.storage.files import write_file_atomically
from kvstore.wire.map_codec import decode_map

if TYPE_CHECKING:
    from pathlib import Path

    from sim.node import SimNode


class SimIdentity:
    """Stands for :class:`kvstore.storage.identity.Identity`."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.life = node.data_life

    @property
    def _path(self) -> Path:
        return self._node.config.data_dir / "identity"

    @property
    def has_map(self) -> bool:
        return self._path.exists()

    def note_map(self) -> None:
        if not self.has_map:
            write_file_atomically(self._node.disk, self._path, b"map")
        found = map_file.load(self._node.config.data_dir)
        assert found is not None, "it was written down just now"
        self._node.checks.maps.acted_on(self._node.id, decode_map(found))
